"""The adapter folder: what is in it, writing it, reading it back, and proving that it reloads as it was trained.

The folder is a PEFT adapter and a sentence-transformers model at once, so both libraries open it as it is; the card
beside them holds what neither checks: which base, by the hash of its weights, and which vectors must come out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from searchtune.errors import ArtifactError
from searchtune.models.adapters import Adapter
from searchtune.models.cards import check_base, check_tolerance, name_base, read_card, read_probe
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.inputs import TokenStore, tokenise
from searchtune.models.layout import Layout, read_modules
from searchtune.models.opening import opening
from searchtune.models.precision import warn_of_slow
from searchtune.models.quiet import quiet
from searchtune.models.sources import resolve_model
from searchtune.specs.card import CARD_FILE, AdapterCard
from searchtune.storage.atomic import new_folder, write_json, write_text
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
        name_base(temporary / "adapter_config.json", card, encoder.backbone)
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
    warn_of_slow(dtype, device)
    encoder = load_encoder(root, dtype=torch.float32, device=torch.device("cpu"))
    with opening(folder, f"peft cannot put this adapter onto {root}", ArtifactError):
        model = PeftModel.from_pretrained(encoder.backbone, str(folder))
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
    recorded = read_probe(folder, card.probe.vectors_file)
    check_tolerance(folder, card.probe.tolerance, 1.0)
    if recorded.shape != vectors.shape:
        raise ArtifactError(f"{folder}: probe vectors have shape {vectors.shape}, recorded {recorded.shape}")
    return float(np.abs(recorded - vectors).max(initial=0.0))


@quiet()
def open_with_sentence_transformers(folder: Path, card: AdapterCard) -> FloatArray:
    """Probe vectors as a user gets them from `SentenceTransformer(folder)`. Shape: (queries + documents, dim)."""
    from sentence_transformers import SentenceTransformer

    read_modules(folder)
    with opening(folder, "sentence-transformers cannot open it", ArtifactError):
        model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    parts = []
    for texts, prompt, limit in (
        (card.probe.queries, card.query_prompt, card.query_max_tokens),
        (card.probe.documents, card.document_prompt, card.max_tokens),
    ):
        model.max_seq_length = limit
        if texts:
            parts.append(np.asarray(model.encode(list(texts), prompt=prompt, show_progress_bar=False)))
    return np.concatenate(parts).astype(np.float32)


def _readme(card: AdapterCard) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in card.metrics.items()) or "none"
    side = "queries only; documents keep the base's vectors" if card.side == "query" else "queries and documents"
    template = json.dumps(card.doc_template or "{text}")
    base = 'SentenceTransformer("path/to/the/base")' if card.side == "query" else "model"
    return (
        f"# {card.name}\n\nA LoRA adapter for `{card.base}`, trained with searchtune on {side}. "
        f"Dev figures: {figures}.\n\n"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("path/to/this/folder")\n'
        f'query_vectors = model.encode(queries, prompt_name="query")\n'
        f"documents = [{template}.format(title=title, text=text).strip() for title, text in rows]\n"
        f"document_vectors = {base}.encode(documents, prompt={json.dumps(card.document_prompt)})\n```\n\n"
        f"Queries were cut at {card.query_max_tokens} tokens in training, documents at {card.max_tokens} "
        "(`model.max_seq_length`). "
        "`searchtune adapter verify` checks that it still gives the vectors it was trained to give; "
        f"`{CARD_FILE}` says what it was trained on.\n"
    )
