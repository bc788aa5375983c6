"""A chain of stages: each on or off, in batches or as a stream, with what each took."""

import threading

import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.pipeline.chain import Switch, as_run
from searchtune.pipeline.stages import Quoting
from searchtune.retrieval.fusion import fuse
from searchtune.types import Turn
from unit.pipeline.stages import CountingWords, fake_chain

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
