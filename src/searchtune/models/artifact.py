"""The adapter folder: what is in it, writing it, reading it back, and proving that it reloads as it was trained.

The folder is a PEFT adapter and a sentence-transformers model at once, so both libraries open it as it is; the card
beside them holds what neither checks: which base, by the hash of its weights, and which vectors must come out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from pydantic import ValidationError

from searchtune.errors import ArtifactError
from searchtune.models.adapters import Adapter
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.inputs import TokenStore, tokenise
from searchtune.models.layout import Layout
from searchtune.models.quiet import quiet
from searchtune.models.sources import resolve_model, tokenizer_sha256, weights_sha256
from searchtune.specs.card import CARD_FILE, AdapterCard
from searchtune.storage.atomic import new_folder, write_json, write_text
from searchtune.storage.marker import check_complete
from searchtune.types import FloatArray

_TRANSFORMER = "sentence_transformers.models.Transformer"
_POOLING = "sentence_transformers.models.Pooling"
_NORMALISE = "sentence_transformers.models.Normalize"
_POOLING_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}


@quiet()
def save_artifact(
    folder: Path,
    encoder: Encoder,
    adapter: Adapter,
    card: AdapterCard,
    *,
    probe: FloatArray,
    train_positives: list[str],
) -> None:
    """Write the adapter folder, whole or not at all; an older complete artifact there stays until then."""
    with new_folder(folder) as temporary:
        adapter.peft_model.save_pretrained(str(temporary), safe_serialization=True)
        _name_base(temporary / "adapter_config.json", card, encoder)
        write_modules(temporary, encoder, card)
        encoder.tokenizer.save_pretrained(str(temporary))
        np.save(temporary / card.probe.vectors_file, probe)
        write_json(temporary / "train_positives.json", train_positives)
        write_json(temporary / CARD_FILE, card.model_dump(mode="json"))
        write_text(temporary / "README.md", _readme(card))


def write_modules(folder: Path, encoder: Encoder, card: AdapterCard) -> None:
    """The JSON files by which sentence-transformers knows what follows the transformer."""
    modules = [("", _TRANSFORMER), ("1_Pooling", _POOLING)] + [("2_Normalize", _NORMALISE)] * card.normalise
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    limit = max(card.max_tokens, card.query_max_tokens)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    flags = {flag: mode == card.pooling for mode, flag in _POOLING_FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": encoder.dim, **flags})
    prompts = {"query": card.query_prompt, "document": card.document_prompt}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def read_card(folder: Path) -> AdapterCard:
    """The card of an adapter folder, after every file in it was checked against its recorded size and hash.

    Raises:
        ArtifactError: no adapter folder, incomplete, damaged, or a card from another version.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; name the adapter folder that `searchtune embed train` wrote")
    if not (folder / CARD_FILE).is_file():
        inner = folder / "adapter"
        hint = f"; did you mean {inner}?" if (inner / CARD_FILE).is_file() else ""
        raise ArtifactError(f"{folder}: no {CARD_FILE}, so it is no searchtune adapter{hint}")
    check_complete(folder)
    try:
        return AdapterCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{folder / CARD_FILE}: cannot be read: {error.errors()[0]['msg']}") from error


def check_base(card: AdapterCard, base: Path) -> None:
    """Raise an `ArtifactError` unless `base` holds the very weights and tokenizer that the adapter was trained on."""
    for what, expected, found in (
        ("weights", card.base_weights_sha256, weights_sha256(base)),
        ("tokenizer", card.tokenizer_sha256, tokenizer_sha256(base)),
    ):
        if expected != found:
            raise ArtifactError(
                f"{base}: wrong base for adapter {card.name!r}: the sha256 of its {what} is {found[:12]}..., the "
                f"adapter was trained on {expected[:12]}... ({card.base}); name the right base, or train on this one"
            )


@quiet()
def load_artifact(
    folder: Path, *, dtype: torch.dtype, device: torch.device, base: str | None = None
) -> tuple[Encoder, AdapterCard]:
    """The tuned encoder, its adapter folded into the weights it runs with, and its card.

    Raises:
        ArtifactError: the folder is damaged, or the base is not the one it was trained on.
    """
    card = read_card(folder)
    root = resolve_model(base or card.base, None if base else card.revision)
    check_base(card, root)
    encoder = load_encoder(root, dtype=torch.float32, device=torch.device("cpu"))
    try:
        model = PeftModel.from_pretrained(encoder.backbone, str(folder))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ArtifactError(f"{folder}: peft cannot put this adapter onto {root}: {error}") from error
    encoder.backbone = model.merge_and_unload().eval().to(dtype=dtype, device=device)
    encoder.layout = Layout(
        pooling=card.pooling,
        normalise=card.normalise,
        max_tokens=card.max_tokens,
        max_positions=encoder.layout.max_positions,
        query_prompt=card.query_prompt,
        document_prompt=card.document_prompt,
    )
    return encoder, card


def probe_store(tokenizer: Any, card: AdapterCard) -> TokenStore:
    """The probe's texts as the encoder reads them: queries, then documents."""
    return TokenStore.joined(
        [
            tokenise(tokenizer, card.probe.queries, card.query_max_tokens, card.query_prompt),
            tokenise(tokenizer, card.probe.documents, card.max_tokens, card.document_prompt),
        ]
    )


def probe_difference(folder: Path, card: AdapterCard, vectors: FloatArray) -> float:
    """Largest absolute difference of a component from the vectors that were recorded at training."""
    recorded = np.load(folder / card.probe.vectors_file, allow_pickle=False)
    if recorded.shape != vectors.shape:
        raise ArtifactError(f"{folder}: probe vectors have shape {vectors.shape}, recorded {recorded.shape}")
    return float(np.abs(recorded - vectors).max(initial=0.0))


def check_probe(what: str, difference: float, card: AdapterCard) -> None:
    """Raise an `ArtifactError` where a reloaded model gives other vectors than the trained one."""
    if not difference <= card.probe.tolerance:
        raise ArtifactError(
            f"{what}: probe vectors differ by {difference:.3g} (allowed {card.probe.tolerance:.0e}): what reloads is "
            "not what was trained; do not use it, and report the versions in its card"
        )


@quiet()
def open_with_sentence_transformers(folder: Path, card: AdapterCard) -> FloatArray:
    """Probe vectors as a user gets them from `SentenceTransformer(folder)`. Shape: (queries + documents, dim)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    parts = []
    for texts, prompt, limit in (
        (card.probe.queries, card.query_prompt, card.query_max_tokens),
        (card.probe.documents, card.document_prompt, card.max_tokens),
    ):
        model.max_seq_length = limit
        if texts:
            parts.append(np.asarray(model.encode(list(texts), prompt=prompt, show_progress_bar=False)))
    return np.concatenate(parts).astype(np.float32)


def pick_probe(texts: Sequence[str], count: int = 8) -> list[str]:
    """A few texts of all lengths, the longest among them."""
    by_length = sorted(set(texts), key=lambda text: (len(text), text))
    places = np.unique(np.linspace(0, len(by_length) - 1, num=min(count, len(by_length))).astype(int))
    return [by_length[int(place)] for place in places]


def copy_license_files(base: Path, folder: Path) -> None:
    """Carry the base's licence along when its weights are copied."""
    for file in [*base.glob("LICENSE*"), *base.glob("NOTICE*")]:
        shutil.copy2(file, folder / file.name)


def _name_base(file: Path, card: AdapterCard, encoder: Encoder) -> None:
    """Let `adapter_config.json` say where the base is: its hub id if it has one, else the folder it was read from."""
    config = json.loads(file.read_text(encoding="utf-8"))
    local = card.base.startswith("package:") or Path(card.base).expanduser().is_dir()
    config["base_model_name_or_path"] = str(encoder.backbone.config._name_or_path) if local else card.base
    config["revision"] = card.revision
    write_json(file, config)


def _readme(card: AdapterCard) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in card.metrics.items()) or "none"
    side = "queries only; documents keep the base's vectors" if card.side == "query" else "queries and documents"
    return (
        f"# {card.name}\n\nA LoRA adapter for `{card.base}`, trained with searchtune on {side}. "
        f"Dev figures: {figures}.\n\n"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("path/to/this/folder")\n```\n\n'
        "`searchtune adapter verify` checks that it still gives the vectors it was trained to give; "
        f"`{CARD_FILE}` says what it was trained on.\n"
    )
