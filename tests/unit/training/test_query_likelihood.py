"""Judging by likelihood: the loss against numpy, chunks, examples that are wrong, and that training parts the grades."""

import numpy as np
import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.metrics.query_likelihood import grade_shares, told_shares
from searchtune.models.chat import CompletionStore
from searchtune.specs.recipe import Optimiser
from searchtune.training.query_likelihood import LikelihoodExamples, QueryLikelihood
from unit.training.llm import gradients, open_llm, random_completions, trained, whole_logprobs
from unit.training.tiny import assert_same

PAIRS, QUERIES = 14, 4


def some(seed=0, **changes) -> LikelihoodExamples:
    """Pairs of four queries, and these four after no passage."""
    rng = np.random.default_rng(seed)
    fields = {
        "store": random_completions(PAIRS + QUERIES, seed=seed),
        "queries": rng.integers(0, QUERIES, size=PAIRS),
        "grades": np.arange(PAIRS) % 4,
        "grade_count": 4,
        "min_grade": 2,
    }
    return LikelihoodExamples(**{**fields, **changes})


def objective(folder, examples, **options):
    model, adapter = open_llm(folder)
    settings = {"batch_size": 6, "tokens_per_chunk": 64, "seed": 3, **options}
    return QueryLikelihood(model, examples, **settings), adapter


def test_the_loss_is_the_cross_entropy_of_reaching_each_grade(tiny_llm):
    examples = some()
    asked, _ = objective(tiny_llm, examples)
    likely = np.array([tokens.sum() for tokens in whole_logprobs(asked.trainable.model, examples.store)])
    batch = np.array([3, 11, 0, 13])
    told = told_shares(likely[batch], likely[PAIRS + examples.queries[batch]])
    rows = grade_shares(told, 4, 2)
    expected = 0.0
    for row, grade in zip(rows, examples.grades[batch], strict=True):
        for step in (1, 2, 3):
            reached = row[step:].sum()
            expected -= np.log(reached if grade >= step else 1 - reached)
    assert np.isclose(asked.loss(batch).item(), expected / len(batch), rtol=1e-3)
    assert np.allclose(asked.told(batch).detach().numpy(), told, atol=1e-4)


def test_chunks_and_recomputing_change_nothing(tiny_llm):
    whole, adapter = objective(tiny_llm, some(), tokens_per_chunk=10_000)
    parts, other = objective(tiny_llm, some(), tokens_per_chunk=30, recompute=True)
    batch = np.arange(PAIRS)
    assert np.isclose(whole.loss(batch).item(), parts.loss(batch).item(), rtol=1e-5)
    assert_same(gradients(whole, adapter, batch), gradients(parts, other, batch), 1e-3)


def test_training_parts_the_grades(tiny_llm, tmp_path):
    asked, adapter = objective(tiny_llm, some())
    before = asked.loss(np.arange(PAIRS)).item()
    trained(lambda: (asked, adapter), Optimiser(lr=1e-2, epochs=30, batch_size=6), tmp_path)
    after = asked.told(np.arange(PAIRS)).detach().numpy()
    assert asked.loss(np.arange(PAIRS)).item() < before * 0.7
    high = some().grades >= 2
    assert after[high].mean() > after[~high].mean() + 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": np.full(PAIRS, QUERIES)}, "14 pairs of 14 queries, and 4 queries without a passage"),
        ({"queries": np.zeros(3, dtype=np.int64)}, "14 pairs of 3 queries"),
        ({"grades": np.full(PAIRS, 4)}, "grades from 4 to 4 on a scale of 4"),
    ],
)
def test_examples_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(DataError, match=words):
        some(**changes)


def test_an_empty_query_is_refused():
    store = random_completions(PAIRS + QUERIES)
    prompts = store.prompts.copy()
    prompts[2] = store.tokens.lengths[2]
    with pytest.raises(DataError, match="example 2: its completion has no tokens"):
        some(store=CompletionStore(store.tokens, prompts))


def test_a_batch_smaller_than_the_processes_is_refused(tiny_llm, monkeypatch):
    monkeypatch.setattr("searchtune.training.labels.processes", lambda: 8)
    with pytest.raises(ConfigError, match="8 processes need an example each"):
        objective(tiny_llm, some())
