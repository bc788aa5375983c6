"""The table of the terminal: complete, within 84 columns, best marked."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.evaluation import build_report, render_report

EVIDENCE = made_up_evidence(queries=60, docs=90)
REPORT = build_report(EVIDENCE, rounds=200)


def test_table_fits_and_holds_every_figure() -> None:
    text = render_report(REPORT)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 84
    assert "…" not in text
    estimate = REPORT.estimate("base")
    assert f"{estimate.mean:.3f}".lstrip("0") in text
    assert f"{estimate.low:.3f}–{estimate.high:.3f}".replace("0.", ".") in text
    for name in ("all (60)", "unseen (24)", "seen (36)", "residual (24)"):
        assert name in text
    assert sum("tuned+bm25" in line for line in lines) == 5  # four blocks and one sentence
    assert "Tuning " in lines[0]


def test_best_is_marked_in_every_block() -> None:
    row = next(line for line in render_report(REPORT).splitlines() if line.strip().startswith("tuned+bm25"))
    assert row.count("★") == 4


def test_empty_slices_are_named_without_rows() -> None:
    text = render_report(build_report(replace(EVIDENCE, seen=None, residual=None), rounds=200))
    assert "unseen (0)" in text
    assert "nan" not in text


def test_markup_in_names_is_shown_not_obeyed() -> None:
    runs = {"[red]base[/red]": EVIDENCE.runs["base"], "t": EVIDENCE.runs["tuned"]}
    found = build_report(
        replace(EVIDENCE, runs=runs, reference="[red]base[/red]", tuned=["t"], pairs=[], residual=None), rounds=200
    )
    assert "[red]base[/red]" in render_report(found, width=120)
