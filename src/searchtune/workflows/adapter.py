"""An adapter's life after training: verify that it reloads as trained, merge it into a plain model, export it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.errors import ArtifactError
from searchtune.models.artifact import (
    load_artifact,
    open_with_sentence_transformers,
    probe_difference,
    probe_store,
    write_modules,
)
from searchtune.models.base_facts import base_facts
from searchtune.models.cards import check_base, check_probe, copy_license_files, read_any_card, score_difference
from searchtune.models.generator import CausalLM
from searchtune.models.gguf_export import GGUF_TOLERANCE, GgufKind, write_gguf
from searchtune.models.llm_artifact import llm_probe_scores, load_llm_adapter, open_llm_with_transformers
from searchtune.models.merge import (
    MERGED_TOLERANCE,
    open_written,
    save_language_model,
    score_in_fresh_process,
    stored_dtype,
)
from searchtune.models.quiet import quiet
from searchtune.models.reranker_artifact import (
    load_reranker_artifact,
    open_with_cross_encoder,
    open_with_transformers,
    probe_scores,
    probe_tokens,
    write_cross_encoder,
)
from searchtune.models.sources import resolve_model
from searchtune.reading import user_path
from searchtune.specs.card import AdapterCard, LlmCard, RerankerCard, adapter_folder
from searchtune.storage.atomic import new_folder
from searchtune.storage.lock import sole_writer
from searchtune.types import FloatArray

_CPU = torch.device("cpu")
_IN_A_FRESH_PROCESS = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from searchtune.errors import SearchtuneError
from searchtune.workflows.adapter import verify_adapter
try:
    print(json.dumps(asdict(verify_adapter(Path(sys.argv[1])))))
except SearchtuneError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True)
class Verification:
    """Largest difference of the probe (a vector's component, or a score), by the library that opened the folder."""

    sentence_transformers: float
    peft: float
    tolerance: float


def verify_adapter(folder: Path | str, base: str | None = None) -> Verification:
    """Open the adapter as its users will, with sentence-transformers and with peft, and repeat its probe in float32.

    Raises:
        ArtifactError: a file is missing or damaged, the base is another one, or the probe differs.
    """
    folder = adapter_folder(folder)
    card = read_any_card(folder)
    check_base(card, resolve_model(base or card.base, None if base else card.revision))
    differences = {AdapterCard: _embed_differences, RerankerCard: _rerank_differences, LlmCard: _llm_differences}
    by_peft, by_st = differences[type(card)](folder, base)
    check_probe(f"{folder} opened by peft", by_peft, card.probe.tolerance)
    check_probe(f"{folder} opened by sentence-transformers", by_st, card.probe.tolerance)
    return Verification(by_st, by_peft, card.probe.tolerance)


def _embed_differences(folder: Path, base: str | None) -> tuple[float, float]:
    """How far the probe is from what was recorded, opened by peft and by sentence-transformers."""
    encoder, card = load_artifact(folder, dtype=torch.float32, device=_CPU, base=base)
    by_peft = probe_difference(folder, card, encoder.encode_store(probe_store(encoder.tokenizer, card)))
    return by_peft, probe_difference(folder, card, open_with_sentence_transformers(folder, card))


def _rerank_differences(folder: Path, base: str | None) -> tuple[float, float]:
    """The same for a reranker's adapter; a language model's is opened by transformers, not sentence-transformers."""
    reranker, card = load_reranker_artifact(folder, dtype=torch.float32, device=_CPU, base=base)
    by_peft = score_difference(folder, card.probe, probe_scores(reranker, card))
    by_others = (
        open_with_cross_encoder(folder, card, card.quantise)
        if card.head == "classifier"
        else open_with_transformers(folder, card, reranker, base)
    )
    return by_peft, score_difference(folder, card.probe, by_others)


def _llm_differences(folder: Path, base: str | None) -> tuple[float, float]:
    """The same for a language model's adapter, opened by transformers in the second place."""
    model, card = load_llm_adapter(folder, dtype=torch.float32, device=_CPU, base=base)
    by_peft = score_difference(folder, card.probe, llm_probe_scores(model, card))
    return by_peft, score_difference(folder, card.probe, open_llm_with_transformers(folder, card, model, base))


def verify_in_fresh_process(folder: Path) -> Verification:
    """`verify_adapter` in a new Python process, where nothing of the training run is left in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_FRESH_PROCESS, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ArtifactError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{folder}: not verified")
    return Verification(**json.loads(done.stdout.strip().splitlines()[-1]))


@dataclass(frozen=True)
class Merged:
    """Largest differences of the probe, opened anew by the library that users have, once the adapter was folded in."""

    difference: float
    """From the adapter beside the base in 16 or more bits: what folding and rounding cost."""
    from_trained: float
    """From what was recorded at training: the same, but where the base was in 4 bits, whose rounding comes on top."""
    tolerance: float
    four_bits: bool
    """Whether the adapter was trained on a base in 4 bits."""


@quiet()
def merge_adapter(folder: Path | str, out: Path | str, base: str | None = None) -> Merged:
    """Write base plus adapter as a plain folder: for sentence-transformers, or of a causal language model.

    An adapter of a 4-bit base is folded into the base's 16-bit weights. A language model's folder keeps the type of its
    base, and transformers alone opens it in a fresh process.

    Raises:
        ArtifactError: as `verify_adapter`; and the merged folder is not written where the probe differs.
    """
    folder, out = adapter_folder(folder), user_path(out)
    card = read_any_card(folder)
    with sole_writer(out), new_folder(out) as temporary:
        if isinstance(card, AdapterCard):
            merged = _merge_encoder(folder, card, temporary, base)
        elif isinstance(card, RerankerCard) and card.head == "classifier":
            merged = _merge_classifier(folder, card, temporary, base)
        else:
            folded = _fold(folder, card, base)
            dtype = stored_dtype(folded.root)
            save_language_model(folded.model.backbone, folded.root, temporary, dtype)
            merged = folded.compared(folder, folded.scores(temporary), MERGED_TOLERANCE[dtype])
        check_probe(f"{out} after merging", merged.difference, merged.tolerance)
    return merged


def _merge_encoder(folder: Path, card: AdapterCard, temporary: Path, base: str | None) -> Merged:
    copy_license_files(resolve_model(base or card.base, None if base else card.revision), temporary)
    encoder, _ = load_artifact(folder, dtype=torch.float32, device=_CPU, base=base)
    encoder.backbone.save_pretrained(str(temporary), safe_serialization=True)
    encoder.tokenizer.save_pretrained(str(temporary))
    write_modules(temporary, encoder, card)
    difference = probe_difference(folder, card, open_with_sentence_transformers(temporary, card))
    return Merged(difference, difference, card.probe.tolerance, False)


def _merge_classifier(folder: Path, card: RerankerCard, temporary: Path, base: str | None) -> Merged:
    folded = _fold(folder, card, base)
    copy_license_files(folded.root, temporary)
    folded.model.backbone.save_pretrained(str(temporary), safe_serialization=True)
    folded.model.tokenizer.save_pretrained(str(temporary))
    write_cross_encoder(temporary, folded.model)
    return folded.compared(folder, open_with_cross_encoder(temporary, card), MERGED_TOLERANCE[torch.float32])


@dataclass
class _Folded:
    """A model in float32 with its adapter folded into the weights of its base in 16 or more bits."""

    card: RerankerCard | LlmCard
    root: Path
    model: Any
    whole: FloatArray
    """Its scores of the probe."""

    def compared(self, folder: Path, scores: FloatArray, share: float) -> Merged:
        """What was written against what is in memory, `share` of the largest score being allowed."""
        return Merged(
            difference=float(np.abs(scores - self.whole).max(initial=0.0)),
            from_trained=score_difference(folder, self.card.probe, scores),
            tolerance=max(self.card.probe.tolerance, share * max(1.0, float(np.abs(self.whole).max(initial=0.0)))),
            four_bits=self.card.quantise == "nf4",
        )

    def scores(self, written: Path, gguf_file: str | None = None) -> FloatArray:
        """The probe's scores of what was written, once transformers alone has opened it in a fresh process."""
        card, tokenizer = self.card, self.model.tokenizer
        text = "" if gguf_file else " ".join(_texts(card))  # transformers cuts GGUF's words in a way of its own
        reranker = isinstance(card, RerankerCard)
        prompts = probe_tokens(self.model, card) if isinstance(card, RerankerCard) else [[1, 2, 3]]
        entries = self.model.layout.answers if reranker else (0, 1)
        scores, tokens = score_in_fresh_process(written, prompts, entries, text=text, gguf_file=gguf_file)
        if tokens != tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise ArtifactError(f"{written}: the written tokenizer cuts text otherwise than the base's")
        if isinstance(card, RerankerCard):
            return scores
        return llm_probe_scores(CausalLM(open_written(written, gguf_file), tokenizer).eval(), card)


def _fold(folder: Path, card: RerankerCard | LlmCard, base: str | None) -> _Folded:
    root = resolve_model(base or card.base, None if base else card.revision)
    options: dict[str, Any] = {"dtype": torch.float32, "device": _CPU, "base": base, "quantise": "none"}
    if isinstance(card, LlmCard):
        model, _ = load_llm_adapter(folder, **options)
        return _Folded(card, root, model, llm_probe_scores(model, card))
    reranker, _ = load_reranker_artifact(folder, **options)
    return _Folded(card, root, reranker, probe_scores(reranker, card))


def _texts(card: RerankerCard | LlmCard) -> list[str]:
    if isinstance(card, RerankerCard):
        return [*card.probe.queries, *card.probe.documents]
    return [part.text for example in card.probe.examples for turn in example.turns for part in turn.parts]


@quiet()
def export_gguf(folder: Path | str, out: Path | str, kind: GgufKind = "f16", base: str | None = None) -> Merged:
    """Write base plus adapter as `out`/model-KIND.gguf, opened again by transformers in a fresh process.

    Raises:
        ArtifactError: as `merge_adapter`; or an adapter of something else than a causal language model.
        ModelError: an architecture or a tokenizer that GGUF export does not write.
        MissingExtraError: the package `gguf` is not installed.
    """
    folder, out = adapter_folder(folder), user_path(out)
    card = read_any_card(folder)
    if isinstance(card, AdapterCard) or (isinstance(card, RerankerCard) and card.head != "yes-no"):
        what = "an encoder" if isinstance(card, AdapterCard) else "a classifier"
        raise ArtifactError(f"{folder}: GGUF is for language models, and this adapts {what}; take --format hf")
    folded = _fold(folder, card, base)
    with sole_writer(out), new_folder(out) as temporary, tempfile.TemporaryDirectory(dir=out.parent) as plain:
        save_language_model(folded.model.backbone, folded.root, Path(plain), torch.float32)
        file = temporary / f"model-{kind}.gguf"
        write_gguf(Path(plain), file, kind, base=base_facts(folded.root, card.base), tuned=card.name)
        copy_license_files(folded.root, temporary)
        merged = folded.compared(folder, folded.scores(temporary, file.name), GGUF_TOLERANCE[kind])
        check_probe(f"{out} after the export", merged.difference, merged.tolerance)
    return merged


def card_summary(folder: Path | str) -> dict[str, object]:
    """The card of an adapter folder as plain values, probe texts left out."""
    return read_any_card(adapter_folder(folder)).model_dump(mode="json", exclude={"probe"})
