"""A reranker's adapter folder: writing it, reading it back, and proving that it reloads as it was trained.

The folder is a PEFT adapter with its trained head, and a sentence-transformers `CrossEncoder` at once. The card beside
them holds what neither checks: which base, by the hash of its weights, and which scores must come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from searchtune.errors import ArtifactError
from searchtune.models.adapters import Adapter
from searchtune.models.cards import check_base, read_reranker_card
from searchtune.models.folders import open_plainly, put_adapter, write_adapter
from searchtune.models.opening import opening
from searchtune.models.pairs import pair_store
from searchtune.models.precision import warn_of_slow
from searchtune.models.quantisation import Quantise, keep_trainable, nf4_options
from searchtune.models.quiet import quiet
from searchtune.models.reranker import Reading, Reranker, load_reranker
from searchtune.models.sources import resolve_model
from searchtune.specs.card import CARD_FILE, RerankerCard
from searchtune.storage.atomic import new_folder, write_json, write_text
from searchtune.types import FloatArray

_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_IDENTITY = "torch.nn.modules.linear.Identity"


@quiet()
def save_reranker(
    folder: Path,
    reranker: Reranker,
    adapter: Adapter,
    card: RerankerCard,
    *,
    probe: FloatArray,
    train_positives: list[str],
) -> None:
    """Write the adapter folder, whole or not at all; an older complete artifact there stays until then."""
    with new_folder(folder) as temporary:
        write_adapter(temporary, adapter, card, reranker.backbone, reranker.tokenizer)
        if card.head == "classifier":
            write_cross_encoder(temporary, reranker)
        np.save(temporary / card.probe.scores_file, probe)
        write_json(temporary / "train_positives.json", train_positives)
        write_text(temporary / "README.md", _readme(card))


def write_cross_encoder(folder: Path, reranker: Reranker) -> None:
    """The JSON files by which `CrossEncoder` knows the head and the length; scores come out as logits."""
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}])
    settings: dict[str, Any] = {
        "max_seq_length": reranker.layout.max_tokens,
        "do_lower_case": False,
        "transformer_task": "sequence-classification",
        "config_kwargs": {"num_labels": 1},
    }
    write_json(folder / "sentence_bert_config.json", settings)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "activation_fn": _IDENTITY})


@quiet()
def load_reranker_artifact(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    base: str | None = None,
    quantise: Quantise | None = None,
) -> tuple[Reranker, RerankerCard]:
    """The tuned reranker, its adapter folded into the weights it runs with, and its card.

    `quantise` opens the base otherwise than it was trained on: `none` puts the adapter of a 4-bit base onto the 16-bit
    one, which gives other scores.

    Raises:
        ArtifactError: the folder is damaged, of another kind, or the base is not the one it was trained on.
    """
    card = read_reranker_card(folder)
    root = resolve_model(base or card.base, None if base else card.revision)
    check_base(card, root)
    warn_of_slow(dtype, device)
    how = quantise or card.quantise
    reranker = load_reranker(
        root,
        Reading(card.head, card.max_tokens, card.template or None, how),
        dtype=torch.float32 if how == "none" else dtype,
        device=torch.device("cpu") if how == "none" else device,
    )
    model = put_adapter(reranker.backbone, folder, root)
    model.eval()
    if how == "none":  # merging into 4 bits would lose what was trained: there the adapter stays beside it
        reranker.put(model.merge_and_unload().eval().to(dtype=dtype, device=device))
    reranker.fresh_head = False
    return reranker, card


def probe_scores(reranker: Reranker, card: RerankerCard) -> FloatArray:
    """Scores of the probe's pairs. Shape: (pairs,)."""
    store = pair_store(reranker.tokenizer, card.probe.queries, card.probe.documents, reranker.form)
    rows = np.arange(len(card.probe.queries))
    return reranker.score_store(store, rows, rows)


def probe_tokens(reranker: Reranker, card: RerankerCard) -> list[list[int]]:
    """The tokens of each pair of the probe, as a language model reads them."""
    store = pair_store(reranker.tokenizer, card.probe.queries, card.probe.documents, reranker.form)
    pairs = np.arange(len(card.probe.queries))[:, None]
    return [[int(token) for token in store.tokens(pair, pair).ids] for pair in pairs]


@quiet()
def open_with_cross_encoder(folder: Path, card: RerankerCard, quantise: Quantise = "none") -> FloatArray:
    """Probe scores as a user gets them from `CrossEncoder(folder)`, the base in 4 bits for `nf4`. Shape: (pairs,)."""
    from sentence_transformers import CrossEncoder

    options: dict[str, Any] = {"dtype": torch.float32}  # a base whose config says bf16 is opened in bf16 otherwise
    if quantise == "nf4":
        root = resolve_model(card.base, card.revision)
        options["quantization_config"] = nf4_options(root, torch.float32, AutoModelForSequenceClassification)
    options["use_safetensors"] = True
    with opening(folder, "sentence-transformers cannot open it", ArtifactError):
        model = CrossEncoder(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
    if quantise == "nf4":
        keep_trainable(model)
    pairs = [list(pair) for pair in zip(card.probe.queries, card.probe.documents, strict=True)]
    return np.asarray(model.predict(pairs, show_progress_bar=False), dtype=np.float32)


@quiet()
@torch.no_grad()
def open_with_transformers(folder: Path, card: RerankerCard, reranker: Reranker, base: str | None = None) -> FloatArray:
    """Probe scores of a yes/no reranker from transformers' and peft's own classes, over the whole vocabulary.

    `reranker` gives the tokenizer and the prompts alone. Shape: (pairs,).
    """
    model = open_plainly(folder, card, resolve_model(base or card.base, None if base else card.revision))
    yes, no = reranker.layout.answers or (0, 0)
    scores = []
    for ids in probe_tokens(reranker, card):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        scores.append(float(logits[yes] - logits[no]))
    return np.array(scores, dtype=np.float32)


_BY_CROSS_ENCODER = """from sentence_transformers import CrossEncoder

model = CrossEncoder("path/to/this/folder")
model.predict([["query", "document"]])
"""
_BY_SEARCHTUNE = """from pathlib import Path

import torch
from searchtune.models.reranker_artifact import load_reranker_artifact

folder, device = Path("path/to/this/folder"), torch.device("cpu")
reranker, card = load_reranker_artifact(folder, dtype=torch.float32, device=device)
"""


def _readme(card: RerankerCard) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in card.metrics.items()) or "none"
    code = _BY_CROSS_ENCODER if card.head == "classifier" else _BY_SEARCHTUNE
    bits = ", whose layers it found in 4 bits (NF4)" * (card.quantise == "nf4")
    return (
        f"# {card.name}\n\nA LoRA adapter that makes a reranker of `{card.base}`{bits}, trained with searchtune. "
        f"Dev figures: {figures}.\n\n```python\n{code}```\n\n"
        "`searchtune adapter verify` checks that it still gives the scores it was trained to give; "
        f"`{CARD_FILE}` says what it was trained on.\n"
    )
