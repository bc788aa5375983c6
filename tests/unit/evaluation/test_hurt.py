"""The queries that a compared system hurts most."""

from __future__ import annotations

import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.evaluation import build_report
from searchtune.evaluation.hurt import hurt_most

REPORT = build_report(made_up_evidence(queries=60, docs=90, seen_gain=0.2, unseen_gain=0.0), rounds=50)


def test_the_worst_of_every_comparison_come_first() -> None:
    found = hurt_most(REPORT, 4)
    assert [(it.a, it.b) for it in found] == [("base", "tuned"), ("hybrid", "tuned+bm25")]
    for it in found:
        comparison = REPORT.comparison(it.a, it.b)
        assert comparison is not None
        assert it.losses == comparison.losses > 4
        changes = sorted(row.scores[it.b] - row.scores[it.a] for row in REPORT.per_query)
        assert [query.change for query in it.worst] == pytest.approx(changes[:4])


def test_the_first_relevant_document_is_told_where_rankings_are_kept() -> None:
    worst = hurt_most(REPORT)[0].worst[0]
    assert REPORT.rankings is not None
    kept = REPORT.rankings.queries[worst.id]
    assert worst.ranks == (kept.ranks["base"][0], kept.ranks["tuned"][0])
    without = hurt_most(REPORT.model_copy(update={"rankings": None}))
    assert without[0].worst[0].ranks is None
    gone = kept.model_copy(update={"ranks": {"base": [3, 1], "tuned": [None, None]}})
    queries = {**REPORT.rankings.queries, worst.id: gone}
    changed = REPORT.model_copy(update={"rankings": REPORT.rankings.model_copy(update={"queries": queries})})
    assert hurt_most(changed)[0].worst[0].ranks == (1, None)


def test_comparisons_without_a_loss_are_left_out() -> None:
    rows = [row.model_copy(update={"scores": dict.fromkeys(row.scores, 0.5)}) for row in REPORT.per_query]
    assert hurt_most(REPORT.model_copy(update={"per_query": rows})) == []
    assert hurt_most(REPORT.model_copy(update={"comparisons": []})) == []
