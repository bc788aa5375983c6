"""`TaskSpec`: what the retrieval problem is, and where its corpus, queries and labels come from."""

from __future__ import annotations

from string import Formatter
from typing import Annotated

from pydantic import Field

from searchtune.errors import ConfigError
from searchtune.specs.base import Spec


class TaskSpec(Spec):
    """One file under `tasks/`."""

    name: str
    """Short name, used in reports."""
    source: str
    """`builtin:NAME`, `irds:ID` of ir_datasets (several with `+`), or a BEIR folder. A relative folder is looked for
    beside the task file, in the working directory, in `$SEARCHTUNE_DATA` and in `./datasets`."""
    description: str = ""
    licence: str = "unknown"
    """Licence of the collection, as its owner states it."""
    doc_template: str = "{title} {text}"
    """How a document's title and text become the one text a model reads."""
    min_grade: Annotated[int, Field(ge=1)] = 1
    """The smallest grade that counts as relevant for binary metrics and as a training positive."""
    drop_self: bool = False
    """Leave a document out of a query's ranking when both bear the same id."""
    dev_from_train: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training queries held out as dev where the collection has no dev split."""
    splits: dict[str, str] = {}
    """Which labels of the source serve as what, such as `{train: test}`; the others are left out. Empty keeps all."""
    queries_file: str = "queries.jsonl"
    qrels_folder: str = "qrels"


def check_template(template: str) -> None:
    """Raise `ConfigError` unless the template uses `{title}` and `{text}` only, as they are, and at least one of them.

    Cards come from others, so nothing else that Python's format strings can do is let through.
    """
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        parts = [("", None, None)]
    if any(name not in ("title", "text") or spec or conversion for name, spec, conversion in parts):
        raise ConfigError(f"doc_template {template!r}: only {{title}} and {{text}} can stand in braces")
    if not parts:
        raise ConfigError(
            f"doc_template {template!r} uses neither {{title}} nor {{text}}: all documents would be equal"
        )
