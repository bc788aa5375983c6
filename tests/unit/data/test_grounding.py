"""Gold among distractors, and answers that cite them."""

from collections import Counter

import pytest

from searchtune.data.answering import AnswerExample
from searchtune.data.grounding import cited, drops_gold, markdown, mixed, pool, sentences
from searchtune.errors import ConfigError

ONE = AnswerExample("q", "why", ("gold text", "own text"), (0,), ("It is.",), ("g", "o"))
OTHERS = [("x1", "first other"), ("x2", "second other"), ("x3", "third other"), ("o2", "own text")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("One", ["One"]),
        ("It is 3.5 m. It grew! Did it?", ["It is 3.5 m.", "It grew!", "Did it?"]),
        ("Dr. No met J. Bond. He left.", ["Dr. No met J. Bond.", "He left."]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("Is it? no. But 4 of 5 are.", ["Is it? no.", "But 4 of 5 are."]),
        ("see e.g. Smith et al. Then stop.", ["see e.g. Smith et al.", "Then stop."]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_each_sentence_cites_the_passage_it_is_taken_from():
    passages = ["bread is baked of dough", "tides rise by the moon", "about dough and tides and the moon"]
    text = "Tides rise by the moon. Bread is baked."
    assert cited(text, passages, [0, 1]) == "Tides rise by the moon [2]. Bread is baked [1]."
    assert cited(text, passages, [2]) == "Tides rise by the moon [3]. Bread is baked [3]."
    assert cited(text, passages, []) == text
    assert cited("No mark", passages, [0]) == "No mark [1]"
    chosen = cited("The moon does it.", ["the moon, the moon does it", "a sentence of the moon"], [0, 1],
                   ["a sentence of the moon"])  # fmt: skip
    assert chosen == "The moon does it [2].", "what people selected decides"


def test_a_mix_keeps_gold_and_says_where_it_is():
    places, sizes = Counter(), Counter()
    for seed in range(60):
        one = mixed(ONE, OTHERS, distractors=2, drop_gold=False, seed=(seed,))
        (place,) = one.gold
        assert one.passages[place] == "gold text" and one.passage_ids[place] == "g"
        assert len(set(one.passages)) == len(one.passages) and "own text" in one.passages
        assert {"third other"}.isdisjoint(one.passages), "the first ones are taken"
        places[place] += 1
        sizes[len(one.passages)] += 1
    assert set(sizes) == {2, 3, 4} and set(places) == {0, 1, 2, 3}
    again = [mixed(ONE, OTHERS, distractors=2, drop_gold=False, seed=(5, 6)) for _ in range(2)]
    assert again[0] == again[1]


def test_gold_left_out_makes_it_unanswerable():
    one = mixed(ONE, OTHERS, distractors=0, drop_gold=True, seed=(1,))
    assert not one.answerable and set(one.passages) == {"own text", "first other"}
    alone = mixed(ONE, [], distractors=3, drop_gold=True, seed=(1,))
    assert alone.passages == ("own text",) and alone.gold == ()
    with pytest.raises(ConfigError, match="-1 distractors"):
        mixed(ONE, OTHERS, distractors=-1, drop_gold=False, seed=(1,))


def test_pool_and_which_lose_their_gold():
    twice = [ONE, AnswerExample("r", "how", ("own text", ""), (), ())]
    assert pool(twice) == [("g", "gold text"), ("o", "own text")]
    many = [AnswerExample(f"q{i}", "why", ("p",), (0,) if i % 2 else (), ("r",)) for i in range(40)]
    lost = drops_gold(many, 0.25, seed=(1, 0))
    assert sum(lost.values()) == 5 and all(int(name[1:]) % 2 for name, gone in lost.items() if gone)
    assert lost != drops_gold(many, 0.25, seed=(1, 1)) and not any(drops_gold(many, 0.0, seed=(1,)).values())


def test_markdown():
    assert markdown("One [1].") == "One [1]."
    assert markdown("One [1]. Two [2].") == "- One [1].\n- Two [2]."
