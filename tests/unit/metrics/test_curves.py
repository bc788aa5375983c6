"""Curves by hand-computed values and on ugly inputs. Equality with trec_eval is in tests/contract."""

from __future__ import annotations

import numpy as np
import pytest

from searchtune.metrics import score
from searchtune.metrics.curves import CURVE_DEPTH, precision_curve, recall_curve
from searchtune.types import NO_DOC, Qrels, Run


def qrels_of(*triples: tuple[int, int, int]) -> Qrels:
    return Qrels.from_triples(*np.array(triples, dtype=np.int64).reshape(-1, 3).T)


def run_of(*rows: list[int]) -> Run:
    depth = max(map(len, rows), default=0)
    docs = np.array([row + [NO_DOC] * (depth - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), depth)
    scores = np.tile(np.arange(depth, 0, -1, dtype=np.float32), (len(rows), 1))
    return Run.ranked(np.arange(len(rows)), docs, scores)


def test_precision_by_hand() -> None:
    """Relevant at ranks 1, 4 and 5 of three that are relevant, then a fourth that is never found."""
    qrels = qrels_of((0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1))
    curve = precision_curve(run_of([1, 8, 9, 2, 3]), qrels)
    third = 3 / 5  # better than 2 / 4, which it interpolates
    assert curve == pytest.approx([1, 1, 1, third, third, third, third, third, 0, 0, 0])


def test_precision_never_rises_with_recall() -> None:
    rng = np.random.default_rng(2)
    qrels = qrels_of(*((q, int(d), 1) for q in range(20) for d in rng.choice(50, 7, replace=False)))
    curve = precision_curve(run_of(*(rng.permutation(50).tolist() for _ in range(20))), qrels)
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] > 0


@pytest.mark.parametrize("curve", [precision_curve, recall_curve])
def test_ugly_runs_count_zero(curve) -> None:
    qrels = qrels_of((0, 1, 1), (1, 2, 0))
    assert set(curve(run_of([7, 8]), qrels)) == {0.0}  # nothing relevant found, the second query missing
    assert set(curve(run_of(), qrels)) <= {0.0}
    assert set(curve(run_of([]), qrels)) <= {0.0}
    assert set(curve(run_of([1]), qrels_of())) <= {0.0}
    assert set(curve(run_of([1]), qrels, 2)) == {0.0}
    assert curve(run_of([1], [2]), qrels)[0] == 0.5  # the other one has no relevant document


def test_recall_is_the_metric_and_stops_at_its_depth() -> None:
    rng = np.random.default_rng(4)
    qrels = qrels_of(*((q, int(d), 1) for q in range(9) for d in rng.choice(300, 5, replace=False)))
    run = run_of(*(rng.permutation(300)[:150].tolist() for _ in range(9)))
    curve = recall_curve(run, qrels)
    assert len(curve) == CURVE_DEPTH
    assert curve[9] == pytest.approx(score(run, qrels, ["recall@10"])["recall@10"].mean(), abs=1e-6)
