"""Rows that a model turned down, in a job that keeps what it reads in a journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from searchtune.errors import ModelError
from searchtune.storage.journal import Journal


class RefusedRows:
    """Keeps rows that were turned down out of the journal until another row shows that the model answers at all.

    A row that a content filter or its length turns down stays without a result, and is not asked again. Where all were
    turned down, or had no answer, it was not for what they hold: nothing is kept, so that the next start asks them.
    """

    def __init__(self, journal: Journal | None, model: str) -> None:
        self._journal, self._model = journal, model
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self.reasons: list[str] = []
        """Why rows were turned down, by this process."""
        self.unanswered: list[str] = []
        """Why rows had no answer."""
        self._answered = journal is not None and len(journal) > 0

    def add(self, key: str, value: Mapping[str, Any], reason: str) -> None:
        """A row that was turned down."""
        self._waiting[key] = value
        self.reasons.append(reason)

    def answered(self) -> None:
        """Another row was answered: those turned down before it were so for what they hold."""
        self._answered = True
        self._write()

    def settle(self) -> None:
        """All rows have been asked.

        Raises:
            ModelError: none was ever answered.
        """
        failed = [*self.reasons, *self.unanswered]
        if failed and not self._answered:
            reason, count = Counter(failed).most_common(1)[0]
            raise ModelError(
                f"{self._model}: none of {len(failed):,} questions was answered; most often ({count:,}): {reason}"
            )
        self._write()

    def _write(self) -> None:
        if self._journal is not None:
            for key, value in self._waiting.items():
                self._journal.append(key, value)
        self._waiting.clear()


def listed_reasons(reasons: list[str], most: int = 3) -> str:
    """`12 x (the reply was cut off), 1 x (...)`, the most frequent first."""
    counted = Counter(reasons).most_common()
    more = len(counted) - most
    told = [f"{count:,} x ({reason})" for reason, count in counted[:most]]
    return ", ".join([*told, *([f"and {more:,} other reasons"] if more > 0 else [])])
