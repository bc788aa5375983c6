"""BM25 over the documents' words with bm25s (Lù 2024): by default Lucene's variant, k1 1.5, b 0.75, no stemming.

Words are those of `searchtune.words`; those that bm25s finds by itself lose the marks of Hindi or Thai and take a
Chinese sentence for one word.

bm25s is imported where it is used: it brings numba where that is installed, a quarter of a second that an evaluation
without BM25 need not wait for.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from searchtune.errors import ArtifactError, ConfigError, OutputExistsError, StorageError, did_you_mean
from searchtune.retrieval.store import INDEX_FILE, read_facts
from searchtune.storage.atomic import new_folder, write_json
from searchtune.storage.fingerprint import Fingerprint
from searchtune.types import NO_DOC, IntArray, Run
from searchtune.words import WORDS_VERSION, search_words

Variant = Literal["lucene", "robertson", "atire"]
"""Ways to weigh words (Kamphuis et al. 2020) under which a document without a query's words scores 0."""
_KEPT = 16
"""Indexes that `kept_bm25` leaves on disk."""
Stemmer = Callable[[list[str]], list[str]]
"""Words to their stems, such as `Stemmer.Stemmer("english").stemWords` of PyStemmer."""


class BM25Index:
    """A lexical index; documents without a query's words are not returned.

    `build_seconds` is what it took to make, in whatever process that was.
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        k1: float = 1.5,
        b: float = 0.75,
        method: Variant = "lucene",
        stop_words: str | Sequence[str] | None = "en",
        stemmer: Stemmer | None = None,
    ) -> None:
        """Index the words of `search_words` without `stop_words` (a language or a list).

        `wordless` is how many documents with a text have no word: no search by words can find them.

        Raises:
            ConfigError: k1 below 0, b outside 0 to 1, an unknown method or language of stop words.
        """
        import bm25s

        _check(k1, b, method)
        self.documents = len(documents)
        self.stop_words = stop_words if isinstance(stop_words, str) else list(stop_words or [])
        self._stemmer = stemmer
        self._bm25 = bm25s.BM25(k1=k1, b=b, method=method)
        start = time.perf_counter()
        tokens = self._tokens(documents)
        self.empty = not tokens.vocab
        self.wordless = sum(not ids and bool(text.strip()) for ids, text in zip(tokens.ids, documents, strict=True))
        if not self.empty:
            self._bm25.index(tokens, show_progress=False)
        self.build_seconds = time.perf_counter() - start

    def search(self, queries: IntArray, texts: Sequence[str], depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out. Shape: queries (n,), texts (n,)."""
        depth = min(depth, self.documents - (0 if exclude is None else len(np.unique(exclude))))
        if self.empty or depth <= 0 or not len(queries):
            return Run.ranked(queries, np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
        weights = np.ones(self.documents, dtype=np.float32)
        weights[np.zeros(0, np.int64) if exclude is None else exclude] = 0
        docs, scores = self._bm25.retrieve(self._tokens(texts), k=depth, weight_mask=weights, show_progress=False)
        return Run.ranked(queries, np.where(scores > 0, docs, NO_DOC), scores)

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the index as `folder`, whole or not at all; `fingerprint` stands for the documents that made it."""
        facts = {
            "kind": "bm25",
            "fingerprint": fingerprint,
            "documents": self.documents,
            "empty": self.empty,
            "wordless": self.wordless,
            "words": WORDS_VERSION,
            "stop_words": self.stop_words,
            "stemmed": self._stemmer is not None,
            "build_seconds": self.build_seconds,
        }
        with new_folder(folder) as fresh:
            if not self.empty:
                self._bm25.save(fresh, show_progress=False)
            write_json(fresh / INDEX_FILE, facts)

    @classmethod
    def load(cls, folder: Path, fingerprint: str, *, stemmer: Stemmer | None = None, mmap: bool = False) -> BM25Index:
        """The index that `save` wrote; one made with a stemmer needs the same one again.

        Raises:
            ArtifactError: the folder is incomplete or damaged, is no BM25 index, is of other documents, or was stemmed
                otherwise.
        """
        facts = read_facts(folder, INDEX_FILE, fingerprint, hashes=not mmap)
        if facts.get("kind") != "bm25":
            raise ArtifactError(f"{folder}: holds an index of kind {facts.get('kind')!r}, not bm25: use load_index")
        if facts.get("stemmed") != (stemmer is not None):
            made = "with a stemmer: pass the same one" if facts.get("stemmed") else "without a stemmer: pass none"
            raise ArtifactError(f"{folder}: made {made}, or queries and documents would not share their words")
        if facts.get("words") != WORDS_VERSION:
            raise ArtifactError(f"{folder}: made when words were found in another way: save it anew")
        import bm25s

        index = cls.__new__(cls)
        try:
            index.documents, index.empty, index.stop_words = facts["documents"], facts["empty"], facts["stop_words"]
            index.wordless = int(facts["wordless"])
            index._stemmer, index.build_seconds = stemmer, float(facts.get("build_seconds", 0))
            index._bm25 = None if index.empty else bm25s.BM25.load(folder, mmap=mmap, show_progress=False)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder}: cannot be read as a BM25 index ({error}); save it anew") from error
        return index

    def _tokens(self, texts: Sequence[str]) -> Any:
        """The texts as bm25s wants them: numbers of words in a vocabulary that holds each word, or its stem, once."""
        from bm25s.tokenization import Tokenized, Tokenizer

        try:
            stop_words = frozenset(Tokenizer(stopwords=self.stop_words).stopwords)
        except ValueError as error:
            raise ConfigError(f"stop words {self.stop_words!r}: {error}; a list of words serves too") from error
        known: defaultdict[str, int] = defaultdict(count().__next__)  # a new word gets the next number
        ids = [[known[word] for word in search_words(text) if word not in stop_words] for text in texts]
        if self._stemmer is None:
            return Tokenized(ids, dict(known))
        stems = self._stemmer(list(known))
        vocabulary = {stem: place for place, stem in enumerate(dict.fromkeys(stems))}
        places = [vocabulary[stem] for stem in stems]
        return Tokenized([[places[word] for word in row] for row in ids], vocabulary)


def kept_bm25(documents: Sequence[str], home: Path) -> BM25Index:
    """The index with BM25's defaults, kept in `home` by the hash of the documents: made once, then read.

    The `_KEPT` latest made stay. An index that is damaged is made anew; one that cannot be written is not kept.
    """
    key = Fingerprint().add("bm25", version("bm25s"), str(WORDS_VERSION)).add_texts(documents).hexdigest()
    folder = home / key
    if folder.is_dir():
        try:
            return BM25Index.load(folder, key)
        except ArtifactError:
            shutil.rmtree(folder, ignore_errors=True)
    index = BM25Index(documents)
    with suppress(StorageError, OutputExistsError, OSError):
        index.save(folder, key)
        whole = [one for one in home.iterdir() if not one.name.startswith(".")]
        for old in sorted(whole, key=lambda one: one.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return index


def _check(k1: float, b: float, method: str) -> None:
    if not 0 <= k1 < np.inf:
        raise ConfigError(f"k1 {k1}: must be a number from 0 on; 0.9 to 1.5 is usual")
    if not 0 <= b <= 1:
        raise ConfigError(f"b {b}: must be between 0 (length does not matter) and 1")
    if method not in get_args(Variant):
        raise ConfigError(f"unknown BM25 variant {method!r}{did_you_mean(method, get_args(Variant))}")
