"""An append-only journal of a long job, for results that must not be lost or paid for twice.

A journal is a file of JSON lines. The first says which job it belongs to; every other is one result under its key:

    {"sum":"9f2c...","format":1,"header":{"model":"...","prompt":"umbrela/1"}}
    {"sum":"03ab...","key":"q7 d12","value":{"grade":2}}

`sum` is the first half of the sha256 of all bytes behind it in its line. A process that is killed while it writes
leaves a last line without its line end: readers do not see it, and the next writer cuts it off. Any other damage was
done from outside and is an error.

What is durable. `append` hands a whole line to the operating system before it returns, so that the death of the
process, kill -9 included, takes nothing that was appended. A power cut may take what was appended after the last sync:
at most `sync_every` results, and those of the last `sync_seconds` before the latest `append`. What `flush` or `close`
returned for is on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, KeysView, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

from searchtune.errors import ConfigError, DataError, StorageError
from searchtune.storage.atomic import explain_refusal, sync_folder

JOURNAL_FILE = "journal.jsonl"
FORMAT = 1

_OPENING = b'{"sum":"'
_SUM = 32
"""Hex digits of a line's sum."""
_BODY = len(_OPENING) + _SUM + len(b'",')
"""Where the bytes begin that the sum is over."""
_SHOWN = 5


def journal_file(place: Path) -> Path:
    """The journal that `place` means: itself for a name in `.jsonl`, otherwise `journal.jsonl` in that folder."""
    return place if place.suffix == ".jsonl" else place / JOURNAL_FILE


class JournalView:
    """The whole lines that a journal holds at this moment; its writer may go on meanwhile.

    Keeps each key in memory, and no value.
    """

    def __init__(self, place: Path) -> None:
        """Read the journal that `place` means (see `journal_file`).

        Raises:
            DataError: there is no journal, or it is damaged; the message names file, line and remedy.
        """
        self.path = journal_file(place)
        self._scan()
        if not self._lines:
            raise DataError(f"{self.path}: empty, so nobody has written to this journal yet; check the path")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def keys(self) -> KeysView[str]:
        """The keys, in the order in which they were appended."""
        return self._places.keys()

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Keys and values in the order in which they were appended, as of this moment; read from the file."""
        count = len(self._places)
        with self._opened() as file:
            for key, place in list(islice(self._places.items(), count)):
                file.seek(place)
                yield key, self._value(file.readline(), key)

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under `key`, or None."""
        if key not in self._places:
            return None
        with self._opened() as file:
            file.seek(self._places[key])
            return self._value(file.readline(), key)

    def _scan(self) -> None:
        """Read header and keys. `_end` is where the last whole line ends, `_lines` how many there are."""
        self._places: dict[str, int] = {}
        self._end, self._lines = 0, 0
        self.header: dict[str, Any] = {}
        with self._opened() as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                self._lines += 1
                self._take(_parsed(raw, self.path, self._lines), raw)
                self._end += len(raw)

    def _take(self, line: Mapping[str, Any], raw: bytes) -> None:
        if self._lines == 1:
            if "header" not in line:
                raise DataError(f"{self.path}:1: no header, so this is no journal of searchtune; choose another path")
            if line["format"] != FORMAT:
                raise DataError(
                    f"{self.path}:1: format {line['format']!r}, and this version reads {FORMAT}; read it with the "
                    "version that wrote it"
                )
            self.header = line["header"]
        elif "key" not in line:
            raise DataError(
                f"{self.path}:{self._lines}: a second header: two journals in one file; take it apart here, and join "
                "the parts with `merge_journals`"
            )
        elif (key := line["key"]) not in self._places:
            self._places[key] = self._end
        elif self._line_at(self._places[key]) != raw:
            raise DataError(
                f"{self.path}:{self._lines}: key {key!r} has another value than before; remove one of the two lines"
            )

    def _line_at(self, place: int) -> bytes:
        with self._opened() as file:
            file.seek(place)
            return file.readline()

    def _value(self, raw: bytes, key: str) -> dict[str, Any]:
        value: dict[str, Any] = _parsed(raw, self.path, None)["value"] if raw else {}
        if not raw:
            raise DataError(f"{self.path}: the value of {key!r} is no longer there: the file was cut meanwhile")
        return value

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read as a journal ({error.strerror}); check the path") from error


class Journal(JournalView):
    """A journal that this process writes to, alone; see the module's docstring for what is durable when.

    Use it as a context manager, or call `close`. Threads may share it.
    """

    def __init__(
        self, place: Path, header: Mapping[str, Any], *, sync_every: int = 256, sync_seconds: float = 2.0
    ) -> None:
        """Begin a journal, or go on with one whose header says the same.

        `header` is all that the results depend on: identity of model and adapter, prompt, parameters. A last line that
        was torn by a kill is cut off.

        Raises:
            ConfigError: the journal belongs to another job; the message says what differs.
            DataError: it is damaged, or the file is something else.
            StorageError: the place cannot be written, or another process is writing to this journal.
        """
        self._handle = -1
        self.path = journal_file(place)
        self._header = _plain(header, f"{self.path}: the header")
        self._sync_every, self._sync_seconds = sync_every, sync_seconds
        self._unsynced, self._synced_at = 0, time.monotonic()
        self._turn = threading.RLock()
        self._handle = self._locked()
        try:
            self._refuse_foreign()
            self._scan()
            self._begin()
        except BaseException:
            self._release()
            raise

    def append(self, key: str, value: Mapping[str, Any]) -> bool:
        """Add a result. False, and nothing done, where the journal has the same value under this key.

        Values are JSON: tuples are read back as lists.

        Raises:
            DataError: the key has another value already, or the value is no JSON (NaN and infinities are none).
            StorageError: the disk refused it. What was there before is still valid; this journal takes no more until
                it is opened again.
        """
        body = {"key": key, "value": _plain(value, f"{self.path}: the value of {key!r}")}
        raw = journal_line(body)
        with self._turn:
            self._check_open()
            if key in self._places:
                if self._line_at(self._places[key]) == raw:
                    return False
                raise DataError(
                    f"{self.path}: key {key!r} has the value {str(self.get(key))[:200]}, and now "
                    f"{str(body['value'])[:200]} is given; a key must name all that its value depends on"
                )
            self._write(raw, key)
            if self._unsynced >= self._sync_every or time.monotonic() - self._synced_at >= self._sync_seconds:
                self.flush()
        return True

    def flush(self) -> None:
        """Bring everything appended so far to disk.

        Raises:
            StorageError: the disk refused; see `append`.
        """
        with self._turn:
            self._check_open()
            try:
                os.fsync(self._handle)
            except OSError as error:
                self._give_up(error)
            self._unsynced, self._synced_at = 0, time.monotonic()

    def close(self) -> None:
        """Flush and let the next writer in. A closed journal can still be read; closing it again does nothing."""
        with self._turn:
            if self._handle < 0:
                return
            self.flush()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._release()

    def _locked(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            explain_refusal(error, self.path)
            raise StorageError(f"{self.path}: cannot be written ({error.strerror}); choose another place") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise StorageError(
                f"{self.path}: another process is writing to this journal; wait for it, or give each process a shard "
                "and a journal of its own"
            ) from error
        except OSError as error:
            os.close(handle)
            raise StorageError(
                f"{self.path}: cannot be locked ({error.strerror}); choose a place on a local disk"
            ) from error
        return handle

    def _refuse_foreign(self) -> None:
        """A first line without an end is a header torn by a kill, or another file that must not be cut."""
        with self._opened() as file:
            head = file.read(len(_OPENING))
        if head.strip(b"\0") and not (_OPENING.startswith(head) or head == _OPENING):
            raise DataError(f"{self.path}: not a journal of searchtune; choose another path")

    def _begin(self) -> None:
        """Compare the header, cut off a torn last line; write the header where there is none."""
        if self._lines:
            check_same_job(self.path, self.header, self._header)
        try:
            os.ftruncate(self._handle, self._end)
        except OSError as error:
            self._give_up(error)
        if self._lines:
            return
        self._write(journal_line({"format": FORMAT, "header": self._header}), None)
        self.flush()
        sync_folder(self.path.parent)
        self.header = self._header

    def _write(self, raw: bytes, key: str | None) -> None:
        """Write a line; after any exception, Ctrl-C included, file and keys are as they were before."""
        end = self._end
        try:
            done = 0
            while done < len(raw):
                done += os.write(self._handle, raw[done:])
            if key is not None:
                self._places[key] = end
            self._lines += 1
            self._unsynced += 1
            self._end = end + len(raw)
        except BaseException as error:
            if self._end == end:
                with suppress(OSError):
                    os.ftruncate(self._handle, end)
                self._places.pop(key or "", None)
            if isinstance(error, OSError):
                self._give_up(error)
            raise

    def _give_up(self, error: OSError) -> None:
        """The disk refused. What a failed sync left behind is uncertain, so nothing more is written through it."""
        self._release()
        explain_refusal(error, self.path)
        raise StorageError(
            f"{self.path}: {error.strerror}; what was there before is still valid: run the command again"
        ) from error

    def _release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _check_open(self) -> None:
        if self._handle < 0:
            raise StorageError(f"{self.path}: this journal is closed; open it again to go on")


def journal_line(body: Mapping[str, Any]) -> bytes:
    """A whole line. Non-ASCII characters are escaped, so that half a surrogate pair from a remote reply survives."""
    rest = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")[1:]
    return _OPENING + _sum(rest) + b'",' + rest + b"\n"


def _sum(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest()[:_SUM].encode("ascii")


def _parsed(raw: bytes, path: Path, number: int | None) -> dict[str, Any]:
    """A line's content, after its sum was checked."""
    rest = raw[_BODY:-1]
    if not (raw.startswith(_OPENING) and raw[len(_OPENING) : _BODY] == _sum(rest) + b'",' and raw.endswith(b"\n")):
        place = f"{path}:{number}" if number else str(path)
        if number == 1:
            raise DataError(f"{place}: not a journal of searchtune, or its first line is damaged; choose another path")
        keep = f"`head -n {number - 1} {path}`" if number else "`head`"
        raise DataError(
            f"{place}: damaged or edited, since its checksum does not fit: {raw[:60]!r}; bring the file back from a "
            f"copy, or keep the lines before it ({keep} into a new file) and let the job do the rest again"
        )
    content: dict[str, Any] = json.loads(b"{" + rest)  # written by us and sealed by its sum
    return content


def _plain(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`value` as it will be read back, keys sorted."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be written as JSON ({error}); give texts, finite numbers and lists") from error
    return plain


def check_same_job(path: Path, there: Mapping[str, Any], here: Mapping[str, Any], *, other: str = "this job") -> None:
    """Raise a `ConfigError` that names what differs between two headers."""
    left, right = _flat(there), _flat(here)
    differs = [key for key in {**left, **right} if left.get(key, _ABSENT) != right.get(key, _ABSENT)]
    if differs:
        shown = "; ".join(f"{key} is {_show(left, key)} there and {_show(right, key)} here" for key in differs[:_SHOWN])
        more = f"; and {len(differs) - _SHOWN} more" if len(differs) > _SHOWN else ""
        raise ConfigError(
            f"{path}: written by another job than {other}: {shown}{more}; run with what it was begun with, or choose "
            "another output"
        )


_ABSENT = object()


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key])[:80] if key in flat else "absent"


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat.update(_flat(inner, f"{above}{key}."))
        else:
            flat[f"{above}{key}"] = inner
    return flat
