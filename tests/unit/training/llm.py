"""Random texts and tiny models for tests of training language models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.chat import CompletionStore, ExampleStore
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import TokenStore
from searchtune.specs.recipe import LoraMethod, Optimiser
from searchtune.training.fit import FitPlan, TrainingInterrupted, TrainLog, fit
from unit.training.tiny import shake

CPU = torch.device("cpu")


def random_store(count: int, *, seed: int = 0, shortest: int = 2) -> TokenStore:
    """Texts of `shortest` to 20 tokens; the first is the shortest."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate(([shortest], rng.integers(max(1, shortest), 21, size=count - 1)))
    return TokenStore(rng.integers(5, 100, size=lengths.sum()), np.concatenate(([0], np.cumsum(lengths))), 0)


def random_completions(count: int, *, seed: int = 0) -> CompletionStore:
    """Texts whose last 1 to all but one tokens are the completion."""
    tokens = random_store(count, seed=seed, shortest=3)
    prompts = np.random.default_rng(seed + 1).integers(1, tokens.lengths)
    return CompletionStore(tokens, prompts)


def random_pairs(count: int, *, seed: int = 0) -> ExampleStore:
    """Pairs of completions after one prompt each."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(5, 100, size=rng.integers(1, 12)) for _ in range(count)]
    sides = []
    for _ in range(2):
        rows = [np.concatenate([prompt, rng.integers(5, 100, size=rng.integers(1, 6))]) for prompt in prompts]
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
        sides.append(CompletionStore(TokenStore(np.concatenate(rows), offsets, 0), np.array([len(p) for p in prompts])))
    return ExampleStore(*sides)


def open_llm(folder: Path, method: LoraMethod | None = None, **options) -> tuple[CausalLM, Adapter]:
    """A model in float32 with LoRA whose B matrices are drawn too."""
    model = load_causal_lm(folder, **{"dtype": torch.float32, "device": CPU, "attention": "eager", **options})
    adapter = add_lora(model, method or LoraMethod(rank=4, alpha=8), seed=11, task_type="CAUSAL_LM")
    shake(adapter)
    return model, adapter


@torch.no_grad()
def whole_logprobs(model: CausalLM, store: CompletionStore) -> list[np.ndarray]:
    """Log-probability of every completion token, from the library's own forward pass over each text alone."""
    found = []
    for text, prompt in enumerate(store.prompts):
        ids = torch.from_numpy(store.tokens.ids[store.tokens.offsets[text] : store.tokens.offsets[text + 1]])
        logits = model.backbone(ids[None]).logits[0].double().log_softmax(-1)
        found.append(logits[torch.arange(prompt - 1, len(ids) - 1), ids[prompt:]].numpy())
    return found


def gradients(objective, adapter: Adapter, batch) -> dict[str, torch.Tensor]:
    """Gradients of the loss of one batch, by name."""
    for parameter in adapter.parameters.values():
        parameter.grad = None
    objective.loss(batch).backward()
    return {name: p.grad.clone() for name, p in adapter.parameters.items() if p.grad is not None}


def trained(make, optim: Optimiser, folder: Path, stop: int | None = None) -> tuple[TrainLog, dict[str, torch.Tensor]]:
    """Train what `make` gives, interrupted after step `stop` and resumed with all made anew."""
    objective, adapter = make()

    def interrupt(step, _):
        if step.step == stop:
            raise TrainingInterrupted("test")

    try:
        log = fit(objective, optim, FitPlan(folder, 1), on_step=interrupt)
    except TrainingInterrupted:
        objective, adapter = make()
        log = fit(objective, optim, FitPlan(folder, 1, resume=True))
    return log, adapter.state()
