"""Indexes on disk, each with the fingerprint of the encoder and the documents that made it.

A folder holds `index.json` (kind, fingerprint, sizes), then `vectors.npy` for an `ExactIndex` or `index.faiss` for a
FAISS one, and `COMPLETE.json`. No pickle: arrays and FAISS's own format.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.errors import ArtifactError
from searchtune.reading import read_array, read_json_object
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.faiss_index import Factory, FaissIndex, Flat, Hnsw, Ivf, Kind, Pq, Sq, import_faiss
from searchtune.storage.atomic import new_folder, write_json
from searchtune.storage.marker import check_complete

INDEX_FILE = "index.json"
_VECTORS, _FAISS = "vectors.npy", "index.faiss"
_KINDS: dict[str, type[Kind]] = {kind.__name__.lower(): kind for kind in (Flat, Ivf, Hnsw, Pq, Sq, Factory)}


def save_index(index: ExactIndex | FaissIndex, folder: Path, fingerprint: str) -> None:
    """Write the index as `folder`, whole or not at all; a complete folder of that name is replaced.

    `fingerprint` stands for all that decides about the vectors: encoder, prompt, token limit, documents.
    """
    facts: dict[str, Any] = {"fingerprint": fingerprint, "documents": index.documents}
    with new_folder(folder) as fresh:
        if isinstance(index, FaissIndex):
            import_faiss().write_index(index.on_cpu(), str(fresh / _FAISS))
            name = type(index.settings).__name__.lower()
            facts |= {"kind": name, "settings": asdict(index.settings), "build_seconds": index.build_seconds}
        else:
            with (fresh / _VECTORS).open("wb") as file:
                np.save(file, index.vectors, allow_pickle=False)
            facts |= {"kind": index.kind, "settings": {}, "build_seconds": 0.0}
        write_json(fresh / INDEX_FILE, facts)


def load_index(folder: Path, fingerprint: str, *, mmap: bool = True) -> ExactIndex | FaissIndex:
    """The index that `save_index` wrote, on the CPU.

    With `mmap` the vectors stay on disk and are read as a search needs them, and only the sizes of the files are
    compared with `COMPLETE.json`; without it everything is read and its sha256 too is compared.

    Raises:
        ArtifactError: the folder is incomplete or damaged, or another encoder or other documents made it.
        MissingExtraError: it is a FAISS index and FAISS is not installed.
    """
    facts = read_facts(folder, INDEX_FILE, fingerprint, hashes=not mmap)
    if facts.get("kind") == ExactIndex.kind:
        index: ExactIndex | FaissIndex = ExactIndex(_read_vectors(folder / _VECTORS, mmap=mmap))
    else:
        index = _read_faiss(folder, facts, mmap=mmap)
    if index.documents != facts.get("documents"):
        raise ArtifactError(
            f"{folder}: {index.documents} documents where {INDEX_FILE} says {facts.get('documents')}; save it anew"
        )
    return index


def read_facts(folder: Path, name: str, fingerprint: str, *, hashes: bool) -> dict[str, Any]:
    """The JSON object in the file `name` of a complete folder, once its fingerprint is found to be the expected one."""
    check_complete(folder, hashes=hashes)
    facts = read_json_object(folder / name, ArtifactError)
    try:
        found = facts["fingerprint"]
    except KeyError as error:
        raise ArtifactError(f"{folder / name}: cannot be read as an index's facts ({error}); save it anew") from error
    if found != fingerprint:
        raise ArtifactError(
            f"{folder}: made with the fingerprint {found}, and {fingerprint} is asked for: another encoder or other "
            "documents. Build the index again, or load it with the encoder and documents that made it"
        )
    return facts


def _read_vectors(file: Path, *, mmap: bool) -> Any:
    return read_array(file, ArtifactError, mmap=mmap)


def _read_faiss(folder: Path, facts: dict[str, Any], *, mmap: bool) -> FaissIndex:
    faiss = import_faiss()
    flag = (getattr(faiss, "IO_FLAG_MMAP_IFC", 0) or faiss.IO_FLAG_MMAP) if mmap else 0
    try:
        settings = _KINDS[facts["kind"]](**facts["settings"])
        index = faiss.read_index(str(folder / _FAISS), flag)
        return FaissIndex.of(index, settings, float(facts["build_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / INDEX_FILE}: not an index of this searchtune ({error}); save it anew"
        ) from error
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ArtifactError(f"{folder / _FAISS}: FAISS cannot read it ({reason}); save it anew") from error
