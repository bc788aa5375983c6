"""The page of answers in a real browser: nothing in the data runs, filters and citations work, no table is cut off."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.test_report_page import CHROMIUM, acting, browse, count_of, listed
from tests.unit.evaluation.made_up_answers import made_up_answers

from searchtune.evaluation import answer_page
from searchtune.evaluation.answer_page import LENGTHS, answer_data, render_answer_page, write_answer_page
from searchtune.evaluation.answer_report import AnswerReport, read_answer_report, write_answer_report
from searchtune.evaluation.answering import build_answer_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at in a browser"),
]
TRAP = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"


@pytest.fixture(scope="module")
def report() -> AnswerReport:
    return build_answer_report(made_up_answers(trap=f" {TRAP}"), rounds=1000)


@pytest.fixture(scope="module")
def page(report: AnswerReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    write_answer_report(report, folder / "answers.json")
    write_answer_page(read_answer_report(folder / "answers.json"), folder / "answers.html")
    return folder / "answers.html"


def plain_page(folder: Path, **changes) -> Path:
    path = folder / "plain.html"
    write_answer_page(build_answer_report(replace(made_up_answers(), **changes), rounds=100), path)
    return path


def test_nothing_in_the_data_runs(page: Path, tmp_path: Path) -> None:
    script = "document.querySelectorAll('.example').forEach((it) => { it.open = true; });"
    dom, console = browse(acting(page, script), tmp_path / "profile")
    assert console == []
    assert "broken in · " not in dom
    assert re.search(r"<title>Better answers · tuned &lt;script&gt;", dom)
    body = dom[dom.index('id="list"') : dom.index('id="further"')]
    assert "<img" not in body
    assert "&lt;script&gt;document.title=" in body
    assert body.count('class="answers"') == 30
    assert len(listed(dom)) == 30
    assert count_of(dom) == "60 of 60 questions."


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_no_table_is_cut_off(tmp_path: Path, width: int) -> None:
    script = """
      document.querySelectorAll("details").forEach((it) => { it.open = true; });
      const wide = document.documentElement.scrollWidth > innerWidth + 1 ? "the page" : "";
      const cut = [...document.querySelectorAll(".scroll")].filter((it) => it.scrollWidth > it.clientWidth + 1);
      document.title = "cut off: " + (innerWidth < 700 ? wide : wide + cut.map((it) => it.getAttribute("aria-label")).join(", "));
    """
    dom, console = browse(acting(plain_page(tmp_path), script), tmp_path / "profile", f"--window-size={width},900")
    assert console == []
    assert "<title>cut off: </title>" in dom


def test_an_address_presets_filters(tmp_path: Path) -> None:
    path = plain_page(tmp_path)
    report = build_answer_report(made_up_answers(), rounds=100)

    def wanted(condition: str, system: str, like) -> set[str]:
        return {row.id for row in report.rows if like(row.shown[condition], row.shown[condition].answers[system])}

    dom, console = browse(path, tmp_path / "profile", state="condition=gold&show=shy")
    assert console == []
    shy = wanted("gold", "tuned", lambda shown, it: shown.gold and it.abstained)
    assert shy
    assert set(listed(dom)) == shy
    dom, _ = browse(path, tmp_path / "profile", state="condition=none&system=base&show=bold")
    bold = wanted("none", "base", lambda shown, it: not it.abstained)
    assert count_of(dom) == f"{len(bold)} of 60 questions."
    dom, _ = browse(path, tmp_path / "profile", state="show=error-missed")
    assert set(listed(dom)) == {row.id for row in report.rows if row.errors["tuned"] == "missed"}
    dom, _ = browse(path, tmp_path / "profile", state="q=ORCHARD+numbered+37")
    assert listed(dom) == ["q37"]
    dom, _ = browse(path, tmp_path / "profile", state="q=nowhere")
    assert "No question is like that." in dom


def test_worst_cases_sort_and_more(tmp_path: Path) -> None:
    path = plain_page(tmp_path)
    report = build_answer_report(made_up_answers(), rounds=100)
    dom, _ = browse(path, tmp_path / "profile")
    changes = report.values("retrieved", "tuned", "overall") - report.values("retrieved", "base", "overall")
    place = {row.id: number for number, row in enumerate(report.rows)}
    order = [changes[place[name]] for name in listed(dom)]
    assert order == sorted(order)
    script = """
      document.querySelector('#worst button[data-kind="loose"]').click();
      document.body.dataset.loose = document.getElementById("count").textContent;
      document.querySelector('#worst button[data-kind="loose"]').click();
      document.getElementById("further").click();
    """
    dom, console = browse(acting(path, script), tmp_path / "profile")
    assert console == []
    loose = sum(bool(row.shown["retrieved"].answers["tuned"].doubtful) for row in report.rows)
    assert f'data-loose="{loose} of 60 questions."' in dom
    assert len(listed(dom)) == 60


def test_citations_are_marked_and_lead_to_passages(tmp_path: Path) -> None:
    script = """
      document.querySelectorAll('.example').forEach((it) => { it.open = true; });
      setTimeout(() => document.querySelector(".cite.gold").click(), 300);
    """
    dom, console = browse(acting(plain_page(tmp_path), script), tmp_path / "profile", state="show=cites&system=base")
    assert console == []
    assert '<button class="cite lost" type="button" title="there is no such passage">[9]</button>' in dom
    assert 'class="cite gold"' in dom
    assert 'class="doubt"' in dom
    assert len(re.findall(r'<li class="[^"]*\blit\b', dom)) == 1
    assert "has the answer</em>" in dom


def test_one_system_without_errors_or_canaries(tmp_path: Path) -> None:
    evidence = made_up_answers(canaries=False)
    alone = {"gold": evidence.cases["tuned"]["gold"]}
    path = plain_page(tmp_path, cases={"tuned": alone}, reference=None, trials={})
    dom, console = browse(path, tmp_path / "profile")
    assert console == []
    assert "One system, nothing to compare" in dom
    assert 'id="h-errors"' not in dom
    assert "worse than" not in dom[dom.index('id="show"') : dom.index('id="sort"')]


def test_no_questions(tmp_path: Path) -> None:
    empty = {name: {condition: [] for condition in by} for name, by in made_up_answers().cases.items()}
    path = plain_page(tmp_path, cases=empty, ids=[], questions=[], answerable=[], trials={})
    dom, console = browse(path, tmp_path / "profile")
    assert console == []
    assert count_of(dom) == "0 of 0 questions."


def test_a_large_page_is_cut(report: AnswerReport, monkeypatch: pytest.MonkeyPatch) -> None:
    long = report.model_copy(update={"passages": ["many words " * 500 for _ in report.passages]})
    whole = len(render_answer_page(long))
    monkeypatch.setattr(answer_page, "LIMIT", whole - 1000)
    assert len(render_answer_page(long)) < whole
    monkeypatch.setattr(answer_page, "MOST_ROWS", 10)
    data = answer_data(long, LENGTHS[-1])
    assert (len(data["rows"]), data["left_out"]) == (10, 50)
    assert max(len(text) for text in data["passages"]) <= LENGTHS[-1]
    assert max(number for row in data["rows"] for shown in row["shown"].values() for number in shown["passages"]) < len(data["passages"])  # fmt: skip
