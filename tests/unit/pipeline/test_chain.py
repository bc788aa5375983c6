"""A chain of stages: each on or off, in batches or as a stream, with what each took."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.pipeline.chain import Switch, as_run
from searchtune.pipeline.stages import Quoting
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.gain_rule import GainRule
from searchtune.types import Turn
from unit.pipeline.stages import CountingWords, Decides, Says, fake_chain
from unit.workflows.rewriting import predictor

IDS = ["a", "b", "c", "d", "e"]
DOCUMENTS = [
    "sea salt",
    "sea wave and sea tide over the reef",
    "garden salt",
    "blue sky",
    "salt on the table of a house",
]
TALK = Turn("salt", (("user", "where is it from"),))


@pytest.fixture
def chain():
    return fake_chain(IDS, DOCUMENTS)


def test_every_stage_has_its_turn(chain):
    (found,) = chain.ask([TALK])
    assert found.query == "sea salt"
    assert found.hits[0].id == "b"  # the longest of those that BM25 found
    assert found.answer.citations == (2,) and found.cited == (found.hits[1].id,)
    assert [one.grade for one in found.grades] == [1, 1]
    assert found.stages == dict.fromkeys(("rewrite", "retrieve", "rerank", "answer", "judge"), True)


def test_off_is_what_stands_in(chain):
    off = dict.fromkeys(("rewrite", "retrieve", "rerank", "answer", "judge"), False)
    (found,) = chain.ask([TALK], stages=off)
    assert found.query == "salt" and found.grades is None
    worst_first = chain.retriever.off.retrieve(["salt"], 12).docs[0].tolist()
    assert [hit.document for hit in found.hits] == [doc for doc in worst_first if doc >= 0]
    assert found.answer.text.endswith("[1]") and found.cited == (found.hits[0].id,)
    assert chain.ask([TALK], stages={"rerank": False})[0].hits[0].id == "a"


def test_a_stream_gives_what_a_batch_gives(chain):
    turns = [Turn(text) for text in ("salt", "sky", "sea", "reef", "garden")] + [TALK]
    whole = chain.ask(turns)
    assert list(chain.stream(iter(turns), batch=2)) == whole
    assert [chain.ask([turn])[0] for turn in turns] == whole


@pytest.mark.parametrize("mode", ["append", "fuse"])
def test_modes_of_rewriting(mode):
    chain = fake_chain(IDS, DOCUMENTS, mode=mode, reranker=None)
    found, plain = chain.ask([TALK, Turn("salt")])
    if mode == "append":
        assert found.query == "salt sea salt"
    else:
        words = CountingWords(DOCUMENTS)
        fused = fuse([words.retrieve(["salt"], 12), words.retrieve(["sea salt"], 12)], depth=12)
        assert [hit.document for hit in found.hits] == [doc for doc in fused.docs[0].tolist() if doc >= 0]
    assert plain.query == "salt"
    assert plain.hits == fake_chain(IDS, DOCUMENTS, reranker=None).ask([Turn("salt")])[0].hits


def said(text):
    return Turn(text, (("user", "before"),))


BATCH = [TALK, Turn("salt"), said("sky"), said("reef")]


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_rewrites_that_are_not_used_leave_everything_as_if_nobody_rewrote(mode):
    plain = fake_chain(IDS, DOCUMENTS, mode=mode).ask(BATCH, stages={"rewrite": False})
    for rule in (Decides(use="never"), Decides()):
        chain = fake_chain(IDS, DOCUMENTS, mode=mode, abstention=Switch(rule))
        found = chain.ask(BATCH)
        for one, other in zip(found, plain, strict=True):
            assert (one.query, one.hits, one.answer, one.grades) == (
                other.query,
                other.hits,
                other.answer,
                other.grades,
            )
        assert [one.rewrite.used for one in found] == [False] * 4 and plain[0].rewrite is None
    assert found[0].rewrite.text == "sea salt" and rule.asked[0] == ("salt", "sea salt")
    assert found[0].to_json()["rewrite"] == {"text": "sea salt", "used": False} and "rewrite" not in plain[0].to_json()
    never = fake_chain(IDS, DOCUMENTS, abstention=Switch(Decides(use="never")))
    assert never.ask([TALK])[0].rewrite == ("salt", False)
    assert not never.rewriter.on.asked and "rewrite" not in never.costs
    assert never.retriever.on.asked == {"salt": 1}


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_rewrites_that_are_all_used_give_what_no_rule_gives(mode):
    whole = fake_chain(IDS, DOCUMENTS, mode=mode).ask(BATCH)
    for rule in (Decides(use="always"), Decides("salt", "sky", "reef")):
        chain = fake_chain(IDS, DOCUMENTS, mode=mode, abstention=Switch(rule))
        assert chain.ask(BATCH) == whole
    assert [one.rewrite.used for one in whole] == [True, False, True, True]
    always = fake_chain(IDS, DOCUMENTS, abstention=Switch(Decides(use="always")))
    always.ask([TALK])
    assert always.retriever.on.asked == {"sea salt": 1}


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_some_rewrites_of_a_batch_are_used(mode):
    chain = fake_chain(IDS, DOCUMENTS, mode=mode, abstention=Switch(Decides("sky")))
    found = chain.ask(BATCH)
    bare = fake_chain(IDS, DOCUMENTS, mode=mode)
    whole, plain = bare.ask(BATCH), bare.ask(BATCH, stages={"rewrite": False})
    assert [one.rewrite.used for one in found] == [False, False, True, False]
    for place, one in enumerate(found):
        other = (whole if one.rewrite.used else plain)[place]
        assert (one.query, one.hits, one.answer) == (other.query, other.hits, other.answer)
    assert [one for turn in BATCH for one in chain.ask([turn])] == found == list(chain.stream(BATCH, batch=3))
    chain.abstention.on.asked.clear()
    chain.ask([Turn("salt")])
    assert not chain.abstention.on.asked, "where nothing is rewritten, nothing is decided"


def test_a_rule_of_gains_decides_from_both_rankings():
    longer = GainRule.over(predictor(feature="rewrite_words", above=np.log1p(1.5)), DOCUMENTS)
    chain = fake_chain(IDS, DOCUMENTS, rewriter=Switch(Says({"salt": "sea salt", "sky": "reef"})))
    chain = replace(chain, abstention=Switch(longer))
    assert [one.rewrite.used for one in chain.ask(BATCH)] == [True, True, False, False]
    better = GainRule.over(predictor(feature="score_rise"), DOCUMENTS)
    chain = replace(chain, abstention=Switch(better), rewriter=Switch(Says({"salt": "zebra", "sky": "reef tide wave"})))
    assert [one.rewrite.used for one in chain.ask(BATCH)] == [False, False, True, False]
    assert GainRule.over(predictor("always"), DOCUMENTS).decide(["a b"], ["A b!"], None, None).tolist() == [False]


def test_a_rule_belongs_to_a_setting_of_the_retriever():
    chain = fake_chain(IDS, DOCUMENTS, abstention=Switch(Decides(use="never")))
    assert not chain.ask([TALK])[0].rewrite.used
    assert chain.ask([TALK], stages={"retrieve": False})[0].rewrite.used


def test_a_question_without_history_is_answered_as_it_was_put(chain):
    chain.ask([Turn("salt"), TALK])
    assert {question for question, _ in chain.answerer.on.asked} == {"salt", "sea salt"}


def test_stages_are_timed_and_their_tokens_counted(chain):
    chain.ask([TALK, Turn("sky")])
    chain.ask([TALK], stages={"rewrite": False})
    assert chain.costs["rewrite"].queries == 2 and chain.costs["retrieve"].queries == 3
    assert chain.costs["answer"].tokens == 30 and chain.costs["retrieve"].tokens == 0
    assert chain.costs["answer"].milliseconds_per_query > 0


def test_stages_that_are_not_there(chain):
    bare = fake_chain(IDS, DOCUMENTS, rewriter=None, reranker=None, answerer=None, judge=None)
    (found,) = bare.ask([TALK])
    assert found.answer is None and found.grades is None and list(found.stages) == ["retrieve"]
    with pytest.raises(ConfigError, match="no stage 'rerank' in this pipeline"):
        bare.ask([TALK], stages={"rerank": False})
    with pytest.raises(ConfigError, match="did you mean 'rewrite'"):
        chain.ask([TALK], stages={"rewriter": False})
    with pytest.raises(ConfigError, match="say true or false"):
        chain.ask([TALK], stages={"rewrite": 0})


def test_what_cannot_be_asked(chain):
    assert chain.ask([]) == []
    with pytest.raises(DataError, match="query 2 of 2 is empty"):
        chain.ask([TALK, Turn(" ")])
    for top in (0, 13):
        with pytest.raises(ConfigError, match=f"top {top}"):
            chain.ask([TALK], top=top)


def test_nothing_found_is_no_failure(chain):
    (found,) = chain.ask([Turn("zebra")])
    assert found.answer is not None and found.hits is not None
    (quoted,) = Quoting().answer(["x"], [[]])
    assert quoted.abstained and quoted.citations == ()


def test_results_are_plain_values(chain):
    plain = chain.ask([TALK])[0].to_json()
    assert plain["answer"]["documents"] == [plain["hits"][1]["id"]]
    assert [hit.get("grade") for hit in plain["hits"][:3]] == [1, 1, None]


def test_default_settings_and_a_run_of_outcomes():
    chain = fake_chain(IDS, DOCUMENTS, reranker=None, judge=None, rewriter=Switch(None, None, default=False))
    found = chain.ask([TALK, Turn("sky")], top=2)
    assert found[0].stages["rewrite"] is False
    run = as_run(found, [3, 8])
    assert run.queries.tolist() == [3, 8]
    assert run.docs[0].tolist() == [hit.document for hit in found[0].hits]
    assert (run.scores[:, 0] >= run.scores[:, -1]).all()


def test_threads_take_turns(chain):
    expected = chain.ask([TALK])
    wrong = []

    def ask():
        for _ in range(10):
            if chain.ask([TALK]) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
