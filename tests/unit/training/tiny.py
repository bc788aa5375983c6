"""A tiny encoder with LoRA on it and the small world's training pairs, for tests of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from searchtune.data.beir import read_beir
from searchtune.data.examples import KnownRelevance, text_groups
from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.inputs import TokenStore, tokenise
from searchtune.specs.recipe import ContrastiveObjective, LoraMethod
from searchtune.training.contrastive import InBatchContrastive, PairBatch, Pairs, Texts
from searchtune.types import Collection, IntArray

CPU = torch.device("cpu")


@dataclass
class World:
    """What an objective is made from."""

    collection: Collection
    encoder: Encoder
    adapter: Adapter
    tokens: TokenStore
    pairs: Pairs

    def texts(self, tokens_per_chunk: int = 4096, recompute: bool | None = None) -> Texts:
        return Texts(self.tokens, len(self.collection.query_ids), tokens_per_chunk, recompute)

    def objective(
        self, spec: ContrastiveObjective, texts: Texts | None = None, *, batch_size: int = 12, seed: int = 3
    ) -> InBatchContrastive:
        return InBatchContrastive(
            self.encoder, texts or self.texts(), self.pairs, spec, batch_size=batch_size, seed=seed
        )

    def gradients(
        self, objective: InBatchContrastive, batch: PairBatch, seed: int = 5
    ) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients of one batch; `seed` settles dropout."""
        for parameter in self.adapter.parameters.values():
            parameter.grad = None
        torch.manual_seed(seed)
        loss = objective.loss(batch)
        loss.backward()
        found = {name: parameter.grad.clone() for name, parameter in self.adapter.parameters.items()}
        return loss.item(), found


def open_world(
    model: Path, folder: Path, method: LoraMethod | None = None, negatives: Mapping[int, IntArray] | None = None
) -> World:
    """B matrices are drawn too, since gradients of A are zero where B is."""
    collection = read_beir(folder)
    encoder = load_encoder(model, dtype=torch.float32, device=CPU, attention="eager")
    adapter = add_lora(encoder, method or LoraMethod(rank=4, alpha=8), seed=11)
    shake(adapter)
    tokens = TokenStore.joined(
        [
            tokenise(encoder.tokenizer, list(collection.query_texts), 64),
            tokenise(encoder.tokenizer, collection.documents, 64),
        ]
    )
    relevant = collection.qrels["train"].relevant(1)
    known = KnownRelevance(text_groups(collection.query_texts), text_groups(collection.documents), relevant)
    return World(collection, encoder, adapter, tokens, Pairs(relevant, known, negatives or {}))


@torch.no_grad()
def shake(adapter: Adapter, scale: float = 0.1, seed: int = 4) -> None:
    """Give every B matrix random values."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def random_negatives(collection: Collection, count: int = 5) -> dict[int, IntArray]:
    """For every train query some documents that no label names for it; the last query has none."""
    rng = np.random.default_rng(0)
    relevant = collection.qrels["train"]
    everything = np.arange(len(collection.doc_ids))
    found = {
        int(query): rng.choice(np.setdiff1d(everything, relevant.row(i)[0]), size=count, replace=False)
        for i, query in enumerate(relevant.queries)
    }
    found[int(relevant.queries[-1])] = np.zeros(0, dtype=np.int64)
    return found


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Tensors by name differ by at most `tolerance` of the largest value."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max())
        assert scale > 0, f"{name} has no gradient"
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
