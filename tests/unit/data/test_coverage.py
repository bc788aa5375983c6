"""How far passages cover a question."""

import numpy as np
import pytest

from searchtune.data.coverage import FEATURES, coverage, coverages


def test_by_hand():
    found = coverage("What is the tallest tower?", ["Towers\nThe tallest one. A tower stands."])
    assert found.tolist() == pytest.approx([1.0, 7 / 12, np.log1p(7)]), "tallest counts 7 letters, tower 5"
    apart = coverage("tallest tower", ["The tallest one . a tower stands ."])
    assert apart[:2].tolist() == pytest.approx([1.0, 7 / 12]), "marks that stand apart end sentences too"


def test_endings_and_common_words_do_not_count():
    assert coverage("who was jumping", ["They jumped."])[0] == 1.0
    assert coverage("who was jumping", ["Who was he?"])[0] == 0.0
    assert coverage("who is it", ["It is who?"])[0] == 1.0, "where nothing else is asked, they do"


def test_a_title_is_no_sentence():
    found = coverage("tower bridge", ["Tower bridge\nIt stands."])
    assert found[0] == 1.0 and found[1] == 0.0
    assert coverage("tower bridge", ["Tower bridge"])[1] == 1.0


def test_the_best_passage_counts():
    both = coverage("tower bridge", ["nothing at all here", "the tower bridge", ""])
    assert both.tolist() == coverage("tower bridge", ["the tower bridge"]).tolist()


def test_nothing():
    assert coverage("tower", []).tolist() == [0.0] * len(FEATURES)
    assert coverage("", ["text"])[0] == 0.0 and coverage("?!", [""]).tolist() == [0.0, 0.0, 0.0]
    assert coverages([], []).shape == (0, 3)
    assert coverages(["a b", "tower"], [[], ["tower"]]).shape == (2, 3)
