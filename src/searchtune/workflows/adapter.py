"""An adapter's life after training: verify that it reloads as trained, and merge it into a plain model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from searchtune.errors import ArtifactError
from searchtune.models.artifact import (
    load_artifact,
    open_with_sentence_transformers,
    probe_difference,
    probe_store,
    write_modules,
)
from searchtune.models.cards import check_base, check_probe, copy_license_files, read_any_card
from searchtune.models.quiet import quiet
from searchtune.models.reranker_artifact import (
    load_reranker_artifact,
    open_with_cross_encoder,
    open_with_transformers,
    probe_scores,
    score_difference,
    write_cross_encoder,
)
from searchtune.models.sources import resolve_model
from searchtune.specs.card import AdapterCard, RerankerCard, adapter_folder
from searchtune.storage.atomic import new_folder

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
    by_peft, by_st = (_rerank_differences if isinstance(card, RerankerCard) else _embed_differences)(folder, base)
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
    by_peft = score_difference(folder, card, probe_scores(reranker, card))
    by_others = (
        open_with_cross_encoder(folder, card, card.quantise)
        if card.head == "classifier"
        else open_with_transformers(folder, card, reranker)
    )
    return by_peft, score_difference(folder, card, by_others)


def verify_in_fresh_process(folder: Path) -> Verification:
    """`verify_adapter` in a new Python process, where nothing of the training run is left in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_FRESH_PROCESS, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ArtifactError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{folder}: not verified")
    return Verification(**json.loads(done.stdout.strip().splitlines()[-1]))


@quiet()
def merge_adapter(folder: Path | str, out: Path | str, base: str | None = None) -> float:
    """Write base plus adapter as a plain sentence-transformers folder: a bi-encoder, or a cross-encoder.

    Returns the largest difference between its vectors or scores and those recorded at training.

    Raises:
        ArtifactError: as `verify_adapter`; and the merged folder is not written where the probe differs.
    """
    folder = adapter_folder(folder)
    card = read_any_card(folder)
    with new_folder(Path(out).expanduser()) as temporary:
        copy_license_files(resolve_model(base or card.base, None if base else card.revision), temporary)
        if isinstance(card, AdapterCard):
            encoder, _ = load_artifact(folder, dtype=torch.float32, device=_CPU, base=base)
            encoder.backbone.save_pretrained(str(temporary), safe_serialization=True)
            encoder.tokenizer.save_pretrained(str(temporary))
            write_modules(temporary, encoder, card)
            difference = probe_difference(folder, card, open_with_sentence_transformers(temporary, card))
        elif card.head == "yes-no":
            raise ArtifactError(f"{folder}: merging is for classifiers; peft and vLLM open a language model's adapter")
        else:
            reranker, _ = load_reranker_artifact(folder, dtype=torch.float32, device=_CPU, base=base)
            reranker.backbone.save_pretrained(str(temporary), safe_serialization=True)
            reranker.tokenizer.save_pretrained(str(temporary))
            write_cross_encoder(temporary, reranker)
            difference = score_difference(folder, card, open_with_cross_encoder(temporary, card))
        check_probe(f"{out} after merging", difference, card.probe.tolerance)
    return difference


def card_summary(folder: Path | str) -> dict[str, object]:
    """The card of an adapter folder as plain values, probe texts left out."""
    return read_any_card(adapter_folder(folder)).model_dump(mode="json", exclude={"probe"})
