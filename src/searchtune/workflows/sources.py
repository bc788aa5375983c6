"""The models that a recipe, a suite or a pipeline names, looked at before anything is read.

What would fail after minutes of reading (a package that is not installed, a folder that is not there, an extra that 4
bits or GGUF files take) fails at once, with the command that mends it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

from searchtune.errors import MissingExtraError
from searchtune.models.cards import read_any_card
from searchtune.models.sources import check_source
from searchtune.specs.base import Spec
from searchtune.specs.card import CARD_FILE, AdapterCard, adapter_folder

_NAMES = ("base", "model", "adapter", "start")
"""Fields of specs that name a model: a base, or the folder of an adapter or of its run."""
_LISTS = ("retrievers",)
_NO_MODEL = "bm25"


class NamedModel(NamedTuple):
    """A model as a spec names it."""

    name: str
    revision: str | None = None
    nf4: bool = False


def check_sources(spec: Spec) -> None:
    """Raise what opening any of the spec's models here would raise, as far as it can be seen without reading a weight.

    Raises:
        ModelError: a package is not installed, a folder or file holds no model, or the hub cannot be reached.
        MissingExtraError: `gguf` or `bitsandbytes` is not installed where a model or optimiser takes it.
        ArtifactError: an adapter's folder is damaged.
    """
    for model in dict.fromkeys(models_of(spec)):
        check_model(*model)
    optim = getattr(spec, "optim", None)
    if optim is not None and optim.name != "adamw":
        _check_bitsandbytes(f"optim.name {optim.name!r}")


def check_model(name: str, revision: str | None = None, nf4: bool = False) -> None:
    """The same for one model: a base, or an adapter's folder (or its run's)."""
    folder = adapter_folder(name)
    if (folder / CARD_FILE).is_file():
        card = read_any_card(folder)
        name, revision = card.base, card.revision
        nf4 = nf4 or (not isinstance(card, AdapterCard) and card.quantise == "nf4")
    check_source(name, revision)
    if nf4:
        _check_bitsandbytes("quantise: nf4")


def models_of(spec: Spec) -> Iterator[NamedModel]:
    """Every model that a spec and the specs inside it name; those behind an address are not opened here."""
    if getattr(spec, "endpoint", None) is not None:
        return
    nf4 = getattr(spec, "quantise", None) == "nf4"
    for field in type(spec).model_fields:
        value = getattr(spec, field)
        if field in _NAMES and isinstance(value, str):
            yield NamedModel(value, getattr(spec, "revision", None) if field != "adapter" else None, nf4)
        elif field in _LISTS:
            yield from (NamedModel(name) for name in value if name != _NO_MODEL)
        else:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            for one in inner:
                if isinstance(one, Spec):
                    yield from models_of(one)


def _check_bitsandbytes(what: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"{what} takes bitsandbytes: pip install 'searchtune[llm]'")
