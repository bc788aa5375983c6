"""The errors a user can meet. Each message says what was found, what was expected and what to do next.

The command line turns any `SearchtuneError` into one line on stderr and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SearchtuneError(Exception):
    """Base of all errors that a user can mend."""

    exit_code = 2
    """What the command line exits with."""


class ConfigError(SearchtuneError):
    """A recipe, task or suite does not say what it should: unknown key, wrong type, missing file."""


class DataError(SearchtuneError):
    """A collection on disk is broken. `problems` lists every place; the message shows the first ones."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class LeakError(DataError):
    """Train and test share queries, or near-duplicates of them."""


class ModelError(SearchtuneError):
    """A base model cannot be found or used."""


class ArtifactError(SearchtuneError):
    """A saved adapter is incomplete, corrupted, on the wrong base, or does not reload as what was trained."""


class StorageError(SearchtuneError):
    """The disk refused a write: full, over quota, read-only or not ours. What was there before is still valid."""


class OutputExistsError(SearchtuneError):
    """The output folder is already there and the command was not told what to do about it."""


class OutputBusyError(SearchtuneError):
    """Another process is writing to the output; the message names it and its host."""


class MissingExtraError(SearchtuneError):
    """An optional dependency is not installed; the message says which `pip install` brings it."""


class SearchtuneWarning(UserWarning):
    """Something that stops nothing and that the user should know. The command line prints it as one line on stderr."""


def did_you_mean(value: str, alternatives: Iterable[str]) -> str:
    """A clause such as `; did you mean 'rank'?`, or the list of alternatives where none is close."""
    options = sorted(alternatives)
    close = get_close_matches(value, options, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(options)}" if options else ""
