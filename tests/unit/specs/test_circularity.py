"""A judge does not judge itself."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.circularity import ModelFacts, refuse_circular

JUDGE = ModelFacts("judge", "b" * 64, "a" * 64)


@pytest.mark.parametrize(
    "judge", [JUDGE, ModelFacts("base", "b" * 64), ModelFacts("gpt-4o", "https://api.example/gpt-4o")]
)
def test_the_same_model_under_another_name_is_refused_unless_allowed(judge):
    twin = ModelFacts("other name", judge.base_sha256, judge.adapter_sha256)
    used = {"retriever": [ModelFacts("x", "c" * 64)], "reranker": [ModelFacts("y", "d" * 64), twin]}
    with pytest.raises(
        ConfigError, match=rf"the judge '{judge.name}' is also the reranker 'other name'.*or allow it explicitly"
    ):
        refuse_circular(judge, used)
    assert len(refuse_circular(judge, used, allow=True)) == 1


def test_a_shared_base_is_told_and_strangers_are_not():
    others = [
        ModelFacts("plain", "b" * 64),
        ModelFacts("kin", "b" * 64, "c" * 64),
        ModelFacts("stranger", "c" * 64, "a" * 64),
    ]
    told = refuse_circular(JUDGE, {"teacher": others})
    assert ["plain" in told[0], "kin" in told[1], len(told)] == [True, True, 2]
    assert refuse_circular(JUDGE, {}) == ()
