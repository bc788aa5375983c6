"""Direct preference optimisation against a plain computation, the reference without the adapter, and that it trains."""

import numpy as np
import pytest
import torch

from searchtune.errors import DataError
from searchtune.models.adapters import without_adapter
from searchtune.models.chat import ExampleStore
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import load_causal_lm
from searchtune.specs.recipe import Optimiser
from searchtune.training.preference import (
    PairPreference,
    PreferenceOptions,
    preference_loss,
    reference_logprobs,
)
from unit.training.llm import CPU, gradients, open_llm, random_pairs, trained, whole_logprobs
from unit.training.tiny import assert_same


def preferring(folder, pairs, options=None, **settings):
    model, adapter = open_llm(folder)
    reference = reference_logprobs(model, adapter, pairs)
    settings = {"batch_size": 4, "tokens_per_chunk": 60, "seed": 3, **settings}
    return PairPreference(model, pairs, reference, options or PreferenceOptions(), **settings), adapter


@pytest.mark.parametrize("options", [
    PreferenceOptions(), PreferenceOptions(beta=0.5, label_smoothing=0.2), PreferenceOptions(sft_weight=0.7),
])  # fmt: skip
def test_the_loss_is_the_papers(tiny_llm, options):
    pairs, batch = random_pairs(9), np.array([7, 0, 4])
    objective, adapter = preferring(tiny_llm, pairs, options)
    model = objective.trainable.model
    plain = load_causal_lm(tiny_llm, dtype=torch.float32, device=CPU, attention="eager")
    sums = {
        (name, side): np.array([tokens.sum() for tokens in whole_logprobs(one, getattr(pairs, side))])
        for name, one in (("policy", model), ("reference", plain))
        for side in ("chosen", "rejected")
    }
    losses = []
    for i in batch:
        gain, lost = (sums["policy", s][i] - sums["reference", s][i] for s in ("chosen", "rejected"))
        margin = options.beta * (gain - lost)
        loss = (1 - options.label_smoothing) * np.log1p(np.exp(-margin)) + options.label_smoothing * np.log1p(
            np.exp(margin)
        )
        tokens = (pairs.chosen.tokens.lengths - pairs.chosen.prompts)[i]
        losses.append(loss - options.sft_weight * sums["policy", "chosen"][i] / tokens)
    assert objective.loss(batch).item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.abs(sums["policy", "chosen"] - sums["reference", "chosen"]).max() > 0.1
    found = [gradients(objective, adapter, batch)]
    other, adapter = preferring(tiny_llm, pairs, options, tokens_per_chunk=10_000)
    assert_same(found[0], gradients(other, adapter, batch), 1e-4)


def test_without_its_adapter_the_model_is_the_base_and_trains_on_as_before(tiny_llm):
    pairs = random_pairs(6)
    model, adapter = open_llm(tiny_llm)
    frozen = next(name for name in adapter.parameters if "lora_A" in name)
    adapter.parameters[frozen].requires_grad_(False)
    reader = CompletionReader(model)
    before = reader.read_store(pairs.chosen)
    plain = CompletionReader(load_causal_lm(tiny_llm, dtype=torch.float32, device=CPU))
    with without_adapter(adapter):
        assert np.abs(reader.read_store(pairs.chosen) - plain.read_store(pairs.chosen)).max() < 1e-4
    assert np.array_equal(reader.read_store(pairs.chosen), before)
    assert [name for name, p in adapter.parameters.items() if not p.requires_grad] == [frozen]
    with pytest.raises(RuntimeError, match="stop"), without_adapter(adapter):
        raise RuntimeError("stop")
    assert np.array_equal(reader.read_store(pairs.chosen), before)


def test_it_learns_and_resumes_in_the_same_bits(tiny_llm, tmp_path):
    optim = Optimiser(lr=0.01, epochs=6, min_steps=0, batch_size=4, checkpoint_every=3)
    runs = [
        trained(lambda: preferring(tiny_llm, random_pairs(8)), optim, tmp_path / str(stop), stop) for stop in (None, 5)
    ]
    log, state = runs[0]
    assert log.steps[-1].loss < 0.7 * log.steps[0].loss
    assert all(torch.equal(state[name], runs[1][1][name]) for name in state)


def test_extreme_margins_stay_finite():
    loss = preference_loss(torch.tensor([-1e6, 1e6]), PreferenceOptions(label_smoothing=0.1))
    assert torch.isfinite(loss)
    assert preference_loss(torch.zeros(3), PreferenceOptions()).item() == pytest.approx(np.log(2))


def test_pairs_that_are_wrong(tiny_llm):
    pairs = random_pairs(3)
    model, adapter = open_llm(tiny_llm)
    with pytest.raises(DataError, match="a rejected completion each, and these have none"):
        reference_logprobs(model, adapter, ExampleStore(pairs.chosen, None))
    for reference in (np.zeros((2, 2), np.float32), np.full((3, 2), np.nan, np.float32)):
        with pytest.raises(DataError, match="for 3 pairs, or not finite"):
            PairPreference(model, pairs, reference, PreferenceOptions(), batch_size=2, tokens_per_chunk=9, seed=0)
