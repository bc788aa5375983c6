"""Specs of rewriting by reward: defaults that hold together, and what is refused."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.base import parse_spec
from searchtune.specs.reward import AbstentionSpec, RetrievalReward


def test_defaults_reward_from_train_alone():
    reward = parse_spec(RetrievalReward, {"task": "pystdlib"}, "test")
    assert (reward.split, reward.retrievers, reward.metric, reward.mode) == ("train", ["bm25"], "ndcg@10", "append")
    assert AbstentionSpec().features is None


@pytest.mark.parametrize(("change", "message"), [
    ({"split": "test"}, "split: input should be 'train'"),
    ({"retrievers": []}, "retrievers: list should have at least 1 item"),
    ({"samples": 0, "keep_original": False}, "nothing to compare a rewrite with"),
    ({"min_margin": 0}, "min_margin: input should be greater than 0"),
    ({"mode": "prepend"}, "mode: input should be 'replace', 'append' or 'fuse'"),
    ({"preference": {"label_smoothing": 0.5}}, "label_smoothing: input should be less than 0.5"),
])  # fmt: skip
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_spec(RetrievalReward, {"task": "t", **change}, "test")


def test_documents_alone_are_enough_to_compare():
    assert RetrievalReward(task="t", samples=0, keep_original=False, from_documents=True).from_documents
    with pytest.raises(ConfigError, match="certainty"):
        parse_spec(AbstentionSpec, {"certainty": 0.4}, "test")
