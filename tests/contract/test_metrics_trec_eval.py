"""Our metrics equal trec_eval's to 1e-6: checked by drawing collections, against `pytrec_eval` and `ir_measures`.

What trec_eval lacks is compared with plain definitions, and once with ranx.

Ids are zero-padded so that their string order is their position order, as in a `Collection`; scores come from a few
values, so that ties abound, all of which float32 holds exactly (pytrec_eval keeps scores as float32).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.metrics import score
from searchtune.metrics.curves import RECALL_LEVELS, interpolated_precision, precision_curve
from searchtune.metrics.labels import rank_labels
from searchtune.types import NO_DOC, Qrels, Run

TREC_NAMES = {
    "ndcg@3": "ndcg_cut_3",
    "ndcg@10": "ndcg_cut_10",
    "ndcg": "ndcg",
    "recall@3": "recall_3",
    "recall@100": "recall_100",
    "precision@3": "P_3",
    "precision@10": "P_10",
    "mrr": "recip_rank",
    "map": "map",
    "map@3": "map_cut_3",
    "hit@3": "success_3",
    "rprec": "Rprec",
    "bpref": "bpref",
}
IR_NAMES = {
    "ndcg@3": "nDCG@3",
    "mrr@3": "RR@3",
    "mrr@10": "RR@10",
    "map": "AP",
    "precision@3": "P@3",
    "hit@3": "Success@3",
    "rprec": "Rprec",
    "bpref": "Bpref",
    "judged@3": "Judged@3",
    "judged@100": "Judged@100",
}
RANX_NAMES = {
    "ndcg@3": "ndcg@3",
    "ndcg_exp@10": "ndcg_burges@10",
    "recall@3": "recall@3",
    "precision@3": "precision@3",
    "mrr@10": "mrr@10",
    "map": "map",
    "hit@3": "hit_rate@3",
    "rprec": "r-precision",
}
DOCS = 14

Case = tuple[dict[int, dict[int, int]], dict[int, dict[int, float]]]


def is_safe(grades: dict[int, int]) -> bool:
    """Where all labels are negative, trec_eval 9.0.8 reads `rel_levels[-1]` and may count to a number it finds there."""
    return max(grades.values()) >= 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Labels and a run over a few queries: graded and negative labels, tied, short, missing and unjudged rows."""
    docs = st.integers(0, DOCS - 1)
    grades = st.dictionaries(docs, st.integers(-1, 4), min_size=1, max_size=DOCS).filter(is_safe)
    ranking = st.dictionaries(docs, st.sampled_from([-1.0, 0.0, 0.5, 0.75, 2.0]), min_size=1, max_size=DOCS)
    qrels = draw(st.dictionaries(st.integers(0, 6), grades, min_size=1, max_size=5))
    run = draw(st.dictionaries(st.integers(0, 6), ranking, max_size=6))
    return qrels, run


def as_qrels(qrels: dict[int, dict[int, int]]) -> Qrels:
    triples = [(query, doc, grade) for query, row in qrels.items() for doc, grade in row.items()]
    queries, docs, grades = np.array(triples, dtype=np.int64).T
    return Qrels.from_triples(queries, docs, grades)


def as_run(run: dict[int, dict[int, float]]) -> Run:
    docs = np.full((len(run), DOCS), NO_DOC, dtype=np.int64)
    scores = np.zeros((len(run), DOCS), dtype=np.float32)
    for i, query in enumerate(sorted(run)):
        docs[i, : len(run[query])] = list(run[query])
        scores[i, : len(run[query])] = list(run[query].values())
    return Run.ranked(np.array(sorted(run), dtype=np.int64), docs, scores)


def named(table: dict[int, dict[int, Any]]) -> dict[str, dict[str, Any]]:
    return {f"q{query:02}": {f"d{doc:02}": value for doc, value in row.items()} for query, row in table.items()}


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 3))
def test_equal_to_pytrec_eval(case: Case, min_grade: int) -> None:
    qrels, run = case
    names = set(TREC_NAMES.values())
    theirs = pytrec_eval.RelevanceEvaluator(named(qrels), names, relevance_level=min_grade).evaluate(named(run))
    ours = score(as_run(run), as_qrels(qrels), list(TREC_NAMES), min_grade=min_grade)
    for name, trec_name in TREC_NAMES.items():
        expected = [theirs.get(f"q{query:02}", {}).get(trec_name, 0.0) for query in sorted(qrels)]
        assert ours[name] == pytest.approx(expected, abs=1e-6), name


@settings(max_examples=100, deadline=None)
@given(cases())
def test_exponential_ndcg_is_trec_evals_on_grades_that_are_gains(case: Case) -> None:
    qrels, run = case
    gains = {query: {doc: 2 ** max(grade, 0) - 1 for doc, grade in row.items()} for query, row in qrels.items()}
    theirs = pytrec_eval.RelevanceEvaluator(named(gains), {"ndcg_cut_3", "ndcg"}).evaluate(named(run))
    ours = score(as_run(run), as_qrels(qrels), ["ndcg_exp@3", "ndcg_exp"])
    for name, trec_name in (("ndcg_exp@3", "ndcg_cut_3"), ("ndcg_exp", "ndcg")):
        expected = [theirs.get(f"q{query:02}", {}).get(trec_name, 0.0) for query in sorted(qrels)]
        assert ours[name] == pytest.approx(expected, abs=1e-6), name


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 3))
def test_interpolated_precision_is_trec_evals(case: Case, min_grade: int) -> None:
    qrels, run = case
    theirs = pytrec_eval.RelevanceEvaluator(named(qrels), {"iprec_at_recall"}, relevance_level=min_grade).evaluate(
        named(run)
    )
    ours = interpolated_precision(rank_labels(as_run(run), as_qrels(qrels), min_grade=min_grade))
    names = [f"iprec_at_recall_{level:.2f}" for level in RECALL_LEVELS]
    expected = [[theirs.get(f"q{query:02}", {}).get(name, 0.0) for name in names] for query in sorted(qrels)]
    assert ours == pytest.approx(np.array(expected), abs=1e-6)
    curve = precision_curve(as_run(run), as_qrels(qrels), min_grade)
    assert curve == pytest.approx(np.mean(expected, axis=0), abs=2e-6)


def test_many_relevant_documents_round_as_trec_eval_does() -> None:
    rng = np.random.default_rng(11)
    for relevant in (1, 3, 7, 10, 11, 33, 101, 250):
        qrels = {0: dict.fromkeys(range(relevant), 1)}
        run = {0: {doc: float(rng.integers(0, 1000)) for doc in range(2 * relevant) if doc % 7}}
        if not run[0]:
            continue
        ids = {"q": {f"d{doc:04}": value for doc, value in run[0].items()}}
        labels = {"q": {f"d{doc:04}": 1 for doc in qrels[0]}}
        theirs = pytrec_eval.RelevanceEvaluator(labels, {"iprec_at_recall"}).evaluate(ids)["q"]
        docs = np.array([list(run[0])], dtype=np.int64)
        ranked = Run.ranked(np.array([0]), docs, np.array([list(run[0].values())], dtype=np.float32))
        ours = precision_curve(ranked, as_qrels(qrels))
        assert ours == pytest.approx([theirs[f"iprec_at_recall_{level:.2f}"] for level in RECALL_LEVELS], abs=1e-6)


def ranking(row: dict[int, float]) -> list[int]:
    """Documents by (-score, -id), as trec_eval ranks them."""
    return sorted(row, key=lambda doc: (row[doc], doc), reverse=True)


def plain_rbp(grades: dict[int, int], ranked: list[int], min_grade: int, persistence: float = 0.8) -> float:
    read = (persistence**i for i, doc in enumerate(ranked) if grades.get(doc, 0) >= min_grade)
    return (1 - persistence) * sum(read)


def plain_judged(grades: dict[int, int], ranked: list[int], _: int) -> float:
    return sum(doc in grades for doc in ranked[:3]) / max(len(ranked[:3]), 1)


PLAIN: dict[str, Callable[[dict[int, int], list[int], int], float]] = {
    "rbp": plain_rbp,
    "rbp@3": lambda grades, ranked, level: plain_rbp(grades, ranked[:3], level),
    "rbp.5": lambda grades, ranked, level: plain_rbp(grades, ranked, level, 0.5),
    "rbp.95": lambda grades, ranked, level: plain_rbp(grades, ranked, level, 0.95),
    "judged@3": plain_judged,
}
"""By their definitions, one query at a time: no provider for these is at hand that breaks ties as trec_eval does."""


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 3))
def test_equal_to_plain_definitions(case: Case, min_grade: int) -> None:
    qrels, run = case
    ours = score(as_run(run), as_qrels(qrels), list(PLAIN), min_grade=min_grade)
    for name, definition in PLAIN.items():
        expected = [definition(qrels[query], ranking(run.get(query, {})), min_grade) for query in sorted(qrels)]
        assert ours[name] == pytest.approx(expected, abs=1e-9), name


def test_query_with_negative_labels_only_scores_zero() -> None:
    """Not compared with trec_eval: see `is_safe`."""
    values = score(as_run({0: {1: 1.0}}), as_qrels({0: {1: -1, 2: -2}}), list(TREC_NAMES))
    assert all(value.tolist() == [0.0] for value in values.values())


@pytest.mark.slow
def test_equal_to_ranx_without_ties() -> None:
    """Only where no scores are tied and every judged query is in the run: ranx ranks ties by insertion order."""
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(3)
    qrels = {
        q: {int(d): int(g) for d, g in zip(rng.choice(DOCS, 6, False), rng.integers(1, 4, 6), strict=True)}
        for q in range(30)
    }
    run = {q: {int(d): float(rank) for rank, d in enumerate(rng.permutation(DOCS))} for q in range(30)}
    theirs = ranx.evaluate(ranx.Qrels(named(qrels)), ranx.Run(named(run)), list(RANX_NAMES.values()), return_mean=False)
    ours = score(as_run(run), as_qrels(qrels), list(RANX_NAMES))
    for name, ranx_name in RANX_NAMES.items():
        assert ours[name] == pytest.approx(theirs[ranx_name], abs=1e-6), name


def without_ties(run: dict[int, dict[int, float]]) -> dict[int, dict[int, float]]:
    """The same ranking with scores that fall by one a rank: ir_measures cuts RR@k before it resolves ties."""
    ranked = as_run(run)
    return {
        query: {int(doc): -float(rank) for rank, doc in enumerate(docs) if doc != NO_DOC}
        for query, docs in zip(sorted(run), ranked.docs, strict=True)
    }


@settings(max_examples=25, deadline=None)
@given(cases())
def test_equal_to_ir_measures(case: Case) -> None:
    qrels, run = case[0], without_ties(case[1])
    measures = {name: ir_measures.parse_measure(text) for name, text in IR_NAMES.items()}
    ours = score(as_run(run), as_qrels(qrels), list(IR_NAMES))
    theirs = {
        (str(value.measure), value.query_id): value.value
        for value in ir_measures.iter_calc(list(measures.values()), named(qrels), named(run))
    }
    for name, measure in measures.items():
        expected = [theirs.get((str(measure), f"q{query:02}"), 0.0) for query in sorted(qrels)]
        assert ours[name] == pytest.approx(expected, abs=1e-6), name


def test_one_query_one_document() -> None:
    ours = score(as_run({0: {0: 0.5}}), as_qrels({0: {0: 1}}), list(TREC_NAMES))
    theirs = pytrec_eval.RelevanceEvaluator(named({0: {0: 1}}), set(TREC_NAMES.values())).evaluate(named({0: {0: 0.5}}))
    assert {TREC_NAMES[name]: value.item() for name, value in ours.items()} == pytest.approx(theirs["q00"], abs=1e-6)


def test_large_random_run_equals_pytrec_eval() -> None:
    rng = np.random.default_rng(7)
    qrels = {
        q: {int(d): int(g) for d, g in zip(rng.choice(14, 6, False), rng.integers(-1, 4, 6), strict=True)}
        for q in range(200)
    }
    run = {q: {d: float(np.float32(rng.choice([0.1, 0.2, rng.random()]))) for d in range(DOCS)} for q in range(200)}
    theirs = pytrec_eval.RelevanceEvaluator(named(qrels), set(TREC_NAMES.values())).evaluate(named(run))
    ours = score(as_run(run), as_qrels(qrels), list(TREC_NAMES))
    for name, trec_name in TREC_NAMES.items():
        values = [theirs.get(f"q{q:02}", {}).get(trec_name, 0.0) for q in range(200)]
        assert ours[name] == pytest.approx(values, abs=1e-6), name
