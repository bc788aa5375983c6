"""The table of the terminal: complete, within 84 columns, best marked."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.errors import ConfigError
from searchtune.evaluation import build_report, render_report
from searchtune.evaluation.table import latex_table, mark, markdown_table

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
    assert row.count("★") == 3, "recall@100 takes in all 90 documents: there is no best"


def test_slices_that_are_empty_or_repeat_all_are_left_out() -> None:
    text = render_report(build_report(replace(EVIDENCE, seen=None, residual=None), rounds=200))
    assert "all (60)" in text and "unseen (" not in text
    every = render_report(build_report(replace(EVIDENCE, seen=np.zeros(60, np.bool_), residual=None), rounds=200))
    assert "all (60)" in every and "unseen (60)" not in every
    assert "nan" not in text


def test_markup_in_names_is_shown_not_obeyed() -> None:
    runs = {"[red]base[/red]": EVIDENCE.runs["base"], "t": EVIDENCE.runs["tuned"]}
    found = build_report(
        replace(EVIDENCE, runs=runs, reference="[red]base[/red]", tuned=["t"], pairs=[], residual=None), rounds=200
    )
    assert "[red]base[/red]" in render_report(found, width=120)


def test_markdown_holds_every_figure_escaped() -> None:
    runs = {"a|b_*": EVIDENCE.runs["base"], "t": EVIDENCE.runs["tuned"]}
    evidence = replace(EVIDENCE, runs=runs, reference="a|b_*", tuned=["t"], pairs=[], residual=None)
    report = build_report(evidence, rounds=200)
    lines = markdown_table(report).splitlines()
    assert lines[0] == "| system | nDCG@10 | Recall@10 | Recall@100 | MRR@10 |"
    assert lines[2].startswith(r"| a\|b\_\* | 0.")
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines[:4])
    estimate = report.estimate("t")
    assert f"| **{estimate.mean:.3f}**▲ ({estimate.low:.3f}–{estimate.high:.3f}) |" in lines[3]
    assert "worse than a\\|b\\_\\*" in lines[5]
    assert "24 unseen queries" in markdown_table(report, "unseen")
    with pytest.raises(ConfigError, match="no slice 'unsen'; did you mean 'unseen'"):
        markdown_table(report, "unsen")


def test_latex_is_escaped_and_whole() -> None:
    runs = {r"50%_{x}\~^&#$": EVIDENCE.runs["base"], "t": EVIDENCE.runs["tuned"]}
    evidence = replace(EVIDENCE, runs=runs, reference=r"50%_{x}\~^&#$", tuned=["t"], pairs=[], residual=None)
    text = latex_table(build_report(evidence, rounds=200))
    assert r"50\%\_\{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}\&\#\$ & 0." in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"$^{\dagger}$ {\small (" in text
    assert text.count(r" \\") == 3
    assert r"95\% bootstrap" in text
    assert not re.search(r"[▲▼–†‡−]", text)


def test_marks_say_which_way_and_only_beyond_chance() -> None:
    swapped = build_report(replace(EVIDENCE, reference="tuned", tuned=["base"], pairs=[]), rounds=200)
    assert mark(swapped, swapped, "base", "ndcg@10") == "▼"
    assert mark(swapped, swapped, "tuned", "ndcg@10") == ""
    same = {**EVIDENCE.runs, "tuned": EVIDENCE.runs["base"]}
    level = build_report(replace(EVIDENCE, runs=same), rounds=200)
    assert mark(level, level, "tuned", "ndcg@10") == ""


def test_untuned_systems_have_a_table_too() -> None:
    report = build_report(replace(EVIDENCE, tuned=(), pairs=(), seen=None, residual=None), rounds=200)
    text = render_report(report)
    assert "unseen" not in text
    assert "Nothing was tuned" in text
