"""Where a base comes from, in its own words: name, licence, languages, authors, and the models that it was made of.

Read from what stands beside its weights: the head of its `README.md` (a model card as the hub has them) or, for a base
that came as a GGUF file, what that file said of itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from searchtune.errors import ModelError
from searchtune.reading import read_json_object, read_text

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST = 200
"""Characters of a value; what is longer is no name."""


@dataclass(frozen=True)
class BaseFacts:
    """What a base says of itself; empty where it says nothing."""

    name: str
    licence: str = ""
    licence_name: str = ""
    """Where the licence is `other`."""
    licence_link: str = ""
    languages: tuple[str, ...] = ()
    author: str = ""
    organisation: str = ""
    url: str = ""
    tags: tuple[str, ...] = ()


def base_facts(root: Path, named: str) -> BaseFacts:
    """The facts of the base in `root`, which a card calls `named`: a hub id, a folder or `package:NAME/path`."""
    origin = root / "gguf.json"
    said = _of_gguf(origin) if origin.is_file() else _of_readme(root / "README.md")
    hub = _HUB_ID.fullmatch(named) is not None and not Path(named).exists()
    last = re.split(r"[/:]", named.rstrip("/"))[-1].removesuffix(".gguf")
    fields: dict[str, Any] = {name: value for name, value in said.items() if value}
    fields.setdefault("name", re.sub(r"[-_]+", " ", last).strip() or root.name)
    if hub:
        fields.setdefault("organisation", named.partition("/")[0])
        fields.setdefault("url", f"https://huggingface.co/{named}")
    return BaseFacts(**fields)


def _of_gguf(file: Path) -> dict[str, Any]:
    said = read_json_object(file, ModelError)
    return {
        "name": _text(said.get("general.name")),
        "licence": _text(said.get("general.license")),
        "licence_name": _text(said.get("general.license.name")),
        "licence_link": _text(said.get("general.license.link")),
        "languages": _texts(said.get("general.languages")),
        "author": _text(said.get("general.author")),
        "organisation": _text(said.get("general.organization")),
        "url": _text(said.get("general.repo_url") or said.get("general.url")),
        "tags": _texts(said.get("general.tags")),
    }


def _of_readme(file: Path) -> dict[str, Any]:
    """What stands between the two lines of dashes at the head of a model card."""
    try:
        said = _head(read_text(file, ModelError)) if file.is_file() else {}
    except ModelError:  # a page in another encoding says nothing, and is no reason to stop
        said = {}
    return {
        "name": _text(said.get("model_name")),
        "licence": _text(said.get("license")).lower(),
        "licence_name": _text(said.get("license_name")),
        "licence_link": _text(said.get("license_link")),
        "languages": _texts(said.get("language")),
        "author": ", ".join(_texts(said.get("model_creator"))),
        "tags": _texts(said.get("tags")),
    }


def _head(text: str) -> Mapping[str, Any]:
    """The front matter of a page; empty where there is none, or none that can be read."""
    parts = re.split(r"^---[ \t]*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.load(parts[1], yaml.BaseLoader)  # noqa: S506: texts, lists and mappings alone
    except (yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """A value that is one line of text; empty for anything else."""
    return value.strip() if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable() else ""


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(filter(None, map(_text, values)))
