"""What the adapter folders of all stages share: reading the card, the right base, probes, and the base's name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from searchtune.errors import ArtifactError
from searchtune.models.opening import check_adapter
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.reading import read_array, read_json, read_json_object, shown, user_path
from searchtune.specs.card import CARD_FILE, AdapterCard, Card, ChatProbe, LlmCard, PairProbe, RerankerCard
from searchtune.storage.atomic import write_json
from searchtune.storage.marker import check_complete
from searchtune.types import FloatArray

_REMEDY = "copy the folder again from where it came, or train it again"
_MOST_TOLERANCE = 1e-4
"""Of a component of a unit vector, of the largest score, or of a token of a completion."""

AnyCard = AdapterCard | RerankerCard | LlmCard
_CARDS: TypeAdapter[AnyCard] = TypeAdapter(Annotated[AnyCard, Field(discriminator="kind")])


def read_any_card(folder: Path) -> AnyCard:
    """The card of an adapter folder, after every file in it was checked against its recorded size and hash.

    Raises:
        ArtifactError: no adapter folder, incomplete, damaged, or a card from another version.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; name the adapter folder that `searchtune ... train` wrote")
    if not (folder / CARD_FILE).is_file():
        inner = folder / "adapter"
        there = (inner / CARD_FILE).is_file()
        hint = f"did you mean {inner}?" if there else "name the folder that `searchtune ... train` wrote"
        raise ArtifactError(f"{folder}: no {CARD_FILE}, so it is no searchtune adapter; {hint}")
    check_complete(folder)
    check_adapter(folder)
    found = read_json_object(folder / CARD_FILE, ArtifactError)
    try:
        return _CARDS.validate_python(found)
    except ValidationError as error:
        problem = error.errors()[0]
        place = shown(".".join(str(part) for part in problem["loc"]) or "the file")
        raise ArtifactError(
            f"{shown(folder / CARD_FILE)}: cannot be read: {place}: {problem['msg'].lower()}; {_REMEDY}"
        ) from error


def read_card(folder: Path) -> AdapterCard:
    """The card of an embedding adapter; errors as `read_any_card`, and for an adapter of another stage."""
    card = read_any_card(folder)
    if not isinstance(card, AdapterCard):
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}, and an embedding adapter is needed here")
    return card


def read_reranker_card(folder: Path) -> RerankerCard:
    """The card of a reranker's adapter; errors as `read_any_card`, and for an adapter of another stage."""
    card = read_any_card(folder)
    if not isinstance(card, RerankerCard):
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}, and a reranker's adapter is needed here")
    return card


def read_llm_card(folder: Path) -> LlmCard:
    """The card of a language model's adapter; errors as `read_any_card`, and for an adapter of another stage."""
    card = read_any_card(folder)
    if not isinstance(card, LlmCard):
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}, and a language model's is needed here")
    return card


def train_positives(folder: Path) -> list[str] | None:
    """Ids of the documents that an adapter's training saw as positives; None where the folder does not tell.

    Raises:
        ArtifactError: the file that tells is no list of ids.
    """
    file = folder / "train_positives.json"
    if not file.is_file():
        return None
    ids = read_json(file, ArtifactError)
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ArtifactError(f"{shown(file)}: no list of document ids; copy the adapter again from where it came")
    return ids


def check_base(card: Card, base: Path) -> None:
    """Raise an `ArtifactError` unless `base` holds the very weights and tokenizer that the adapter was trained on.

    For a language model's adapter the chat template must be the same too.
    """
    hashes = [
        ("weights", card.base_weights_sha256, weights_sha256(base)),
        ("tokenizer", card.tokenizer_sha256, tokenizer_sha256(base)),
    ]
    if isinstance(card, LlmCard):
        hashes.append(("chat template", card.chat_template_sha256, chat_template_sha256(base)))
    for what, expected, found in hashes:
        if expected != found:
            raise ArtifactError(
                f"{base}: wrong base for adapter {card.name!r}: the sha256 of its {what} is {found[:12]}..., the "
                f"adapter was trained on {expected[:12]}... ({card.base}); name the right base, or train on this one"
            )


def check_probe(what: str, difference: float, tolerance: float) -> None:
    """Raise an `ArtifactError` where a reloaded model computes something else than the trained one."""
    if not difference <= tolerance:
        raise ArtifactError(
            f"{what}: the probe differs by {difference:.3g} (allowed {tolerance:.0e}): what reloads is "
            "not what was trained; do not use it, and report the versions in its card"
        )


def read_probe(folder: Path, name: str) -> FloatArray:
    """What an adapter's probe gave at training, from a file of its folder."""
    if Path(name).name != name:
        raise ArtifactError(
            f"{shown(folder / CARD_FILE)}: the probe is in {shown(name)!r}, outside of the folder; {_REMEDY}"
        )
    return read_array(folder / name, ArtifactError)


def check_tolerance(folder: Path, tolerance: float, size: float) -> None:
    """Raise an `ArtifactError` where a card allows itself more than ten times what training writes into one."""
    if not 0 < tolerance <= _MOST_TOLERANCE * size:
        raise ArtifactError(
            f"{shown(folder / CARD_FILE)}: its probe may differ by {tolerance:.3g}, and at most "
            f"{_MOST_TOLERANCE * size:.3g} counts as the same; {_REMEDY}"
        )


def score_difference(folder: Path, probe: PairProbe | ChatProbe, scores: FloatArray) -> float:
    """Largest absolute difference from the scores that were recorded at training."""
    recorded = read_probe(folder, probe.scores_file)
    longest = max((len(one.completion) for one in probe.examples), default=0) if isinstance(probe, ChatProbe) else 0
    check_tolerance(folder, probe.tolerance, max(1.0, float(np.abs(recorded).max(initial=0.0)), longest))
    if recorded.shape != scores.shape:
        raise ArtifactError(f"{folder}: {scores.shape} probe scores, recorded {recorded.shape}; {_REMEDY}")
    return float(np.abs(recorded - scores).max(initial=0.0))


def pick_probe(texts: Sequence[str], count: int = 8) -> list[str]:
    """A few texts of all lengths, the longest among them."""
    by_length = sorted(set(texts), key=lambda text: (len(text), text))
    places = np.unique(np.linspace(0, len(by_length) - 1, num=min(count, len(by_length))).astype(int))
    return [by_length[int(place)] for place in places]


def copy_license_files(base: Path, folder: Path) -> None:
    """Carry the base's licence along when its weights are copied."""
    for file in [*base.glob("LICENSE*"), *base.glob("NOTICE*")]:
        shutil.copy2(file, folder / file.name)


def name_base(file: Path, card: Card, backbone: Any) -> None:
    """Let `adapter_config.json` say where the base is: its hub id if it has one, else the folder it was read from."""
    config = read_json_object(file, ArtifactError)
    local = card.base.startswith("package:") or user_path(card.base).is_dir()
    config["base_model_name_or_path"] = str(backbone.config._name_or_path) if local else card.base
    config["revision"] = card.revision
    write_json(file, config)
