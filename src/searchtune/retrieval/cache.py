"""The embedding cache: vectors of texts on disk, so that no text is encoded twice by the same encoder.

    FOLDER/KEY/key.json           what the encoder is, for people; its time of change is the time of last use
    FOLDER/KEY/*.vectors          segments, each written once (see `segments.py`)

KEY is a hash over all that decides a vector (weights, adapter, prompt, pooling, length, precision ...), which the
caller gives as plain values: this module knows no model. Within a key a text is known by the first 16 bytes of the
sha256 of its UTF-8: among a billion texts the chance that any two share them is 10^-21.

Vectors are kept as the float32 that the encoder gives, so that a vector from the cache is the encoder's to the bit.
Several processes may use one folder: each writes segments of its own, and looks at the folder anew at each lookup. A
cache never makes a run fail: where it cannot be read or written, it warns once and texts are encoded.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from searchtune.errors import DataError, ModelError, SearchtuneWarning, StorageError
from searchtune.reading import read_json_object, user_path
from searchtune.retrieval.segments import (
    HASH_BYTES,
    SUFFIX,
    DamagedSegment,
    HashArray,
    Segment,
    count_rows,
    open_segment,
    write_segment,
)
from searchtune.storage.atomic import sweep, temporary_beside, write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.places import cache_root
from searchtune.types import FloatArray, IntArray

KeyValue = str | int | float | bool | None
KEY_FILE = "key.json"
_FORMAT = 1
_NAME_LENGTH = 32
_MANY = 32
_SMALL = 16 * 2**20
"""More than `_MANY` segments of at most `_SMALL` bytes in a key are merged into one."""


class CacheWarning(SearchtuneWarning):
    """Something in the cache could not be used; texts are encoded as if it were not there."""


@dataclass(frozen=True)
class EncoderKey:
    """What the vectors of one encoder are filed under."""

    fields: Mapping[str, KeyValue]
    """All that can change a vector, by name."""
    label: str = ""
    """Words for people; no part of what tells keys apart."""
    name: str = field(init=False)
    """Folder of the key: the first 32 hex digits of the hash of `fields`."""

    def __post_init__(self) -> None:
        name = sha256_json({"format": _FORMAT, "fields": dict(self.fields)})[:_NAME_LENGTH]
        object.__setattr__(self, "name", name)


@dataclass(frozen=True)
class KeyInfo:
    """What the cache holds for one encoder."""

    name: str
    label: str
    fields: Mapping[str, KeyValue]
    texts: int
    bytes: int
    last_used: float
    """Seconds since 1970."""


class EmbeddingCache:
    """Vectors on disk by encoder and text."""

    def __init__(self, folder: Path | str | None = None) -> None:
        """`folder` is made at the first write; by default it is `default_folder()`."""
        self.folder = default_folder() if folder is None else user_path(folder)
        self._opened: dict[str, dict[str, Segment]] = {}
        self._passed_over: set[Path] = set()
        self._refused = False

    def get(self, key: EncoderKey, texts: Sequence[str]) -> tuple[FloatArray, IntArray]:
        """Vectors of texts, and the positions of those that are not here, ascending; their rows are NaN.

        Shape: (texts, dim), (missing,). Where the key holds nothing at all, dim is unknown and 0.
        """
        return self._find(key, text_hashes(texts))

    def put(self, key: EncoderKey, texts: Sequence[str], vectors: FloatArray) -> None:
        """Keep the vectors of texts. Shape: vectors (texts, dim).

        Raises:
            ModelError: the vectors are not one finite row a text, or of another dim than those of this key.
        """
        self._keep(key, text_hashes(texts), _checked(vectors, texts))

    def encode_through(
        self, key: EncoderKey, texts: Sequence[str], encode: Callable[[list[str]], FloatArray]
    ) -> FloatArray:
        """Vectors of all texts: those not here are encoded by one call of `encode`, each text once, and kept.

        Shape: (texts, dim); `encode` takes n texts and gives (n, dim).

        Raises:
            ModelError: as `put`.
        """
        hashes = text_hashes(texts)
        vectors, missing = self._find(key, hashes)
        if not len(missing):
            return vectors
        new, first, inverse = np.unique(hashes[missing], return_index=True, return_inverse=True)
        order = np.argsort(first)
        batch = [texts[int(place)] for place in missing[first[order]]]
        fresh = _checked(encode(batch), batch)
        self._keep(key, new[order], fresh)
        if not vectors.shape[1]:
            vectors = np.empty((len(texts), fresh.shape[1]), dtype=np.float32)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        vectors[missing] = fresh[rank[inverse]]
        return vectors

    def info(self) -> list[KeyInfo]:
        """What is here, by encoder, the latest used first."""
        return sorted((_describe(folder) for folder in self._key_folders()), key=lambda one: -one.last_used)

    def candidates(
        self,
        *,
        older_than_days: float | None = None,
        max_bytes: int | None = None,
        keys: Iterable[str] | None = None,
    ) -> list[KeyInfo]:
        """What `prune` would remove, the oldest use first."""
        wanted = None if keys is None else set(keys)
        found = [one for one in reversed(self.info()) if wanted is None or one.name in wanted]
        if older_than_days is None and max_bytes is None:
            return [] if wanted is None else found
        before = -np.inf if older_than_days is None else time.time() - older_than_days * 86400
        left = sum(one.bytes for one in found)
        gone = []
        for one in found:
            if one.last_used < before or (max_bytes is not None and left > max_bytes):
                gone.append(one)
                left -= one.bytes
        return gone

    def prune(
        self,
        *,
        older_than_days: float | None = None,
        max_bytes: int | None = None,
        keys: Iterable[str] | None = None,
    ) -> list[KeyInfo]:
        """Remove whole keys and return them, the oldest use first.

        A key goes if it was not used for `older_than_days`, or as long as all keys together exceed `max_bytes`.
        `keys` limits this to some, by name, and alone removes them all; without any argument nothing goes.
        A key is first renamed, so that whoever looks sees all of it or nothing; open segments stay readable.

        Raises:
            StorageError: a key cannot be removed.
        """
        _sweep_all(self.folder)
        gone = self.candidates(older_than_days=older_than_days, max_bytes=max_bytes, keys=keys)
        for one in gone:
            condemned = temporary_beside(self.folder / one.name)
            try:
                (self.folder / one.name).rename(condemned)
            except FileNotFoundError:  # another process pruned it
                continue
            except OSError as error:
                raise StorageError(
                    f"{self.folder / one.name}: cannot be removed ({error.strerror}); change its permissions"
                ) from error
            self._opened.pop(one.name, None)
            shutil.rmtree(condemned, ignore_errors=True)
        return gone

    def _find(self, key: EncoderKey, hashes: HashArray) -> tuple[FloatArray, IntArray]:
        missing = np.arange(len(hashes))
        segments = self._segments(key.name)
        if not segments:
            return np.zeros((len(hashes), 0), dtype=np.float32), missing
        vectors = np.full((len(hashes), segments[0].dim), np.nan, dtype=np.float32)
        for segment in segments:
            rows = segment.find(hashes[missing])
            here = rows >= 0
            if segment.dim != vectors.shape[1] or not here.any():
                continue
            try:
                vectors[missing[here]] = segment.read(rows[here])
            except DamagedSegment as error:
                self._pass_over(segment.path, error)
                continue
            missing = missing[~here]
        if len(missing) < len(hashes):
            with suppress(OSError):
                os.utime(self.folder / key.name / KEY_FILE)
        return vectors, missing

    def _segments(self, name: str) -> list[Segment]:
        """The sound segments of a key as the folder is now; those already open stay open."""
        before, now = self._opened.get(name, {}), dict[str, Segment]()
        for path in self._paths(name):
            if path in self._passed_over:
                continue
            try:
                now[path.name] = before[path.name] if path.name in before else open_segment(path)
            except FileNotFoundError:  # pruned or merged since the folder was listed
                continue
            except (DamagedSegment, OSError) as error:
                self._pass_over(path, error)
        self._opened[name] = now
        return list(now.values())

    def _paths(self, name: str) -> list[Path]:
        try:
            return sorted(path for path in (self.folder / name).iterdir() if path.suffix == SUFFIX)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._refuse(f"{self.folder / name}: cannot be read ({error.strerror})")
            return []

    def _pass_over(self, path: Path, error: Exception) -> None:
        """Never look at a segment again, and remove it if it is damaged: what it held is encoded anew."""
        self._passed_over.add(path)
        self._opened.get(path.parent.name, {}).pop(path.name, None)
        if isinstance(error, DamagedSegment):
            with suppress(OSError):
                path.unlink()
        reason = str(error) if isinstance(error, DamagedSegment) else f"{path}: {error}"
        warnings.warn(f"{reason}; passed over, its texts are encoded again", CacheWarning, stacklevel=2)

    def _keep(self, key: EncoderKey, hashes: HashArray, vectors: FloatArray) -> None:
        hashes, first = np.unique(hashes, return_index=True)
        vectors = vectors[first]
        if not len(hashes) or self._refused:
            return
        other = next((s.dim for s in self._opened.get(key.name, {}).values() if s.dim != vectors.shape[1]), None)
        if other is not None:
            raise ModelError(
                f"{self.folder / key.name}: holds vectors of {other} numbers, and {vectors.shape[1]} came under the "
                f"same key ({key.label or key.name}): the key misses something that tells the two encoders apart"
            )
        try:
            _sweep_all(self.folder / key.name)
            self._write(key, hashes, vectors)
            self._merge(key)
        except (StorageError, OSError) as error:
            self._refuse(str(error))

    def _write(self, key: EncoderKey, hashes: HashArray, vectors: FloatArray) -> None:
        """One new segment, with the key's description beside it.

        Where the key is pruned at this very moment, the folder is made again once.
        """
        folder = self.folder / key.name
        for last in (False, True):
            try:
                write_segment(folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}", hashes, vectors)
                if not (folder / KEY_FILE).is_file():
                    write_json(folder / KEY_FILE, {"format": _FORMAT, "label": key.label, "fields": dict(key.fields)})
                return
            except FileNotFoundError:
                if last:
                    raise

    def _merge(self, key: EncoderKey) -> None:
        """Make one segment of many small ones. Others may still read these: an open file outlives its name."""
        small = [segment for segment in self._segments(key.name) if segment.nbytes <= _SMALL]
        if len(small) <= _MANY or len({segment.dim for segment in small}) > 1:
            return
        try:
            vectors = np.concatenate([segment.read(np.arange(len(segment.hashes))) for segment in small])
        except DamagedSegment:  # a lookup that needs it will say so
            return
        hashes, first = np.unique(np.concatenate([segment.hashes for segment in small]), return_index=True)
        self._write(key, hashes, vectors[first])
        for segment in small:
            segment.path.unlink(missing_ok=True)

    def _refuse(self, reason: str) -> None:
        """Write nothing more: a full or read-only disk stays so, and one warning is enough."""
        if not self._refused:
            self._refused = True
            warnings.warn(f"embedding cache: {reason}; going on without keeping vectors", CacheWarning, stacklevel=2)

    def _key_folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if _is_key_name(path.name) and path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(
                f"{self.folder}: the embedding cache cannot be read ({error.strerror}); set SEARCHTUNE_CACHE"
            ) from error


def default_folder() -> Path:
    """`embeddings` in searchtune's cache folder."""
    return cache_root() / "embeddings"


def text_hashes(texts: Sequence[str]) -> HashArray:
    """First 16 bytes of the sha256 of each text's UTF-8. Shape: (texts,)."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES] for text in texts)
    return np.frombuffer(b"".join(digests), dtype=f"S{HASH_BYTES}")


def _checked(vectors: FloatArray, texts: Sequence[str]) -> FloatArray:
    """The vectors as float32; a `ModelError` unless there is one finite row for each text."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or (len(texts) and not vectors.shape[1]):
        raise ModelError(f"the encoder gave an array of shape {vectors.shape} for {len(texts):,} texts: one row each")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ModelError(
            f"the encoder gave NaN or infinity for {len(broken):,} of {len(texts):,} texts, the first of them "
            f"{texts[int(broken[0])][:60]!r}: its weights are broken, or the precision is too low; try fp32"
        )
    return vectors


def _describe(folder: Path) -> KeyInfo:
    """One key as its folder is now; what vanishes meanwhile counts nothing."""
    texts = size = 0
    times = [0.0]
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError, DamagedSegment):
            stat = path.stat()
            size += stat.st_size
            times.append(stat.st_mtime)
            texts += count_rows(path) if path.suffix == SUFFIX else 0
    try:
        written = read_json_object(folder / KEY_FILE)
        label, fields = str(written["label"]), dict(written["fields"])
        used = (folder / KEY_FILE).stat().st_mtime
    except (DataError, OSError, ValueError, KeyError, TypeError):
        label, fields, used = "", {}, max(times)
    return KeyInfo(folder.name, label, fields, texts, size, used)


def _is_key_name(name: str) -> bool:
    return len(name) == _NAME_LENGTH and set(name) <= set("0123456789abcdef")


def _sweep_all(folder: Path) -> None:
    """Remove what killed processes of ours left in `folder`: keys half removed, segments half written."""
    with suppress(OSError):
        for leftover in list(folder.glob(".*.tmp-*")):
            meant = folder / leftover.name[1:].rpartition(".tmp-")[0]
            if _is_key_name(meant.name) or meant.suffix == SUFFIX or meant.name == KEY_FILE:
                sweep(meant)
