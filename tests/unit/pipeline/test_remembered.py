"""Work that is remembered: the same results, every distinct piece once, and across a kill."""

import pytest

from searchtune.errors import ConfigError
from searchtune.pipeline.chain import Switch
from searchtune.pipeline.remembered import WorkStore
from searchtune.storage.journal import Journal
from searchtune.types import Turn
from searchtune.workflows.attribute_grid import remembering
from unit.pipeline.stages import Decides, fake_chain
from unit.pipeline.test_chain import DOCUMENTS, IDS, TALK

TURNS = [TALK, Turn("salt"), Turn("sky"), Turn("salt")]
STAGES = ("rewrite", "retrieve", "rerank", "answer")


def settings():
    return [{name: bool(column >> place & 1) for place, name in enumerate(STAGES)} for column in range(16)]


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_results_are_those_of_the_bare_chain(tmp_path, mode):
    bare = fake_chain(IDS, DOCUMENTS, mode=mode)
    with Journal(tmp_path, {}) as journal:
        remembered = remembering(fake_chain(IDS, DOCUMENTS, mode=mode), WorkStore(journal))
        for setting in settings():
            assert remembered.ask(TURNS, stages=setting) == bare.ask(TURNS, stages=setting)


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_deciding_on_rewrites_shares_the_searches(tmp_path, mode):
    options = {"mode": mode, "abstention": Switch(Decides("sky"))}
    turns = [*TURNS, Turn("sky", TALK.history)]
    bare, chain = fake_chain(IDS, DOCUMENTS, **options), fake_chain(IDS, DOCUMENTS, **options)
    with Journal(tmp_path, {}) as journal:
        remembered = remembering(chain, WorkStore(journal))
        for setting in settings():
            assert remembered.ask(turns, stages=setting) == bare.ask(turns, stages=setting)
    for retriever in (chain.retriever.on, chain.retriever.off):
        assert set(retriever.asked.values()) == {1} and {"salt", "sky"} < set(retriever.asked)


def test_every_distinct_piece_is_done_once(tmp_path):
    chain = fake_chain(IDS, DOCUMENTS)
    with Journal(tmp_path, {}) as journal:
        store = WorkStore(journal)
        remembered = remembering(chain, store)
        for setting in settings():
            remembered.ask(TURNS, stages=setting)
    for stage in (chain.rewriter.on, chain.retriever.on, chain.retriever.off, chain.reranker.on, chain.answerer.on):
        assert stage.asked and all(count <= 1 or piece == "salt" for piece, count in stage.asked.items())
    # "salt" is said twice, with a history and without: two turns to rewrite, one text to search for
    assert chain.rewriter.on.asked["salt"] == 2 and chain.retriever.on.asked["salt"] == 1
    works = store.works
    assert works["rewrite on"].asked == 8 * 4 and works["rewrite on"].distinct == 3
    assert works["retrieve on"].asked == works["retrieve off"].asked == 8 * 4
    assert works["retrieve on"].distinct == 3  # salt, sea salt, sky
    assert works["rerank on"].distinct == len(chain.reranker.on.asked) < works["rerank on"].asked
    assert works["answer on"].distinct == len(chain.answerer.on.asked) < works["answer on"].asked
    assert works["answer on"].tokens == chain.answerer.on.tokens == 10 * works["answer on"].distinct


def test_what_a_journal_holds_is_not_done_again(tmp_path):
    with Journal(tmp_path, {"job": 1}) as journal:
        store = WorkStore(journal)
        first = [remembering(fake_chain(IDS, DOCUMENTS), store).ask(TURNS, stages=it) for it in settings()]
        took = {kind: work.seconds for kind, work in store.works.items()}
    chain = fake_chain(IDS, DOCUMENTS)
    with Journal(tmp_path, {"job": 1}) as journal:
        store = WorkStore(journal)
        again = [remembering(chain, store).ask(TURNS, stages=it) for it in settings()]
        assert all(work.done == 0 and work.kept for work in store.works.values())
        assert {kind: work.seconds for kind, work in store.works.items()} == pytest.approx(took, abs=1e-3)
    assert again == first
    assert not chain.rewriter.on.asked and not chain.retriever.on.asked and not chain.retriever.off.asked
    assert not chain.reranker.on.asked and not chain.answerer.on.asked
    with pytest.raises(ConfigError, match="job"), Journal(tmp_path, {"job": 2}):
        pass


def test_a_journal_that_was_torn_loses_only_its_last_piece(tmp_path):
    with Journal(tmp_path, {}) as journal:
        remembering(fake_chain(IDS, DOCUMENTS), WorkStore(journal)).ask(TURNS)
        path = journal.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    chain = fake_chain(IDS, DOCUMENTS)
    with Journal(tmp_path, {}) as journal:
        remembering(chain, WorkStore(journal)).ask(TURNS)
    assert sum(chain.answerer.on.asked.values()) == 1
    assert not chain.rewriter.on.asked and not chain.reranker.on.asked
