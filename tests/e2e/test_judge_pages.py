"""The pages of judges in a real browser: charts are drawn, filters work, corrections are kept, exported and read again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.test_report_page import CHROMIUM, acting, browse, chart_of, count_of, look, no_empty_chart
from tests.unit.evaluation.made_up_judges import made_up_evidence

from searchtune.evaluation.judge_page import write_judge_page
from searchtune.evaluation.judging import build_judge_report
from searchtune.evaluation.review import MOST_PAIRS, Review, ReviewPair, write_review

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at in a browser"),
]
TRAP = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    evidence = made_up_evidence()
    judges = {f"{name} {TRAP}": labels for name, labels in evidence.judges.items()}
    trapped = replace(
        evidence, judges=judges, headline=f"tuned {TRAP}", reference=f"base {TRAP}", collection=f"help-desk {TRAP}"
    )
    path = tmp_path_factory.mktemp("judges") / "judge.html"
    write_judge_page(build_judge_report(trapped, rounds=300), path)
    return path


@pytest.mark.parametrize("width", [1280, 800])
def test_agreement_page(judges: Path, tmp_path: Path, width: int) -> None:
    dom, console = browse(judges, tmp_path / "profile", f"--window-size={width},900")
    assert console == []
    for name in ("kappa", "reliability", "bias-0", "bias-1", "bias-2", "systems"):
        assert "<svg" in chart_of(dom, name), f"{name} was not drawn"
    assert dom.count('aria-roledescription="point"') >= 3 + 18 + 5
    assert "broken in · " not in dom
    assert re.search(r"<title>[^<]*tuned &lt;script&gt;", dom)
    assert dom.count('class="heat"') == 3
    no_empty_chart(look(judges, tmp_path / "again", f"--window-size={width},900"))


@pytest.mark.parametrize("width", [1280, 800])
def test_no_table_is_cut_off(tmp_path: Path, width: int) -> None:
    page = tmp_path / "judge.html"
    write_judge_page(build_judge_report(made_up_evidence(), rounds=100), page)
    script = """
      const cut = [...document.querySelectorAll(".scroll")].filter((it) => it.scrollWidth > it.clientWidth + 1);
      document.title = "cut off: " + cut.map((it) => it.getAttribute("aria-label")).join(", ");
    """
    dom, console = browse(acting(page, script), tmp_path / "profile", f"--window-size={width},900")
    assert console == []
    assert "<title>cut off: </title>" in dom


def review(pairs: int = 120) -> Review:
    """Every third pair agrees, every tenth is unreadable; words of queries tell the pairs apart."""
    rng = np.random.default_rng(2)
    made = []
    for number in range(pairs):
        first = number % 4
        second = None if number % 10 == 9 else first if number % 3 == 0 else (first + 1 + number % 2) % 4
        shares = None if second is None else tuple(rng.dirichlet(np.ones(4)))
        topic = ("travel card", "password reset", "printer jam")[number % 7 % 3]
        made.append(
            ReviewPair(
                f"q{number % 7}", f"how to {topic} {number % 7} {TRAP}", f"d{number}", f"A {topic} passage {TRAP} " * 12,
                first, second, None, shares, "no digit" if second is None else None,
            )
        )  # fmt: skip
    return Review(f"help-desk {TRAP}", "human", "tuned", ["no", "related", "good", "perfect"], made)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("review") / "review.html"
    write_review(review(), path)
    return path


def shown(dom: str) -> list[str]:
    return re.findall(r'data-doc="([^"]*)"', dom[dom.index('id="list"') :])


def said(dom: str) -> str:
    found = re.search(r'id="said"[^>]*>(.*?)</p>', dom)
    assert found is not None
    return found.group(1)


def wanted(**more) -> list[ReviewPair]:
    return [
        it for it in review().pairs if it.disagrees and all(getattr(it, key) == value for key, value in more.items())
    ]


def test_review_lists_disagreements_as_text(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    assert len(shown(dom)) == 25
    assert count_of(dom) == f"{len(wanted())} of {len(wanted())} disagreements, 0 corrected."
    assert "&lt;script&gt;document.title=" in dom
    assert "<img" not in dom[dom.index('id="list"') : dom.index('id="back"')]
    assert re.search(r"<title>Review · help-desk &lt;script", dom)
    assert '<div class="bar given"' in dom
    assert "<mark>" in dom


def test_an_address_presets_filters(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path / "profile", state="pair=0:1&q=PASSWORD+reset")
    assert console == []
    found = [it.doc_id for it in wanted(first=0, second=1) if "password reset" in it.query]
    assert found
    assert sorted(shown(dom)) == sorted(found)
    dom, _ = browse(page, tmp_path / "profile", state="unreadable=1")
    assert sorted(shown(dom)) == sorted(it.doc_id for it in wanted(second=None))
    dom, _ = browse(page, tmp_path / "profile", state="q=nowhere")
    assert "No pair is like that." in dom
    dom, _ = browse(page, tmp_path / "profile", state="sort=high&page=99")
    assert 0 < len(shown(dom)) <= 25


def test_corrections_are_set_kept_and_exported(page: Path, tmp_path: Path) -> None:
    """The digit key and a click set a grade, a second click takes it back; a second visit finds it; export holds it."""
    script = """
      const blobs = [];
      URL.createObjectURL = (blob) => { blobs.push(blob); return "blob:none"; };
      HTMLAnchorElement.prototype.click = function () { document.body.dataset.file = this.download; };
      const entries = document.querySelectorAll(".pair");
      entries[0].dispatchEvent(new KeyboardEvent("keydown", {key: "2", bubbles: true}));
      entries[0].dispatchEvent(new KeyboardEvent("keydown", {key: "9", bubbles: true}));
      entries[1].querySelectorAll(".labels button")[3].click();
      entries[2].querySelectorAll(".labels button")[1].click();
      entries[2].querySelectorAll(".labels button")[1].click();
      document.getElementById("export").click();
      blobs[0].text().then((text) => { document.body.dataset.lines = text; });
    """
    profile = tmp_path / "profile"
    acted = acting(page, script)
    dom, console = browse(acted, profile)
    assert console == []
    assert "2 corrected." in count_of(dom)
    assert 'data-file="corrections.jsonl"' in dom
    found = re.search(r'data-lines="([^"]*)"', dom)
    assert found is not None
    lines = [json.loads(line.replace("&quot;", '"')) for line in found.group(1).splitlines()]
    assert [line["grade"] for line in lines] == [2, 3]
    assert [line["doc_id"] for line in lines] == shown(dom)[:2]
    assert set(lines[0]["was"]) == {"human", "tuned"}

    html = acted.read_text(encoding="utf-8")
    acted.write_text(html.replace(f"<script>{script}</script>", ""), encoding="utf-8")  # the same address, a new visit
    dom, console = browse(acted, profile, state="state=done")
    assert console == []
    assert shown(dom) == [line["doc_id"] for line in lines]
    assert dom.count('aria-pressed="true"') == 2
    assert dom.count("pair done") == 2


def test_corrections_are_read_again(page: Path, tmp_path: Path) -> None:
    first = wanted()[0]
    good = {"query_id": first.query_id, "doc_id": first.doc_id, "grade": 1}
    lines = [good, {**good, "doc_id": "elsewhere"}, {**good, "grade": 7}, None, "text"]
    text = "\n".join([*(json.dumps(line) for line in lines), "{broken", ""])
    script = f"""
      const file = document.getElementById("file"), given = new DataTransfer();
      given.items.add(new File([{json.dumps(text)}], "corrections.jsonl"));
      file.files = given.files;
      file.dispatchEvent(new Event("change"));
    """
    dom, console = browse(acting(page, script), tmp_path / "profile", state="state=done")
    assert console == []
    assert said(dom) == (
        "1 correction taken, left out: 1 line of pairs that are not in this page, 4 lines without a grade from 0 to 3."
    )
    assert shown(dom) == [first.doc_id]


def test_ten_thousand_pairs_are_turned_by_page(tmp_path: Path) -> None:
    path = tmp_path / "review.html"
    pairs = [
        ReviewPair(
            f"q{number // 100}", f"query {number // 100}", f"d{number}", "words of a passage " * 30, number % 2, 2
        )
        for number in range(MOST_PAIRS + 500)
    ]
    write_review(Review("large", "human", "tuned", ["0", "1", "2"], pairs), path)
    script = 'document.getElementById("next").click(); document.getElementById("next").click();'
    dom, console = browse(acting(path, script), tmp_path / "profile")
    assert console == []
    assert "page 3 of 400" in dom
    assert len(shown(dom)) == 25
    assert "500 more are left out for size." in dom
