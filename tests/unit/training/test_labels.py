"""Reading labels: the loss against numpy, weights, soft targets, chunks, examples that are wrong, and that it trains."""

import numpy as np
import pytest
import torch

from searchtune.errors import ConfigError, DataError
from searchtune.specs.recipe import Optimiser
from searchtune.training.labels import LabelExamples, LabelReading, shuffled_batches
from unit.training.llm import open_llm, random_store, trained
from unit.training.tiny import assert_same

LABELS = [7, 90, 31]


def reader(folder, examples, **options):
    model, adapter = open_llm(folder)
    settings = {"batch_size": 6, "tokens_per_chunk": 64, "seed": 3, **options}
    return LabelReading(model, examples, **settings), adapter


def some(count=20, *, weights=False, seed=0) -> LabelExamples:
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.ones(3), size=count).astype(np.float32)
    given = rng.uniform(0.2, 3, size=count).astype(np.float32) if weights else None
    return LabelExamples(random_store(count, seed=seed), LABELS, targets, given)


@pytest.mark.parametrize("weights", [False, True])
def test_the_loss_is_the_restricted_cross_entropy(tiny_llm, weights):
    examples = some(weights=weights)
    objective, _ = reader(tiny_llm, examples)
    batch = np.array([3, 11, 0, 19])
    scale = np.ones(20) if examples.weights is None else examples.weights / examples.weights.mean()
    expected = 0.0
    for i in batch:
        ids = examples.prompts.ids[examples.prompts.offsets[i] : examples.prompts.offsets[i + 1]]
        with torch.no_grad():
            logits = objective.trainable.backbone(torch.from_numpy(ids)[None]).logits[0, -1].double().numpy()[LABELS]
        log_shares = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        expected -= scale[i] * float(examples.targets[i].astype(np.float64) @ log_shares)
    assert objective.loss(batch).item() == pytest.approx(expected / 4, rel=1e-5)


def test_chunks_and_recomputing_change_no_gradient(tiny_llm):
    found = []
    for options in ({"tokens_per_chunk": 10_000}, {"tokens_per_chunk": 1, "recompute": True}, {"tokens_per_chunk": 50}):
        objective, adapter = reader(tiny_llm, some(weights=True), **options)
        objective.loss(np.arange(12)).backward()
        found.append({name: p.grad for name, p in adapter.parameters.items()})
    assert_same(found[1], found[0], 1e-4)
    assert_same(found[2], found[0], 1e-4)


def test_an_epoch_holds_every_example_once_and_is_drawn_anew(tiny_llm):
    objective, _ = reader(tiny_llm, some())
    epochs = [np.concatenate(list(objective.batches(epoch))) for epoch in (0, 1, 0)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert np.array_equal(epochs[0], epochs[2]) and not np.array_equal(epochs[0], epochs[1])
    assert objective.steps_per_epoch() == len(list(objective.batches(0))) == 4


def test_a_last_batch_has_an_example_for_each_process(monkeypatch):
    monkeypatch.setattr("searchtune.training.labels.processes", lambda: 3)
    sizes = [len(batch) for batch in shuffled_batches(10, 3, (1,))]
    assert sizes == [3, 3, 3, 3]
    assert set(np.concatenate(list(shuffled_batches(10, 3, (1,))))) == set(range(10))
    with pytest.raises(ConfigError, match="batch_size is 2, but 3 processes"):
        LabelReading(None, some(), batch_size=2, tokens_per_chunk=9, seed=1)


def test_it_learns_and_resumes_in_the_same_bits(tiny_llm, tmp_path):
    store = random_store(24, seed=5)
    first = store.ids[store.offsets[:-1]]
    targets = np.eye(3, dtype=np.float32)[first % 3]
    optim = Optimiser(lr=0.02, epochs=4, min_steps=0, batch_size=6, checkpoint_every=5)
    runs = [
        trained(lambda: reader(tiny_llm, LabelExamples(store, LABELS, targets)), optim, tmp_path / str(stop), stop)
        for stop in (None, 12)
    ]
    log, state = runs[0]
    assert log.steps[-1].loss < 0.5 * log.steps[0].loss
    assert all(torch.equal(state[name], runs[1][1][name]) for name in state)


@pytest.mark.parametrize("change, message", [
    (lambda t, w: (t[:, :2], w), r"targets of shape \(4, 2\) for 4 prompts and 3 labels"),
    (lambda t, w: (t * [[1], [1], [2], [1]], w), r"example 2: its target .* is no distribution"),
    (lambda t, w: (t + np.outer([0, 1, 0, 0], [2, -2, 0]), w), "example 1: its target"),
    (lambda t, w: (np.where([[0], [0], [0], [1]], np.nan, t), w), "example 3: its target"),
    (lambda t, w: (t, w * [1, 0, 1, 1]), "example 1: weight 0.0 is not above 0"),
    (lambda t, w: (t, w * [1, 1, np.nan, 1]), "example 2: weight nan"),
    (lambda t, w: (t, w[:3]), r"weights of shape \(3,\) for 4 prompts"),
])  # fmt: skip
def test_examples_that_are_wrong(change, message):
    targets, weights = change(np.full((4, 3), 1 / 3), np.ones(4))
    with pytest.raises(DataError, match=message):
        LabelExamples(random_store(4), LABELS, targets, weights)


def test_labels_that_repeat_and_prompts_that_are_empty():
    uniform = np.full((4, 2), 0.5, dtype=np.float32)
    with pytest.raises(DataError, match="label tokens"):
        LabelExamples(random_store(4), [5, 5], uniform)
    with pytest.raises(DataError, match="example 0: its prompt has no tokens"):
        LabelExamples(random_store(4, shortest=0), [5, 6], uniform)
