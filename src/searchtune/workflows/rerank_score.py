"""Using a trained reranker: score pairs of a JSONL file, or put a TREC run in a new order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.named import NamedRun
from searchtune.data.rows import BadRow, RowReader
from searchtune.data.tasks import load_task, open_collection
from searchtune.data.trec import read_trec_run, write_trec_run
from searchtune.errors import DataError
from searchtune.metrics.calibration import Calibration
from searchtune.models.cut_count import CutCount
from searchtune.models.pairs import pair_store
from searchtune.reading import STDIN, user_path
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.card import RerankerCard
from searchtune.storage.atomic import atomic_write
from searchtune.storage.output import output_file
from searchtune.types import NO_DOC, Collection, IntArray, Run, document_text
from searchtune.workflows.open_reranker import OpenReranker, exit_of
from searchtune.workflows.progress import SILENT, Progress, WarningRecord
from searchtune.workflows.reranking import PairScorer, RerankRanker
from searchtune.workflows.search import OLD_TEMPLATE
from searchtune.workflows.systems import Request

_SHOWN = 5
_GIVEN = "given"


@dataclass(frozen=True)
class ScoredRun:
    """What reranking a run file did."""

    queries: int
    pairs: int
    """Pairs whose scores were asked for."""
    by_model: int
    """Of these, the ones that the model scored; the rest came from the cache."""
    milliseconds_per_query: float | None
    warnings: Sequence[str] = ()


def score_run(
    opened: OpenReranker,
    run_file: Path | str,
    task: str,
    out: Path | str,
    *,
    depth: int | None = None,
    blend: bool = True,
    early_exit: bool = False,
    cache: EmbeddingCache | None = None,
) -> ScoredRun:
    """Rerank a TREC run over a task's collection and write the new run to `out`.

    Documents are written as at training.
    `depth` None takes the depth that the adapter was trained for. `blend` and `early_exit` use what was fitted on dev,
    where the card has it.

    Raises:
        DataError: the run names queries or documents that the collection lacks.
        ConfigError: an early exit that the card does not have.
    """
    out = output_file(out)
    collection = open_collection(load_task(task))
    named = read_trec_run(user_path(run_file))
    run = _in_collection(named, collection, str(run_file))
    progress = WarningRecord(SILENT)
    scorer = PairScorer(opened.reads(collection, progress), opened.load, cache=cache, key=opened.key)
    card = opened.card
    ranker = RerankRanker(
        _GIVEN,
        scorer,
        depth or (card.depth if card is not None else run.depth),
        card.blend if card is not None and blend else None,
        exit_of(opened) if early_exit else None,
    )
    reranked = ranker.rank(Request(run.queries, run.depth), {_GIVEN: run})
    write_trec_run(out, NamedRun(named.tag, collection.query_ids, collection.doc_ids, reranked))
    _tell_cuts(opened, scorer.cuts, "pairs scored now", progress)
    pairs = round(float(ranker.cost["pairs_per_query"]) * len(run.queries))
    cost = ranker.cost.get("rerank_ms_per_query")
    return ScoredRun(len(run.queries), pairs, scorer.scored, None if cost is None else float(cost), progress.warnings)


def score_pairs(opened: OpenReranker, pairs: Path | str, *, progress: Progress = SILENT) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file (`-` is stdin) with a `score` each, and a `probability` where the card can give one.

    A row holds `query`, and `document` as the text that is read, or else `text` and `title`, which are written as at
    training; other keys are handed on.

    Raises:
        DataError: a line is no such object, or there is none.
    """
    rows = _read_pairs(Path(pairs), progress)
    reranker = opened.load()
    template = (None if opened.card is None else opened.card.doc_template) or OLD_TEMPLATE
    queries, documents = [row["query"] for row in rows], [_document(row, template) for row in rows]
    if template != "{text}" and any("document" in row for row in rows):
        progress.note(f"documents are read as they stand; give `title` and `text` instead to have them as {template!r}")
    store = pair_store(reranker.tokenizer, queries, documents, reranker.form)
    place = np.arange(len(rows))
    scores = reranker.score_store(store, place, place)
    cuts = CutCount()
    store.count(place, place, cuts)
    _tell_cuts(opened, cuts, "pairs", progress)
    calibration = _calibration_of(opened.card)
    probabilities = None if calibration is None else calibration(scores)
    for i, row in enumerate(rows):
        scored = {**row, "score": round(float(scores[i]), 6)}
        yield scored if probabilities is None else {**scored, "probability": round(float(probabilities[i]), 6)}


def _document(row: dict[str, Any], template: str) -> str:
    """The text of a row's document."""
    return str(row["document"]) if "document" in row else document_text(template, row.get("title") or "", row["text"])


def _tell_cuts(opened: OpenReranker, cuts: CutCount, what: str, progress: Progress) -> None:
    """Warn of pairs that were longer than what is read of them."""
    if not cuts.cut:
        return
    remedy = "split long documents" + (", or train with a larger max_tokens" if opened.card is not None else "")
    progress.warn(f"{opened.name}: {cuts.words(what, opened.load().layout.max_tokens, remedy)}")


def write_pairs(rows: Iterable[dict[str, Any]], out: Path | str) -> int:
    """Write rows as JSONL, whole or not at all; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    with atomic_write(output_file(out)) as file:
        file.write("".join(lines).encode("utf-8"))
    return len(lines)


def _in_collection(named: NamedRun, collection: Collection, source: str) -> Run:
    """The run by the collection's positions."""
    run = named.run
    queries = _positions(named.query_ids, run.queries, collection.query_index, f"{source}: queries", collection.name)
    docs = np.full(run.docs.shape, NO_DOC, dtype=np.int64)
    there = run.docs != NO_DOC
    docs[there] = _positions(
        named.doc_ids, run.docs[there], collection.doc_index, f"{source}: documents", collection.name
    )
    order = np.argsort(queries)
    return Run.ranked(queries[order], docs[order], run.scores[order])


def _positions(ids: Any, places: IntArray, index: dict[str, int], what: str, collection: str) -> IntArray:
    unknown = sorted({ids[int(place)] for place in np.unique(places)} - index.keys())
    if unknown:
        shown = ", ".join(repr(each) for each in unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise DataError(
            f"{what} that {collection} lacks: {shown} ({len(unknown)} in all); name the task that the run was made on"
        )
    translated = {int(place): index[ids[int(place)]] for place in np.unique(places)}
    return np.array([translated[int(place)] for place in places], dtype=np.int64)


def _calibration_of(card: RerankerCard | None) -> Calibration | None:
    return None if card is None or card.calibration is None else Calibration.from_json(card.calibration)


def _read_pairs(file: Path, progress: Progress) -> list[dict[str, Any]]:
    """The rows of a JSONL file, or of the list in a `.json` file, checked."""
    reader = RowReader(file if str(file) == STDIN else user_path(file, DataError))
    rows = []
    for row in reader.objects():
        try:
            rows.append(_pair(reader, row))
        except BadRow:
            continue
    for warning in reader.finish("fail").warnings:
        progress.note(str(warning))
    if not rows:
        raise DataError(f"{reader.path}: no pair in it; write one JSON object a line, with `query` and `document`")
    return rows


def _pair(reader: RowReader, row: dict[str, Any]) -> dict[str, Any]:
    document = "document" if "document" in row or "text" not in row else "text"
    for key in ("query", document, *(["title"] if row.get("title") is not None else [])):
        if not reader.text(row, key).strip() and key != "title":
            reader.reject("empty-text", "", f"{key!r} is empty", "write its text, or remove the row")
    return row
