"""The rewriting stage over a backend that is only a table."""

import pytest

from searchtune.errors import ConfigError
from searchtune.models.backends import Reply
from searchtune.pipeline.rewriting import LlmRewriter
from searchtune.prompts.rewrite import RewritePrompt
from searchtune.types import Turn


class Table:
    """Answers by the last line of the prompt; keeps how it was asked."""

    identity = {"what": "table"}

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def complete(self, conversations, sampling):
        self.asked.append(sampling)
        for place, conversation in enumerate(conversations):
            said = conversation[-1].content.rpartition("Rewrite: ")[2]
            for sample in range(sampling.samples):
                replies = self.answers[said]
                text = replies[(sample + (sampling.temperature > 0)) % len(replies)]
                reason = "no answer" if text is None else None
                yield Reply(place, sample, text, reason, "stop", 0 if sample else 9, 3, 0.5)


def test_replies_become_queries_in_order():
    backend = Table({"a": ["Rewrite: alpha\nmore"], "b": [""], "c": [None]})
    stage = LlmRewriter(backend, RewritePrompt(), max_new_tokens=7)
    assert stage.rewrite([Turn("b"), Turn("a"), Turn("c")]) == ["b", "alpha", "c"]
    assert (backend.asked[0].max_new_tokens, backend.asked[0].temperature, backend.asked[0].stop) == (7, 0.0, ("\n",))
    assert stage.rewrite([]) == []


def test_what_a_rewrite_took_and_why_there_is_none():
    found = list(LlmRewriter(Table({"a": ["x"], "c": [None]}), RewritePrompt()).stream([Turn("c"), Turn("a")]))
    assert [(one.turn, one.query, one.reason, one.tokens) for one in found] == [
        (0, "c", "no answer", 12),
        (1, "x", None, 12),
    ]
    assert found[0].seconds == 0.5


def test_a_model_that_is_told_much_may_begin_with_a_line_of_its_own():
    backend = Table({"a": ["Here is the rewritten question:\n\nalpha"]})
    assert LlmRewriter(backend, RewritePrompt("full")).rewrite([Turn("a")]) == ["alpha"]
    assert backend.asked[0].stop == ()


def test_candidates_are_distinct_the_likeliest_first():
    backend = Table({"a": ["one", "two", "one", None, "three"], "b": ["b"]})
    stage = LlmRewriter(backend, RewritePrompt())
    assert stage.candidates([Turn("a"), Turn("b")], samples=5, temperature=0.9, seed=4) == [
        ["one", "two", "three"],
        ["b"],
    ]
    drawing = backend.asked[1]
    assert (drawing.samples, drawing.temperature, drawing.seed) == (5, 0.9, 4)
    with pytest.raises(ConfigError, match="set a temperature"):
        stage.candidates([Turn("a")], samples=2, temperature=0, seed=4)
