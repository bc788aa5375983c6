"""Searching with utterances as they were said, as people rewrote them, and as base and tuned rewriter do.

For each retriever the mode of the tuned rewriter's queries (see `rewriting`) is the one that is best on dev.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from searchtune.data.candidates import searched_text
from searchtune.evaluation import Evidence, Report, build_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.evaluation.report import HEADLINE
from searchtune.metrics.ranking import score
from searchtune.metrics.significance import bootstrap, paired_randomisation
from searchtune.metrics.text_overlap import exact_match, token_f1
from searchtune.retrieval.bm25 import BM25Index, kept_bm25
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.exact import ExactIndex
from searchtune.specs.rewrite import Mode
from searchtune.storage.atomic import write_json, write_text
from searchtune.types import Collection, FloatArray64, IntArray, Qrels, Run, Turn
from searchtune.workflows.encode import encode_texts, open_encoder
from searchtune.workflows.progress import Progress
from searchtune.workflows.provenance import command, hardware, now, versions
from searchtune.workflows.rewrite_data import SearchTurns
from searchtune.workflows.rewrite_run import Rewrites
from searchtune.workflows.rewriting import changed_share, combined, harm
from searchtune.workflows.systems import kept_indexes

DEPTH = 100
"""Documents in every run."""
HUMAN, BASE, TUNED = "human", "base", "tuned"
_QUALITY: Mapping[str, Callable[[str, str], float]] = {"exact_match": exact_match, "token_f1": token_f1}


@dataclass(frozen=True)
class TextSearch:
    """A retriever over one collection, for any texts."""

    name: str
    """`bm25`, `dense`, `dense-2`, ..."""
    kind: Literal["bm25", "dense"]
    model: str
    search: Callable[[IntArray, Sequence[str]], Run]
    """Query positions and their texts -> their run, `DEPTH` deep."""


class Choice(NamedTuple):
    """The mode that serves a retriever best on dev, and what each reaches there."""

    mode: Mode
    figures: dict[str, float]


@dataclass(frozen=True, eq=False)
class Rewritten:
    """What is measured: a task's turns, and the rewrites of its judged test turns by base and tuned model."""

    turns: SearchTurns
    searches: Sequence[TextSearch]
    choices: Mapping[str, Choice]
    """By retriever; absent where the task has no dev split, and then `replace` is taken."""
    base: Rewrites
    tuned: Rewrites
    training: Mapping[str, Any]
    provenance: Mapping[str, Any]
    seed: int
    notes: Sequence[str] = ()
    """Warnings that the report repeats."""

    @property
    def qrels(self) -> Qrels:
        return self.turns.test

    def mode(self, search: str) -> Mode:
        return self.choices[search].mode if search in self.choices else "replace"


@dataclass
class _Runs:
    """Runs by system, and what they cost."""

    runs: dict[str, Run] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)


def open_searches(
    retrievers: Sequence[str], collection: Collection, cache: EmbeddingCache | None, progress: Progress
) -> list[TextSearch]:
    """`bm25`, or bi-encoders by their models, over a collection.

    Raises:
        ModelError, ArtifactError: a model or adapter that cannot be opened.
    """
    found: list[TextSearch] = []
    for name in dict.fromkeys(retrievers):
        progress.stage(f"{collection.name}: {name}")
        if name == "bm25":
            keep = kept_indexes(cache)
            index = BM25Index(collection.documents) if keep is None else kept_bm25(collection.documents, keep)
            found.append(TextSearch("bm25", "bm25", name, _words(index)))
            continue
        number = sum(one.kind == "dense" for one in found) + 1
        label = "dense" if number == 1 else f"dense-{number}"
        found.append(TextSearch(label, "dense", name, _vectors(name, collection, cache)))
    return found


def choose_modes(
    searches: Sequence[TextSearch], turns: SearchTurns, rewrite: Callable[[Sequence[Turn]], Sequence[str]]
) -> dict[str, Choice]:
    """For each retriever, the mode with the best nDCG@10 on dev; of equal ones the simpler. Empty without dev."""
    dev = turns.dev
    if dev is None or not len(dev):
        return {}
    queries = list(rewrite([turns.turns[place] for place in dev.queries.tolist()]))
    grade = turns.collection.min_grade
    found = {}
    for search in searches:
        original = search.search(dev.queries, _said(turns, dev))
        figures = {"utterance": _mean(original, dev, grade)}
        for mode in get_args(Mode):
            run = _run(search, turns, dev, queries, mode, original)
            figures[mode] = _mean(run, dev, grade)
        best: Mode = max(get_args(Mode), key=lambda mode: round(figures[mode], 9))
        found[search.name] = Choice(best, figures)
    return found


def measure_rewriter(subject: Rewritten, folder: Path) -> Report:
    """Search, score, compare; write `report.json`, `report.html`, `rewrites.jsonl` and `rewriting.json`."""
    gathered = _Runs()
    for search in subject.searches:
        _search(search, subject, gathered)
    facts = rewriting_facts(subject)
    first = subject.searches[0].name
    report = build_report(
        Evidence(
            collection=subject.turns.collection,
            split=_split(subject),
            qrels=subject.qrels,
            runs=gathered.runs,
            reference=first,
            tuned=[f"{first}+{TUNED}"],
            pairs=gathered.pairs,
            training=subject.training,
            costs=gathered.costs,
            provenance={
                "command": command(),
                "created": now(),
                **subject.provenance,
                "rewriting": facts,
                "data_fingerprint": subject.turns.collection.fingerprint,
                "versions": versions(),
                "hardware": hardware(),
            },
            tags=subject.turns.collection.query_tags,
            notes=subject.notes,
        ),
        seed=subject.seed,
    )
    write_json(folder / "rewriting.json", {**facts, "systems": gathered.costs})
    write_text(folder / "rewrites.jsonl", "".join(_lines(subject)))
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    return report


def rewriting_facts(subject: Rewritten) -> dict[str, Any]:
    """What the rewrites are like: against people's with 95% intervals, how many differ from the utterance, their cost.

    `exact_match` and `token_f1` are means over the queries that have a person's rewrite; `p_token_f1` compares base and
    tuned (paired randomisation).
    """
    turns, qrels = subject.turns, subject.qrels
    said = _said(turns, qrels)
    known = [(row, human) for row, place in enumerate(qrels.queries.tolist()) if (human := turns.human[place])]
    texts = {"utterance": said, BASE: subject.base.queries, TUNED: subject.tuned.queries}
    facts: dict[str, Any] = {
        "queries": len(qrels),
        "with_human_rewrite": len(known),
        "modes": {name: choice.mode for name, choice in subject.choices.items()},
        "dev_ndcg@10": {name: _rounded(choice.figures) for name, choice in subject.choices.items()},
    }
    values: dict[str, FloatArray64] = {}
    for name, queries in texts.items():
        facts[name] = {"changed": round(changed_share(said, queries), 4)}
        for figure, measure in _QUALITY.items() if known else ():
            column = np.array([measure(queries[row], human) for row, human in known])
            values[f"{name} {figure}"] = column
            it = bootstrap(column, seed=subject.seed)
            facts[name][figure] = _rounded({"mean": it.mean, "low": it.low, "high": it.high})
    for name, rewrites in ((BASE, subject.base), (TUNED, subject.tuned)):
        facts[name]["ms_per_query"] = round(rewrites.milliseconds_per_turn, 2)
        facts[name]["tokens_per_query"] = round(rewrites.tokens_per_turn, 1)
    if known:
        pair = values[f"{BASE} token_f1"], values[f"{TUNED} token_f1"]
        facts["p_token_f1"] = round(paired_randomisation(*pair, seed=subject.seed), 5)
    return facts


def _search(search: TextSearch, subject: Rewritten, gathered: _Runs) -> None:
    """All runs of one retriever: as said, as people, base and tuned model rewrote, and the other modes of the last."""
    turns, qrels, name = subject.turns, subject.qrels, search.name
    began = time.perf_counter()
    original = search.search(qrels.queries, _said(turns, qrels))
    milliseconds = 1000 * (time.perf_counter() - began) / max(1, len(qrels))
    gathered.runs[name] = original
    gathered.costs[name] = {"search_ms_per_query": round(milliseconds, 3)}
    best = subject.mode(name)
    systems: dict[str, tuple[Sequence[str], Mode, Rewrites | None]] = {}
    if any(turns.human[place] for place in qrels.queries.tolist()):
        systems[HUMAN] = turns.known(qrels), "replace", None
    systems[BASE] = subject.base.queries, "replace", subject.base
    systems[TUNED] = subject.tuned.queries, best, subject.tuned
    for mode in get_args(Mode):
        if mode != best:
            systems[f"{TUNED}-{mode}"] = subject.tuned.queries, mode, subject.tuned
    before = _values(original, qrels, turns.collection.min_grade)
    for label, (queries, mode, rewrites) in systems.items():
        run = _run(search, turns, qrels, queries, mode, original)
        system = f"{name}+{label}"
        gathered.runs[system] = run
        cost: dict[str, Any] = {"mode": mode, "rewritten_share": round(changed_share(_said(turns, qrels), queries), 3)}
        if rewrites is not None:
            cost["rewrite_ms_per_query"] = round(rewrites.milliseconds_per_turn, 2)
            cost["rewrite_tokens_per_query"] = round(rewrites.tokens_per_turn, 1)
        gathered.costs[system] = cost | _rounded(harm(before, _values(run, qrels, turns.collection.min_grade)))
    pairs = [(name, f"{name}+{BASE}"), (name, f"{name}+{TUNED}"), (f"{name}+{BASE}", f"{name}+{TUNED}")]
    gathered.pairs += pairs + ([(f"{name}+{TUNED}", f"{name}+{HUMAN}")] if HUMAN in systems else [])


def _run(
    search: TextSearch, turns: SearchTurns, qrels: Qrels, queries: Sequence[str], mode: Mode, original: Run
) -> Run:
    said = _said(turns, qrels)
    texts = [searched_text(utterance, query, mode) for utterance, query in zip(said, queries, strict=True)]
    return combined(original, search.search(qrels.queries, texts), mode, DEPTH)


def _said(turns: SearchTurns, qrels: Qrels) -> list[str]:
    return [turns.turns[place].utterance for place in qrels.queries.tolist()]


def _values(run: Run, qrels: Qrels, min_grade: int) -> FloatArray64:
    """The headline metric of each query. Shape: (judged,)."""
    return np.asarray(score(run, qrels, [HEADLINE], min_grade=min_grade)[HEADLINE], dtype=np.float64)


def _mean(run: Run, qrels: Qrels, min_grade: int) -> float:
    return float(_values(run, qrels, min_grade).mean())


def _words(index: BM25Index) -> Callable[[IntArray, Sequence[str]], Run]:
    return lambda queries, texts: index.search(queries, list(texts), DEPTH)


def _vectors(
    model: str, collection: Collection, cache: EmbeddingCache | None
) -> Callable[[IntArray, Sequence[str]], Run]:
    encoder = open_encoder(model)
    index = ExactIndex(encode_texts(encoder.documents, encoder.reads(collection).documents, cache)[0])
    return lambda queries, texts: index.search(queries, encode_texts(encoder.queries, list(texts), cache)[0], DEPTH)


def _split(subject: Rewritten) -> str:
    """The name of the split whose queries are measured."""
    for name, qrels in subject.turns.collection.qrels.items():
        if np.isin(subject.qrels.queries, qrels.queries).all():
            return name
    return "test"


def _lines(subject: Rewritten) -> list[str]:
    rows = []
    for row, place in enumerate(subject.qrels.queries.tolist()):
        one = {
            "query_id": subject.turns.collection.query_ids[place],
            "utterance": subject.turns.turns[place].utterance,
            "human": subject.turns.human[place],
            "base": subject.base.queries[row],
            "tuned": subject.tuned.queries[row],
        }
        rows.append(json.dumps(one, ensure_ascii=False) + "\n")
    return rows


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    """Four digits; None for what is not finite, which JSON does not have."""
    return {name: round(value, 4) if np.isfinite(value) else None for name, value in values.items()}
