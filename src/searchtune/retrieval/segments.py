"""One file of the embedding cache: vectors and the hashes of their texts, written once and never changed.

    header    64 bytes: magic, rows, dim, rows per block, CRC-32 of hashes and block sums, CRC-32 of the header itself
    hashes    rows x 16 bytes, ascending
    sums      one CRC-32 (RFC 1952) for each block of vectors
    (gap)     zeros up to a multiple of 64 bytes
    vectors   rows x dim float32, little-endian

Opening checks the header, the file's size, the hashes and the sums; a block of vectors is checked the first time that
one of its rows is read. So nothing is read only to be checked, and no vector is handed out unchecked.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from searchtune.errors import StorageError
from searchtune.storage.atomic import atomic_write
from searchtune.types import FloatArray, IntArray

SUFFIX = ".vectors"
HASH_BYTES = 16
HashArray = npt.NDArray[np.bytes_]
"""Shape: (texts,) of 16 bytes each. All are of full width, so that numpy's cutting of trailing zeros is harmless."""

_MAGIC = b"STVECS\x00\x01"
_HEADER = struct.Struct("<8sQIII")
_HEADER_SIZE = 64
_BLOCK = 64
_VECTOR = np.dtype("<f4")
_SUM = np.dtype("<u4")


class DamagedSegment(StorageError):
    """A file of the cache is cut short or changed; its texts are encoded again."""


class Segment:
    """An open segment: hashes in memory, vectors mapped."""

    def __init__(self, path: Path, hashes: HashArray, sums: npt.NDArray[np.uint32], vectors: FloatArray) -> None:
        self.path = path
        self.hashes = hashes
        self._sums = sums
        self._vectors = vectors
        self._checked = np.zeros(len(sums), dtype=np.bool_)

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def nbytes(self) -> int:
        """Size of the vectors in bytes."""
        return int(self._vectors.nbytes)

    def find(self, hashes: HashArray) -> IntArray:
        """The row of each hash, -1 where it is not here. Shape: (texts,) -> (texts,)."""
        rows = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[rows] == hashes, rows, -1).astype(np.int64)

    def read(self, rows: IntArray) -> FloatArray:
        """Vectors of some rows. Shape: (rows,) -> (rows, dim).

        Raises:
            DamagedSegment: a block with one of these rows is not what was written.
        """
        blocks = np.unique(rows // _BLOCK)
        for block in blocks[~self._checked[blocks]].tolist():
            if zlib.crc32(self._vectors[block * _BLOCK : (block + 1) * _BLOCK].data) != self._sums[block]:
                raise DamagedSegment(f"{self.path}: vectors from row {block * _BLOCK} on are not what was written")
            self._checked[block] = True
        return np.asarray(self._vectors[rows], dtype=np.float32)


def write_segment(path: Path, hashes: HashArray, vectors: FloatArray) -> None:
    """Write a segment, whole or not at all. The hashes may come in any order but only once each.

    Shape: hashes (texts,), vectors (texts, dim).

    Raises:
        StorageError: the disk refused the write.
    """
    order = np.argsort(hashes)
    rows, dim = vectors.shape
    with atomic_write(path) as file:
        sums = np.zeros(-(-rows // _BLOCK), dtype=_SUM)
        file.seek(_vectors_start(rows))
        for block in range(len(sums)):
            some = np.ascontiguousarray(vectors[order[block * _BLOCK : (block + 1) * _BLOCK]], dtype=_VECTOR)
            sums[block] = zlib.crc32(some.data)
            file.write(some.data)
        names = hashes[order].tobytes()
        header = _HEADER.pack(_MAGIC, rows, dim, _BLOCK, zlib.crc32(names + sums.tobytes()))
        file.seek(0)
        file.write((header + struct.pack("<I", zlib.crc32(header))).ljust(_HEADER_SIZE, b"\0"))
        file.write(names + sums.tobytes())


def open_segment(path: Path) -> Segment:
    """Open a segment and check all of it but its vectors.

    Raises:
        DamagedSegment: it is cut short or changed.
        OSError: it cannot be opened; `FileNotFoundError` where it was removed meanwhile.
    """
    with path.open("rb") as file:
        rows, dim, crc = _read_header(file, path)
        names = file.read(rows * HASH_BYTES)
        sums = file.read(-(-rows // _BLOCK) * _SUM.itemsize)
        if zlib.crc32(names + sums) != crc:
            raise DamagedSegment(f"{path}: the hashes of its texts are not what was written")
        vectors = np.memmap(file, dtype=_VECTOR, mode="r", offset=_vectors_start(rows), shape=(rows, dim))
    return Segment(path, np.frombuffer(names, dtype=f"S{HASH_BYTES}"), np.frombuffer(sums, dtype=_SUM), vectors)


def count_rows(path: Path) -> int:
    """How many texts a segment holds, by its header and its size alone; raises as `open_segment`."""
    with path.open("rb") as file:
        return _read_header(file, path)[0]


def _read_header(file: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Rows, dim, and the CRC of hashes and sums."""
    header = file.read(_HEADER_SIZE)
    plain, sealed = header[: _HEADER.size], header[_HEADER.size : _HEADER.size + 4]
    if len(header) < _HEADER_SIZE or struct.pack("<I", zlib.crc32(plain)) != sealed:
        raise DamagedSegment(f"{path}: no readable header")
    magic, rows, dim, block, crc = _HEADER.unpack(plain)
    size = _vectors_start(rows) + rows * dim * _VECTOR.itemsize
    found = os.fstat(file.fileno()).st_size
    if magic != _MAGIC or block != _BLOCK or not rows or not dim:
        raise DamagedSegment(f"{path}: not a segment that this version writes")
    if found != size:
        raise DamagedSegment(f"{path}: {found:,} bytes where its header says {size:,}")
    return rows, dim, crc


def _vectors_start(rows: int) -> int:
    used = _HEADER_SIZE + rows * HASH_BYTES + -(-rows // _BLOCK) * _SUM.itemsize
    return -(-used // 64) * 64
