"""Running a suite: every system ranks every task, and each task gets a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.advice import rules
from searchtune.data.duplicates import find_duplicates, fold_qrels, fold_run
from searchtune.data.leakage import residual, seen_mask
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation import Evidence, Report, build_report, read_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.metrics.ranking import score
from searchtune.models.cards import train_positives
from searchtune.reading import read_json_object, user_path
from searchtune.retrieval.approximation import loss_against_exact
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.index import VectorIndex
from searchtune.retrieval.tuning import tune_weights
from searchtune.specs.base import apply_overrides, parse_spec, read_yaml
from searchtune.specs.card import adapter_folder
from searchtune.specs.suite import (
    Bm25System,
    DenseSystem,
    FusionSystem,
    RerankSystem,
    RewriteSystem,
    RunSystem,
    SuiteSpec,
    made_of,
)
from searchtune.specs.task import TaskSpec
from searchtune.storage.assets import find_asset
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import Fingerprint, sha256_json
from searchtune.storage.output import OutputPolicy, output_folder
from searchtune.types import Collection, FloatArray, IntArray, Qrels, Run
from searchtune.workflows.costs import costs_of, query_times
from searchtune.workflows.encode import BiEncoder, encode_collection, encode_texts, open_system, together
from searchtune.workflows.open_reranker import exit_of, open_reranker
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import command, hardware, now, spec_sha256, versions
from searchtune.workflows.reranking import PairScorer, RerankRanker, trade_offs
from searchtune.workflows.rewrite_settle import Wishes, settle_use
from searchtune.workflows.rewriting import RewriteRanker, harm, rewritten_collection
from searchtune.workflows.sources import check_sources
from searchtune.workflows.suite_files import folder_name, write_for_others
from searchtune.workflows.suite_rewriters import open_suite_rewriter, searched_by
from searchtune.workflows.systems import (
    FileRanker,
    FusedRanker,
    Ranker,
    Request,
    VectorRanker,
    WordRanker,
    fused_parts,
    kept_indexes,
    open_index,
    open_kept_index,
    rank_all,
)

SUITE_FILE = "suite.json"
DEV = "dev"


@dataclass(frozen=True)
class TaskResult:
    """One task's part of a suite."""

    task: str
    folder: Path
    report: Report


def load_suite(name_or_path: str, overrides: Sequence[str] = ()) -> SuiteSpec:
    """The suite that a file, or a name under `eval/suites/`, stands for, with some keys changed."""
    path = find_asset("eval/suites", name_or_path)
    return parse_spec(SuiteSpec, apply_overrides(read_yaml(path), overrides), str(path))


def run_suite(
    suite: SuiteSpec,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    cache: EmbeddingCache | None = None,
    progress: Progress = SILENT,
) -> list[TaskResult]:
    """Measure every system on every task.

    `out`/TASK gets `report.json`, `report.html`, `runs/SYSTEM.run.gz` (TREC) and `mteb/SYSTEM/TASK.json`.

    With a cache, texts that an encoder has seen are not encoded again; with `resume`, no task that has a report is.

    Raises:
        SearchtuneError: a task, system or file that cannot be opened, or a split that is not there.
    """
    check_sources(suite)
    results: list[TaskResult] = []
    with output_folder(Path(out), policy) as folder:
        _settle(suite, folder / SUITE_FILE, policy)
        tasks = {folder_name(task.name): task for task in map(load_task, suite.tasks)}
        if len(tasks) < len(suite.tasks):
            raise ConfigError(f"suite {suite.name}: two of its tasks {suite.tasks} bear one name; give each its own")
        for name, task in tasks.items():
            if policy == "resume" and (done := folder / name / "report.json").is_file():
                results.append(TaskResult(task.name, folder / name, read_report(done)))
            else:
                results.append(_measure_task(suite, task, folder / name, cache, progress))
    return results


def _settle(suite: SuiteSpec, file: Path, policy: OutputPolicy) -> None:
    """Record the suite at the first start; what is resumed must be the same one."""
    if policy == "resume" and file.is_file():
        if parse_spec(SuiteSpec, read_json_object(file), str(file)) != suite:
            raise ConfigError(f"{file}: started with another suite; resume with that one, or --overwrite")
        return
    write_json(file, suite.model_dump(mode="json"))


def _measure_task(
    suite: SuiteSpec, task: TaskSpec, folder: Path, cache: EmbeddingCache | None, progress: Progress
) -> TaskResult:
    progress.stage(f"opening {task.name}")
    collection = open_collection(task)
    if suite.split not in collection.qrels:
        raise DataError(
            f"{collection.name} has no split {suite.split!r}{did_you_mean(suite.split, collection.qrels)}; "
            f"it has {', '.join(sorted(collection.qrels)) or 'none'}"
        )
    for rule in rules(collection):
        progress.warn(f"{collection.name}: {rule}")
    report, runs = _Bench(suite, collection, cache, progress).report()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_for_others(folder, collection, report, runs)
    except DataError as error:
        progress.warn(f"runs were not written for other tools: {error}")
    write_page(report, folder / "report.html")
    write_report(report, folder / "report.json")  # last: a task with a report is done
    return TaskResult(task.name, folder, report)


def _fits_on_dev(suite: SuiteSpec) -> bool:
    """Whether weights of a fusion are fitted on dev."""
    return any(isinstance(it, FusionSystem) and it.weights == DEV for it in suite.systems.values())


class _Bench:
    """The systems of a suite, set up for one collection."""

    def __init__(
        self,
        suite: SuiteSpec,
        collection: Collection,
        cache: EmbeddingCache | None,
        progress: Progress,
        *,
        opened: dict[str, tuple[BiEncoder, VectorIndex]] | None = None,
        splits: Sequence[str] | None = None,
    ) -> None:
        """`opened` holds dense systems over the same documents, of which only queries must be encoded; `splits` are
        those whose queries are ranked, by default the suite's, and dev where weights are fitted on it.
        """
        self.suite, self.collection, self.cache, self.progress = suite, collection, cache, progress
        self.representatives: IntArray | None = None
        if suite.duplicates == "as one":
            found = find_duplicates(collection, threshold=1)
            self.representatives = found.representatives
            for line in found.describe():
                progress.note(line)
        fitted = [DEV] if _fits_on_dev(suite) and DEV in collection.qrels else []
        self.splits = list(dict.fromkeys([suite.split, *fitted])) if splits is None else list(splits)
        self.encoded = 0
        self.tuned: list[str] = []
        self.trained_on: set[int] = set()
        self.losses: dict[str, ExactIndex] = {}
        self.rankers: dict[str, Ranker] = {}
        self.opened: dict[str, tuple[BiEncoder, VectorIndex]] = {} if opened is None else opened
        for system in suite.systems:
            progress.stage(f"{collection.name}: {system}")
            self.rankers[system] = self._ranker(system)

    def report(self) -> tuple[Report, Mapping[str, Run]]:
        """Rank, score and compare; the report and every system's run."""
        suite, collection = self.suite, self.collection
        self.progress.stage(f"{collection.name}: ranking")
        qrels = self._folded(collection.qrels[suite.split])
        runs = self._runs(qrels, None)
        costs = costs_of(self.rankers, runs, Request(qrels.queries, suite.depth))
        for name, ranker in self.rankers.items():
            if isinstance(ranker, RewriteRanker):
                costs[name] |= self._harm(runs[ranker.of], runs[name], qrels)
        for name, exact in self.losses.items():
            costs[name]["exact_loss"] = self._loss(name, exact, runs[name], qrels)
        seen, rest = self._overlap(qrels)
        tuned = [name for name in suite.candidates if name in self.tuned]
        self.progress.stage(f"{collection.name}: intervals and tests")
        evidence = Evidence(
            collection=collection,
            split=suite.split,
            qrels=qrels,
            runs=runs,
            reference=suite.baseline,
            tuned=tuned,
            pairs=[(suite.baseline, name) for name in suite.candidates if name not in tuned],
            seen=seen,
            residual=rest,
            costs=costs,
            provenance=self._provenance(),
            metrics=suite.metrics,
            headline=suite.headline,
            tags=collection.query_tags,
            trade_offs=trade_offs(self.rankers, runs, costs),
            fusions=fused_parts(self.rankers),
        )
        return build_report(evidence, seed=suite.seed), runs

    def _ranker(self, name: str) -> Ranker:
        system = self.suite.systems[name]
        match system:
            case Bm25System():
                return WordRanker(self.collection, kept_indexes(self.cache))
            case DenseSystem():
                return self._dense(name, system)
            case FusionSystem():
                return FusedRanker(system.of, self._fusion(system))
            case RerankSystem():
                return self._reranker(name, system)
            case RewriteSystem():
                return self._rewriter(name, system)
            case RunSystem():
                file = user_path(system.file.format(task=self.collection.name))
                theirs = FileRanker(file, self.collection, system.unknown_documents)
                theirs.tell(self.collection.qrels[self.suite.split].queries, self.progress)
                return theirs

    def _reranker(self, name: str, system: RerankSystem) -> RerankRanker:
        opened = open_reranker(system.model, precision=system.precision)
        scorer = PairScorer(opened.reads(self.collection, self.progress), opened.load, cache=self.cache, key=opened.key)
        self._note_training(name, system.model)
        blend = opened.card.blend if opened.card is not None and system.blend else None
        rule = exit_of(opened) if system.early_exit else None
        return RerankRanker(system.of, scorer, system.depth, blend, rule, system.depths if system.sweep else [])

    def _rewriter(self, name: str, system: RewriteSystem) -> RewriteRanker:
        """The system `of` once more, over the same documents and rewritten queries."""
        rewriter = open_suite_rewriter(system)
        searched = searched_by(self.suite, system.of, lambda part: self.opened[part][0])
        settled = settle_use(rewriter, searched, Wishes(system.mode, system.abstain), where=f"systems.{name}")
        if settled.note:
            self.progress.note(settled.note)
        judged = [] if settled.never else [self.collection.qrels[split].queries for split in self.splits]
        rewritten = rewritten_collection(
            self.collection,
            np.unique(np.concatenate([np.zeros(0, np.int64), *judged])),
            rewriter,
            mode=settled.mode,
            history=system.history,
            cache=self.cache,
            progress=self.progress,
        )
        if system.of in self.tuned:
            self.tuned.append(name)
        inner = {} if settled.never else self._again(made_of(self.suite.systems, system.of), rewritten.collection)
        rule = settled.rule(self.collection.documents)
        return RewriteRanker(system.of, inner, rewritten, settled.mode, rule)

    def _again(self, parts: Sequence[str], collection: Collection) -> Mapping[str, Ranker]:
        """Some systems once more, for other queries."""
        systems = {part: self.suite.systems[part] for part in parts}
        changes = {"systems": systems, "reference": None, "compare": None, "duplicates": "apart"}
        suite = self.suite.model_copy(update=changes)
        bench = _Bench(suite, collection, self.cache, self.progress, opened=self.opened, splits=self.splits)
        self.encoded += bench.encoded
        return bench.rankers

    def _harm(self, before: Run, after: Run, qrels: Qrels) -> dict[str, float]:
        """What rewriting does to the headline metric, from query to query."""
        metric, grade = self.suite.headline, self.collection.min_grade
        values = [score(run, qrels, [metric], min_grade=grade)[metric] for run in (before, after)]
        return {name: round(value, 4) for name, value in harm(*values).items()}

    def _dense(self, name: str, system: DenseSystem) -> VectorRanker:
        splits = self.splits
        if name in self.opened:
            encoder, index = self.opened[name]
            known = np.unique(np.concatenate([self.collection.qrels[split].queries for split in splits]))
            texts = [self.collection.query_texts[int(query)] for query in known]
            rows, encoded = encode_texts(encoder.queries, texts, self.cache)
            self.encoded += encoded
            return VectorRanker(index, known, rows, query_ms=query_times(encoder, texts, encoded))
        encoder = open_system(system)
        vectors = encode_collection(self.collection, encoder, self.cache, splits=splits, progress=self.progress)
        self.encoded += vectors.encoded
        self._note_training(name, system.model)
        index = self._index(system, encoder, vectors.documents)
        if not index.exact:
            self.losses[name] = ExactIndex(vectors.documents)
        self.opened[name] = encoder, index
        known, rows = together(self.collection, vectors, splits)
        texts = [self.collection.query_texts[int(query)] for query in known]
        query_ms = query_times(encoder, texts, vectors.encoded)
        return VectorRanker(index, known, rows, vectors.document_seconds, query_ms)

    def _index(self, system: DenseSystem, encoder: BiEncoder, vectors: FloatArray) -> VectorIndex:
        """The system's index: the one that its folder keeps, or a new one, which is kept where a folder is named."""
        spec = system.index
        if spec.save is None:
            return open_index(spec, vectors)
        folder = user_path(spec.save.replace("{task}", folder_name(self.collection.name)))
        made_of = Fingerprint().add(sha256_json(encoder.documents.space))
        made_of.add_texts(encoder.reads(self.collection).documents)
        kept = folder.exists()
        index = open_kept_index(spec, vectors, folder, made_of.hexdigest())
        self.progress.note(f"index {folder}: {'mapped' if kept else 'written'}")
        return index

    def _note_training(self, name: str, model: str) -> None:
        """Remember which documents of this collection an adapter was trained on."""
        known = train_positives(adapter_folder(model))
        if known is not None:
            self.tuned.append(name)
            places = self.collection.doc_index
            self.trained_on.update(places[doc] for doc in known if doc in places)

    def _fusion(self, system: FusionSystem) -> dict[str, Any]:
        """How to fuse: as the suite says, or as fits dev best."""
        method, normalisation = system.method, system.normalisation
        if system.weights != DEV:
            return {"method": method, "normalisation": normalisation, "weights": system.weights}
        if DEV not in self.collection.qrels:
            raise DataError(f"{self.collection.name} has no dev split to fit fusion weights on; give them as numbers")
        dev = self._folded(self.collection.qrels[DEV])
        runs = self._runs(dev, None)
        tuned = tune_weights(
            [runs[part] for part in system.of],
            dev,
            self.suite.headline,
            method=method,
            normalisation=normalisation,
            min_grade=self.collection.min_grade,
        )
        weights = ", ".join(f"{part} {weight:g}" for part, weight in zip(system.of, tuned.weights, strict=True))
        self.progress.note(
            f"fusion fitted on {len(dev)} dev queries: {weights}, k {tuned.k:g} "
            f"({tuned.metric} {tuned.score:.4f}; equal weights {tuned.equal_score:.4f})"
        )
        return tuned.options

    def _runs(self, qrels: Qrels, exclude: IntArray | None) -> dict[str, Run]:
        request = Request(qrels.queries, self.suite.depth, exclude)
        runs = rank_all(self.rankers, self.collection, request)
        if self.representatives is not None:
            runs = {name: fold_run(run, self.representatives) for name, run in runs.items()}
        return runs

    def _folded(self, qrels: Qrels) -> Qrels:
        return qrels if self.representatives is None else fold_qrels(qrels, self.representatives)

    def _overlap(self, qrels: Qrels) -> tuple[Any, tuple[Qrels, Mapping[str, Run]] | None]:
        """Which judged queries share a relevant document with training, and the collection without those."""
        if not self.tuned:
            return None, None
        trained = np.array(sorted(self.trained_on), dtype=np.int64)
        min_grade = self.collection.min_grade
        left = residual(qrels, trained, min_grade)
        return seen_mask(trained, qrels, min_grade), (left, self._runs(left, trained))

    def _loss(self, name: str, exact: ExactIndex, run: Run, qrels: Qrels) -> dict[str, float]:
        """What the approximate index of a system loses: share of the exact top documents, and the metrics."""
        ranker = self.rankers[name]
        assert isinstance(ranker, VectorRanker)
        truth = VectorRanker(exact, ranker.known, ranker.vectors).rank(Request(run.queries, self.suite.depth), {})
        lost = {f"exact top {k}": 1 - kept for k, kept in loss_against_exact(run, truth).items()}
        whole, part = (score(it, qrels, self.suite.metrics, min_grade=self.collection.min_grade) for it in (truth, run))
        return {metric: float((whole[metric] - part[metric]).mean()) for metric in self.suite.metrics} | lost

    def _provenance(self) -> dict[str, Any]:
        return {
            "command": command(),
            "created": now(),
            "suite": self.suite.model_dump(mode="json"),
            "suite_sha256": spec_sha256(self.suite),
            "data_fingerprint": self.collection.fingerprint,
            "documents": len(self.collection.doc_ids),
            "texts_encoded": self.encoded,
            "versions": versions(),
            "hardware": hardware(),
        }
