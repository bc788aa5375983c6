"""Suites: which ones are refused, and with which words."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.base import parse_spec
from searchtune.specs.suite import SuiteSpec

SYSTEMS = {
    "words": {"kind": "bm25"},
    "vectors": {"kind": "dense", "model": "m"},
    "both": {"kind": "fusion", "of": ["words", "vectors"]},
}


def suite(**changes):
    return parse_spec(SuiteSpec, {"name": "s", "tasks": ["t"], "systems": SYSTEMS, **changes}, "s.yaml")


def test_what_is_compared_by_default():
    assert (suite().baseline, suite().candidates) == ("words", ["vectors", "both"])
    chosen = suite(reference="vectors", compare=["both"])
    assert (chosen.baseline, chosen.candidates) == ("vectors", ["both"])
    assert SuiteSpec.model_validate_json(chosen.model_dump_json()) == chosen


def test_any_metric_may_be_the_headline():
    assert suite().headline == "ndcg@10"
    assert suite(metrics=["map", "recall@100"], headline="recall@100").headline == "recall@100"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "word"}, "reference names 'word', but the systems are words, vectors, both"),
        ({"compare": ["other"]}, "compare names 'other'"),
        ({"compare": ["words"]}, "compare names 'words', which is the reference itself"),
        ({"metrics": ["recall@100"]}, "headline 'ndcg@10', which the report is about, is not among the metrics"),
        ({"headline": "map"}, "headline 'map'"),
        ({"systems": {"a": {**SYSTEMS["vectors"], "precision": "fp16"}}}, "systems.a"),
        ({"tasks": []}, "tasks"),
        ({"systems": {}}, "systems"),
        ({"systems": {"a b": {"kind": "bm25"}}}, "systems"),
        ({"systems": {"a": {"kind": "bm52"}}}, "systems.a"),
        ({"systems": {"a": {"kind": "dense"}}}, "model"),
        ({"systems": {"both": SYSTEMS["both"], **SYSTEMS}}, "which is not among the systems before it"),
        ({"systems": {**SYSTEMS, "all": {**SYSTEMS["both"], "weights": [1]}}}, "fuses 2 systems with 1 weights"),
        ({"system": {}}, "unknown key 'system'; did you mean 'systems'?"),
    ],
)
def test_suites_that_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        suite(**changes)
    assert message in str(caught.value)
