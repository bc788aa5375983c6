"""Ranking metrics by hand-computed values, ugly inputs and messages. Equality with trec_eval is in tests/contract."""

from __future__ import annotations

import numpy as np
import pytest

from searchtune.errors import ConfigError
from searchtune.metrics.labels import rank_labels
from searchtune.metrics.ranking import METRICS, NEEDS_CUTOFF, Metric, parse_metric, score
from searchtune.types import NO_DOC, Qrels, Run


def qrels_of(*triples: tuple[int, int, int]) -> Qrels:
    queries, docs, grades = (np.array(column, dtype=np.int64) for column in zip(*triples, strict=True))
    return Qrels.from_triples(queries, docs, grades)


def run_of(**rows: list[int]) -> Run:
    """`run_of(q3=[7, 2])`: query 3 ranks document 7, then 2."""
    rows = dict(sorted(rows.items()))
    depth = max((len(row) for row in rows.values()), default=1)
    docs = np.array([row + [NO_DOC] * (depth - len(row)) for row in rows.values()], dtype=np.int64).reshape(-1, depth)
    scores = np.tile(np.arange(depth, 0, -1, dtype=np.float32), (len(rows), 1))
    return Run.ranked(np.array([int(key[1:]) for key in rows], dtype=np.int64), docs, scores)


ALL = ("ndcg@3", "recall@2", "precision@3", "mrr@3", "map", "map@2", "hit@1")
EVERY = [f"{name}@2" if name in NEEDS_CUTOFF else name for name in METRICS]


def test_values_by_hand() -> None:
    qrels = qrels_of((0, 1, 2), (0, 4, 1), (0, 5, 0))
    values = score(run_of(q0=[5, 1, 2, 4]), qrels, ALL)
    ideal = 2 + 1 / np.log2(3)
    expected = {
        "ndcg@3": (2 / np.log2(3)) / ideal,
        "recall@2": 1 / 2,
        "precision@3": 1 / 3,
        "mrr@3": 1 / 2,
        "map": (1 / 2 + 2 / 4) / 2,
        "map@2": (1 / 2) / 2,
        "hit@1": 0.0,
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected)


def test_values_of_the_judgement_metrics_by_hand() -> None:
    """Ranks: not judged, relevant 2, judged 0, relevant 1, judged but negative; one relevant document is not found."""
    qrels = qrels_of((0, 1, 2), (0, 2, 0), (0, 3, 1), (0, 4, -1), (0, 5, 3), (0, 6, 0))
    names = ("rprec", "bpref", "judged@2", "judged@10", "rbp", "rbp@2", "rbp.5", "ndcg_exp@3", "ndcg_exp")
    values = score(run_of(q0=[9, 1, 2, 3, 4]), qrels, names)
    ideal = 7 + 3 / np.log2(3) + 1 / 2
    expected = {
        "rprec": 1 / 3,
        "bpref": (1 + (1 - 1 / 2)) / 3,
        "judged@2": 1 / 2,
        "judged@10": 4 / 5,
        "rbp": 0.2 * (0.8 + 0.8**3),
        "rbp@2": 0.2 * 0.8,
        "rbp.5": 0.5 * (0.5 + 0.5**3),
        "ndcg_exp@3": (3 / np.log2(3)) / ideal,
        "ndcg_exp": (3 / np.log2(3) + 1 / np.log2(5)) / ideal,
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected)


def test_bpref_without_judged_nonrelevant_documents_is_the_share_found() -> None:
    qrels = qrels_of((0, 1, 1), (0, 2, 1), (1, 1, -1), (1, 2, 1))
    assert score(run_of(q0=[7, 1], q1=[1, 2]), qrels, ["bpref"])["bpref"].tolist() == [0.5, 1.0]


def test_only_the_ranks_that_count_are_looked_at_and_the_values_stay() -> None:
    qrels = qrels_of((0, 1, 1), (0, 9, 2), (1, 4, 1))
    run = run_of(q0=[3, 9, 5, 1], q1=[2, 4])
    assert rank_labels(run, qrels, depth=2).depth == 2
    cut, whole = score(run, qrels, ["ndcg@2", "judged@2"]), score(run, qrels, ["ndcg@2", "judged@2", "map"])
    for name, value in cut.items():
        assert value.tolist() == whole[name].tolist(), name


def test_found_labels_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the lookup table is so small that nearly every document must be looked up."""
    rng = np.random.default_rng(2)
    queries, docs = np.divmod(rng.choice(40 * 30, 400, replace=False), 30)
    qrels = Qrels.from_triples(queries, docs, rng.integers(-1, 4, 400))
    ranked = np.stack([rng.permutation(35)[:20] for _ in range(40)])
    ranked[::3, 12:] = NO_DOC
    run = Run(np.arange(40), ranked, np.zeros((40, 20), np.float32))
    table = {
        (q, d): g
        for q, d, g in zip(qrels.label_queries.tolist(), qrels.docs.tolist(), qrels.grades.tolist(), strict=True)
    }
    expected = [
        (row, rank, table[int(query), doc])
        for row, query in enumerate(qrels.queries)
        for rank, doc in enumerate(ranked[query].tolist(), start=1)
        if (int(query), doc) in table
    ]
    for bits in (22, 3, 0):
        monkeypatch.setattr("searchtune.metrics.labels._MOST_BITS", bits)
        found = rank_labels(run, qrels).found
        assert list(zip(found.rows.tolist(), found.ranks.tolist(), found.grades.tolist(), strict=True)) == expected


def test_run_that_lacks_queries_equals_one_that_has_them_empty() -> None:
    qrels = qrels_of((0, 1, 1), (2, 1, 1), (4, 1, 1))
    lacking, empty = run_of(q2=[1], q3=[5]), run_of(q0=[], q2=[1], q4=[])
    for name, value in score(lacking, qrels, EVERY).items():
        assert value.tolist() == score(empty, qrels, EVERY)[name].tolist(), name


def test_huge_grades_stay_finite() -> None:
    values = score(run_of(q0=[1, 2]), qrels_of((0, 1, 1000), (0, 2, 1000)), ["ndcg_exp@10", "ndcg@10"])
    assert {name: value.item() for name, value in values.items()} == pytest.approx({"ndcg_exp@10": 1, "ndcg@10": 1})


def test_perfect_ranking_is_one() -> None:
    qrels = qrels_of((0, 1, 3), (0, 2, 1), (3, 9, 1))
    values = score(run_of(q0=[1, 2], q3=[9]), qrels, ("ndcg@10", "recall@10", "mrr@10", "map", "hit@1"))
    for name, value in values.items():
        assert value == pytest.approx(1.0), name


def test_query_missing_from_the_run_scores_zero_and_order_is_that_of_qrels() -> None:
    qrels = qrels_of((2, 0, 1), (5, 1, 1), (9, 2, 1))
    values = score(run_of(q9=[2], q1=[0]), qrels, ["ndcg@10"])["ndcg@10"]
    assert values.tolist() == [0.0, 0.0, 1.0]


def test_empty_run_and_unjudged_queries() -> None:
    qrels = qrels_of((0, 1, 1))
    empty = Run(np.empty(0, np.int64), np.empty((0, 3), np.int64), np.empty((0, 3), np.float32))
    flat = Run(np.array([0]), np.empty((1, 0), np.int64), np.empty((1, 0), np.float32))
    for run in (empty, flat, run_of(q7=[1])):
        assert all(value.tolist() == [0.0] for value in score(run, qrels, EVERY).values())


def test_no_labels_at_all() -> None:
    none = np.empty(0, np.int64)
    values = score(run_of(q0=[1]), Qrels.from_triples(none, none, none), EVERY)
    assert all(value.shape == (0,) for value in values.values())


@pytest.mark.parametrize("grades", [(0, -1), (0, 0), (-1, -2)])
def test_query_without_relevant_document_scores_zero(grades: tuple[int, int]) -> None:
    values = score(run_of(q0=[1, 2]), qrels_of((0, 1, grades[0]), (0, 2, grades[1])), EVERY)
    assert values.pop("judged@2").tolist() == [1.0]
    assert all(value.tolist() == [0.0] for value in values.values())


def test_negative_grades_gain_nothing() -> None:
    qrels = qrels_of((0, 1, -2), (0, 2, 1))
    assert score(run_of(q0=[1, 2]), qrels, ["ndcg@2"])["ndcg@2"].item() == pytest.approx(1 / np.log2(3))


def test_min_grade_moves_binary_metrics_only() -> None:
    run, qrels = run_of(q0=[1, 2]), qrels_of((0, 1, 1), (0, 2, 2))
    low, high = (score(run, qrels, ("mrr@10", "recall@1", "ndcg@2"), min_grade=grade) for grade in (1, 2))
    assert (low["mrr@10"].item(), high["mrr@10"].item()) == (1.0, 0.5)
    assert (low["recall@1"].item(), high["recall@1"].item()) == (0.5, 0.0)
    assert low["ndcg@2"].item() == high["ndcg@2"].item()
    with pytest.raises(ConfigError, match="min_grade 0"):
        score(run, qrels, ["map"], min_grade=0)


def test_empty_places_are_never_relevant() -> None:
    labels = rank_labels(run_of(q0=[3], q1=[1, 2]), qrels_of((0, 3, 1), (1, 0, 1)))
    assert (labels.relevant.rows.tolist(), labels.relevant.ranks.tolist()) == ([0], [1])
    assert labels.lengths.tolist() == [1, 2]


def test_same_document_in_neighbouring_queries_is_not_mixed_up() -> None:
    """Document 0 of query 1 and the largest document of query 0 lie next to each other as keys."""
    qrels = qrels_of((0, 9, 1), (1, 0, 1))
    assert score(run_of(q0=[0], q1=[9]), qrels, ["hit@1"])["hit@1"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("ndcg@10", Metric("ndcg", 10)),
        (" NDCG@5 ", Metric("ndcg", 5)),
        ("map", Metric("map")),
        ("ndcg_exp@10", Metric("ndcg_exp", 10)),
        ("rbp.95@20", Metric("rbp.95", 20)),
    ],
)
def test_parse(text: str, metric: Metric) -> None:
    assert parse_metric(text) == metric
    assert str(metric) == text.strip().lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndgc@10", "unknown metric 'ndgc@10'; did you mean 'ndcg'"),
        ("zzz", "known: bpref, hit, judged, map, mrr, ndcg, ndcg_exp, precision, rbp, rbp.5, rbp.95, recall, rprec"),
        ("recall", "needs a cutoff, for instance recall@10"),
        ("ndcg@0", "above 0"),
        ("ndcg@ten", "whole number"),
        ("ndcg@", "whole number"),
        ("mrr@²", "whole number"),
        ("judged", "needs a cutoff, for instance judged@10"),
        ("bpref@10", "bpref looks at the whole run, write bpref alone"),
        ("rbp.7", "did you mean 'rbp.[59]"),
    ],
)
def test_parse_errors_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_metric(text)
