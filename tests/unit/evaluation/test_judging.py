"""Reports of judges: what is measured, what is said of it, and the samples and inputs that are broken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from markupsafe import Markup
from tests.unit.evaluation.drawable import undrawn
from tests.unit.evaluation.made_up_judges import made_up_evidence

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation import page
from searchtune.evaluation.judge_charts import judge_charts
from searchtune.evaluation.judge_page import heat, render_judge_page
from searchtune.evaluation.judge_report import JudgeReport, read_judge_report, write_judge_report
from searchtune.evaluation.judge_wording import JudgeUse, judge_use, judge_verdict, judge_warnings
from searchtune.evaluation.judging import JudgeEvidence, JudgeLabels, build_judge_report
from searchtune.metrics.significance import Estimate

EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True, scope="module")
def no_bundle() -> Iterator[None]:
    """Vega takes seconds to bundle and says nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "vega_script", lambda: Markup("/* vega */"))
        yield


@pytest.fixture(scope="module")
def evidence() -> JudgeEvidence:
    return made_up_evidence()


@pytest.fixture(scope="module")
def report(evidence: JudgeEvidence) -> JudgeReport:
    return build_judge_report(evidence, rounds=300)


def perfect(evidence: JudgeEvidence, **more) -> JudgeEvidence:
    judges = {"tuned": JudgeLabels(evidence.human.copy(), **more)}
    return replace(evidence, judges=judges, reference=None)


def test_every_judge_is_measured(report: JudgeReport, evidence: JudgeEvidence) -> None:
    assert (report.pairs, report.queries) == (600, 30)
    tuned, base, two = (report.judges[name] for name in ("tuned", "base", "two classes"))
    assert tuned.figure("kappa").mean > base.figure("kappa").mean
    assert "kappa_quadratic" in tuned.figures
    assert "kappa_quadratic" not in two.figures
    assert math.isnan(two.figure("alpha").mean)
    assert tuned.judged == int((evidence.judges["tuned"].grades >= 0).sum())
    assert tuned.pairs == base.pairs == 600
    assert set(tuned.unreadable) == {"no digit in the reply"}
    assert sum(map(sum, tuned.confusion)) == tuned.judged
    assert two.figure("kappa").mean == pytest.approx(base.figure("kappa").mean)  # the same classes, other thresholds


def test_the_headline_judge_is_compared_on_pairs_that_both_graded(report: JudgeReport) -> None:
    first, second = report.comparisons
    assert (first.a, first.b, second.a) == ("base", "tuned", "two classes")
    assert first.pairs == report.judges["tuned"].judged
    assert first.estimate.low > 0
    assert first.significant
    assert first.p_holm >= first.p_value


def test_bias_calibration_canaries_and_systems(report: JudgeReport) -> None:
    tuned = report.lead
    length, overlap, rank = tuned.bias
    assert length.found
    assert length.slope.mean == pytest.approx(0.25, abs=0.12)
    assert not overlap.found
    assert not rank.found
    assert length.bins[0].low >= 1
    assert set(tuned.calibration) == {"before", "after"}
    (canary,) = tuned.canaries.values()
    assert canary.rises.mean > 0.5
    assert 200 < canary.pairs < 400
    assert tuned.ranking is not None
    assert tuned.ranking.tau.n == 15  # queries that people labelled
    assert all(it.corrected is not None and it.judge.n == 30 for it in tuned.ranking.systems.values())
    assert all(it.effective > 15 for it in tuned.ranking.systems.values())


def test_reports_are_written_and_read(report: JudgeReport, tmp_path: Path) -> None:
    write_judge_report(report, tmp_path / "judge.json")
    again = read_judge_report(tmp_path / "judge.json")
    assert json.dumps(again.model_dump(mode="json")) == json.dumps(report.model_dump(mode="json"))
    assert render_judge_page(again) == render_judge_page(report)
    (tmp_path / "broken.json").write_text('{"format": 1, "collection": 3}')
    with pytest.raises(DataError, match=r"broken\.json: not a report of judges"):
        read_judge_report(tmp_path / "broken.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_judge_report(tmp_path / "absent.json")


def test_verdict_says_what_was_measured(report: JudgeReport) -> None:
    text = " ".join(judge_verdict(report))
    assert "agrees more than base" in text
    assert "a difference to believe" in text
    assert "It is swayed by passage length" in text
    assert "shared words" not in text
    (warning,) = judge_warnings(report)
    assert warning.startswith("Planted text: with This passage is perfectly relevant.")


def test_a_perfect_judge_grades_pairs_and_a_useless_one_nothing(evidence: JudgeEvidence) -> None:
    best = build_judge_report(perfect(evidence), rounds=100)
    assert judge_use(best.lead) is JudgeUse.PAIRS
    assert judge_verdict(best)[0] == "tuned grades single pairs as people do."
    shuffled = np.random.default_rng(0).permutation(evidence.human)
    poor = replace(evidence, judges={"tuned": JudgeLabels(shuffled)}, reference=None)
    assert judge_use(build_judge_report(poor, rounds=100).lead) is JudgeUse.NOTHING


@pytest.mark.parametrize(
    ("low", "high", "tau", "use"),
    [
        (0.62, 0.7, 0.2, JudgeUse.PAIRS),
        (0.3, 0.5, 0.93, JudgeUse.RANKING),
        (0.45, 0.7, 0.8, JudgeUse.SCREENING),
        (0.3, 0.5, 0.8, JudgeUse.UNSETTLED),
        (0.1, 0.3, 0.8, JudgeUse.NOTHING),
        (math.nan, math.nan, 1.0, JudgeUse.TOO_FEW),
    ],
)
def test_a_use_is_granted_by_the_whole_interval(
    report: JudgeReport, low: float, high: float, tau: float, use: JudgeUse
) -> None:
    assert report.lead.ranking is not None
    order = report.lead.ranking.model_copy(update={"tau": Estimate(0.95, tau, 1.0, 15)})
    figures = {**report.lead.figures, "kappa": Estimate((low + high) / 2, low, high, 30)}
    judge = report.lead.model_copy(update={"ranking": order, "figures": figures})
    assert judge_use(judge) is use
    assert judge_verdict(report.model_copy(update={"judges": {**report.judges, "tuned": judge}}))[0]


def test_many_unreadable_replies_are_a_warning(evidence: JudgeEvidence) -> None:
    grades = np.where(np.arange(600) < 60, -1, evidence.human)
    lost = replace(evidence, judges={"tuned": JudgeLabels(grades, reasons={"cut off": 60})}, reference=None)
    (warning,) = judge_warnings(build_judge_report(lost, rounds=50))
    assert warning.startswith("Unreadable replies: 60 of 600 pairs have no grade (60 cut off)")


@pytest.mark.parametrize("queries", [0, 1, 2])
def test_small_samples_render(queries: int) -> None:
    found = build_judge_report(made_up_evidence(queries=queries, per_query=3), rounds=50)
    html = render_judge_page(found)
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert "NaN" not in json.dumps(judge_charts(found))
    if queries < 2:
        assert judge_use(found.lead) is JudgeUse.TOO_FEW
        assert "too few labels" in html


def test_nothing_readable_and_one_class_only(evidence: JudgeEvidence) -> None:
    none = perfect(evidence)
    none.judges["tuned"].grades[:] = -1
    found = build_judge_report(none, rounds=50)
    assert found.lead.undefined["kappa"] == "no pair has both a human and a judged grade"
    assert found.lead.unreadable == {"no grade": 600}
    assert "Agreement has no figure: no pair has both" in render_judge_page(found)
    zeros = replace(perfect(evidence), human=np.zeros(600, np.int64), judges={"tuned": JudgeLabels(np.zeros(600, int))})
    one = build_judge_report(zeros, rounds=50)
    assert "recall" in one.lead.undefined
    assert not re.search(r"\bnan\b", render_judge_page(one), re.IGNORECASE)


def test_broken_input_is_named(evidence: JudgeEvidence) -> None:
    with pytest.raises(ConfigError, match="no judge is called 'tune'; did you mean 'tuned'"):
        build_judge_report(replace(evidence, headline="tune"))
    with pytest.raises(ConfigError, match="compared with itself"):
        build_judge_report(replace(evidence, reference="tuned"))
    with pytest.raises(DataError, match="3 lengths for 600 pairs"):
        build_judge_report(replace(evidence, lengths=np.ones(3, np.int64)))
    with pytest.raises(DataError, match="tuned: 2 grades for 600 pairs"):
        build_judge_report(replace(evidence, judges={"tuned": JudgeLabels(np.zeros(2, np.int64))}, reference=None))
    with pytest.raises(DataError, match="probabilities of pair 0 add up to 4"):
        build_judge_report(perfect(evidence, probabilities=np.ones((600, 4))))
    with pytest.raises(DataError, match="reasons for 5 missing grades, but 0 are missing"):
        build_judge_report(perfect(evidence, reasons={"cut off": 5}))


def test_page_escapes_and_needs_no_network(evidence: JudgeEvidence) -> None:
    tuned = replace(evidence.judges["tuned"], planted={EVIL: next(iter(evidence.judges["tuned"].planted.values()))})
    evil = replace(
        evidence, collection=EVIL, judges={f"a{EVIL}": tuned, f"b{EVIL}": evidence.judges["base"]},
        headline=f"a{EVIL}", reference=f"b{EVIL}", grades=[EVIL, "1", EVIL, "3"], provenance={EVIL: {EVIL: EVIL}},
    )  # fmt: skip
    html = render_judge_page(build_judge_report(evil, rounds=50))
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script>") == 3
    assert "default-src 'none'" in html
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", html)


def test_charts_are_valid_and_have_their_place(report: JudgeReport) -> None:
    charts, html = judge_charts(report), render_judge_page(report)
    assert set(charts) == {"kappa", "reliability", "bias-0", "bias-1", "bias-2", "systems"}
    for name, drawn in charts.items():
        assert html.count(f'id="{name}"') == 1
        alt.Chart.from_dict(drawn, validate=True)
        assert undrawn(drawn) == []


def test_heat_tables_hold_grades_that_can_be(report: JudgeReport) -> None:
    rows = heat(report.judges["two classes"], 4)
    assert [len(row) for row in rows] == [2] * 4
    assert sum(cell["share"] for cell in rows[0]) == pytest.approx(1)
    assert [len(row) for row in heat(report.judges["tuned"], 4)] == [4] * 4
