"""Documents as a model was trained to read them: its card says how title and text become one text."""

from __future__ import annotations

from searchtune.data.tasks import load_task
from searchtune.types import Collection
from searchtune.workflows.progress import SILENT, Progress


def as_trained(collection: Collection, template: str | None, who: str, progress: Progress = SILENT) -> Collection:
    """The collection with documents written as `who` was trained to read them; None keeps the task's way.

    A warning says so where the two differ.
    """
    if template not in (None, collection.doc_template):
        progress.warn(f"{who}: documents are read as {template!r}, as in training, not {collection.doc_template!r}")
    return collection.read_as(template)


def template_of(task: str | None) -> str | None:
    """How the documents of a task are written; None without a task, where texts come as they are."""
    return None if task is None else load_task(task).doc_template
