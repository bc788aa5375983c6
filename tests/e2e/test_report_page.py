"""The report page in a real browser: charts are drawn, nothing is logged, nothing in the data runs, no network is used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.unit.evaluation.made_up import made_up_evidence, with_reranking, with_two_relevant

from searchtune.evaluation import Report, build_report, read_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.evaluation.wording import figure, signed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=8000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",  # nothing listens there: whatever asks for the network fails
]
SLICES = ("slice-all", "slice-unseen", "slice-seen", "slice-residual")
CHARTS = (*SLICES, "kind-0", "recall", "gains", "loss", "dev")
RERANKING = ("trade-off", "reliability")
MEGABYTE = 2**20

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at in a browser"),
]


def browse(page: Path, profile: Path, *flags: str, state: str = "") -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and what was written to the console. `state` is what follows the `#`."""
    address = page.as_uri() + (f"#{state}" if state else "")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def chart_of(dom: str, name: str) -> str:
    """The element of one chart, up to the next chart's."""
    found = re.search(rf'id="{name}"(.*?)(?=class="chart|</section>)', dom, re.DOTALL)
    assert found is not None, f"no element for {name}"
    return found.group(1)


LOOK = """
  addEventListener("load", () => setTimeout(() => {
    const seen = (it) => { const box = it.getBoundingClientRect(), style = getComputedStyle(it);
      return box.width + box.height > 0 && style.opacity !== "0" && !/NaN/.test(it.outerHTML); };
    const marks = (it) => it.querySelectorAll(".role-mark path, .role-mark line, .role-mark rect, .role-mark text");
    const labels = (it) => [...it.querySelectorAll(".role-axis")].map((axis) =>
      [...axis.querySelectorAll(".role-axis-label text")].filter(seen).map((text) => text.textContent));
    const found = Object.fromEntries([...document.querySelectorAll(".chart")].map((it) =>
      [it.id, { marks: [...marks(it)].filter(seen).length, labels: labels(it) }]));
    document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) }));
  }, 1500));
"""


def look(page: Path, profile: Path, *flags: str) -> dict[str, dict[str, Any]]:
    """What stands inside each chart: how many marks one can see, and the labels of its axes."""
    dom, console = browse(acting(page, LOOK), profile, *flags)
    assert console == []
    found = re.search(r'<pre id="found">(.*?)</pre>', dom)
    assert found is not None
    looked: dict[str, dict[str, Any]] = json.loads(unescape(found.group(1)))
    return looked


def no_empty_chart(found: dict[str, dict[str, Any]]) -> None:
    """Every chart has marks to see, and no axis says the same at two places."""
    assert {name: it for name, it in found.items() if not it["marks"]} == {}
    doubled = {name: axis for name, it in found.items() for axis in it["labels"] if len(set(axis)) < len(axis)}
    assert doubled == {}


def listed(dom: str) -> list[str]:
    """Ids of the queries that the list shows."""
    return re.findall(r'<details class="example" data-id="([^"]*)"', dom)


def count_of(dom: str) -> str:
    found = re.search(r'id="count"[^>]*>(.*?)</p>', dom)
    assert found is not None
    return found.group(1)


def acting(page: Path, script: str) -> Path:
    """The page with a script at its end that does what a reader would."""
    html, _, end = page.read_text(encoding="utf-8").rpartition("</body>")
    acted = page.with_name("acting.html")
    acted.write_text(f"{html}<script>{script}</script></body>{end}", encoding="utf-8")
    return acted


@pytest.fixture(scope="module")
def report() -> Report:
    evidence = made_up_evidence()
    old = evidence.collection
    trap = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"
    collection = replace(
        old,
        titles=[f"{title} {trap}" for title in old.titles],
        texts=[trap + text for text in old.texts],
        query_texts=[f"{text} {trap}" for text in old.query_texts],
    )
    return build_report(replace(evidence, collection=collection), rounds=500)


def test_page_in_a_browser(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(report, tmp_path / "report.json")
    write_page(read_report(tmp_path / "report.json"), page)
    assert page.stat().st_size < 8 * MEGABYTE

    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    for name in CHARTS:
        assert "<svg" in chart_of(dom, name), f"{name} was not drawn"
    assert len(re.findall(r'aria-roledescription="bar"', chart_of(dom, "gains"))) == 300
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    assert title.group(1) == "Gain holds · help-desk · searchtune"


def test_dark_and_narrow_draw_too(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(report, page)
    dom, console = browse(
        page, tmp_path / "profile", "--window-size=500,900", "--blink-settings=preferredColorScheme=0"
    )
    assert console == []
    widths = [float(width) for width in re.findall(r'<svg[^>]*? width="([\d.]+)"', dom)]
    assert len(widths) == len(CHARTS)
    assert max(widths) <= 460  # headless windows are at least 500 wide
    assert "#5cc0d6" in chart_of(dom, "gains")  # the accent of the dark theme


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(report, path)
    return path


def test_an_address_presets_the_list_of_queries(page: Path, report: Report, tmp_path: Path) -> None:
    state = "q=travel+card&slice=unseen&change=lost&sort=loss&a=hybrid&b=tuned"
    dom, console = browse(page, tmp_path / "profile", state=state)
    assert console == []
    rows = [row for row in report.per_query if "travel card" in row.text and row.slice == "unseen"]
    lost = {row.id: row.scores["tuned"] - row.scores["hybrid"] for row in rows}
    wanted = sorted((gain, query) for query, gain in lost.items() if gain < 0)
    assert 0 < len(wanted) < len(rows)
    assert listed(dom) == [query for _, query in wanted]
    assert count_of(dom) == f"{len(wanted)} of 300 queries: 0 gained, {len(wanted)} lost, 0 the same."


def test_an_opened_query_shows_both_rankings(page: Path, report: Report, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path / "profile", state="q=q0016&open=q0016")
    assert console == []
    assert listed(dom) == ["q0016"]
    assert report.rankings is not None
    inside = dom[dom.index('data-id="q0016"') : dom.index('id="more"')]
    assert re.findall(r"<h4>(.*?)</h4>", inside) == ["base", "tuned"]
    assert inside.count("not judged") == inside.count('class="unjudged"') > 10
    ranked = report.rankings.queries["q0016"]
    shown = sum(ranked.relevant[0] in ranked.top[name] for name in ("base", "tuned"))
    assert inside.count("✓ relevant, grade 1") == shown
    assert "&lt;script&gt;document.title" in inside


def test_a_reader_can_type_sort_and_ask_for_more(page: Path, tmp_path: Path) -> None:
    script = """
      const find = document.getElementById("find");
      document.getElementById("more").click();
      document.title = document.querySelectorAll("#list > details").length + " rows";
      document.querySelector("table.sortable button[data-kind=number]").click();
      find.value = "PASSWORD contractors"; find.dispatchEvent(new Event("input", {bubbles: true}));
    """
    dom, console = browse(acting(page, script), tmp_path / "profile")
    assert console == []
    assert "<title>80 rows</title>" in dom
    assert dom.count('aria-sort="descending"') == 1
    means = re.findall(r'<td data-v="([\d.]+)"', dom[dom.index("<tbody") : dom.index("</tbody>")])[::4]
    assert len(means) == 5
    assert means == sorted(means, key=float, reverse=True)
    assert 0 < len(listed(dom)) < 40
    assert all("password" in text for text in re.findall(r'class="query">(.*?)</span>', dom))


def test_screenshot_is_not_blank(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", "--window-size=1200,1600", f"--screenshot={picture}")
    data = picture.read_bytes()
    packed, place = b"", 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            packed += data[place + 8 : place + 8 + size]
        place += 12 + size
    assert len(set(zlib.decompress(packed))) > 100


@pytest.fixture(scope="module")
def reranking_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(build_report(with_reranking(made_up_evidence(queries=100, docs=150)), rounds=300), path)
    return path


def test_no_chart_is_an_empty_frame(page: Path, tmp_path: Path) -> None:
    found = look(page, tmp_path / "profile", "--window-size=1200,900")
    assert set(found) == set(CHARTS)
    no_empty_chart(found)
    assert found["dev"]["marks"] >= 5  # four looks, the line between them, a ring around the one that was kept


def test_no_chart_is_an_empty_frame_where_little_changed(tmp_path: Path) -> None:
    """Two steps, none of them kept, and gains so small that labels of one decimal would be the same."""
    evidence = made_up_evidence(queries=300, docs=400, unseen_gain=0.02, seen_gain=0.03)
    few = {"curve": [row for row in evidence.training["curve"] if row["step"] in (29, 30)]}
    path = tmp_path / "report.html"
    write_page(build_report(with_two_relevant(replace(evidence, training=few)), rounds=100), path)
    found = look(path, tmp_path / "profile", "--window-size=800,900")
    assert {"dev", "precision", "gains"} <= set(found)
    no_empty_chart(found)


def test_figures_are_written_alike_by_page_and_script(page: Path, tmp_path: Path) -> None:
    values = [0.1444, -0.0201, 0, -0.0003, 0.00042, -0.0000041, 1e-17, -1e-12, 0.9999, 0.0123]
    script = f"document.title = {json.dumps(values)}.map((x) => figure(x) + signed(x)).join(' ');"
    dom, _ = browse(acting(page, script), tmp_path / "profile")
    assert f"<title>{' '.join(figure(x) + signed(x) for x in values)}</title>" in dom


def test_rerankers_are_drawn(reranking_page: Path, tmp_path: Path) -> None:
    dom, console = browse(reranking_page, tmp_path / "profile")
    assert console == []
    trade_off, reliability = (chart_of(dom, name) for name in RERANKING)
    assert "base alone" in trade_off
    no_empty_chart(look(reranking_page, tmp_path / "again"))
    assert trade_off.count('aria-roledescription="point"') == 8
    assert reliability.count('aria-roledescription="point"') >= 18


@pytest.mark.parametrize("width", [1200, 800])
def test_no_table_is_cut_off(reranking_page: Path, tmp_path: Path, width: int) -> None:
    """Tables of a page that is as wide as a laptop's or half a screen's need no scrolling."""
    script = """
      document.querySelectorAll("details").forEach((it) => { it.open = true; });
      const cut = [...document.querySelectorAll(".scroll")].filter((it) => it.scrollWidth > it.clientWidth + 1);
      document.title = "cut off: " + cut.map((it) => it.getAttribute("aria-label")).join(", ");
    """
    dom, console = browse(acting(reranking_page, script), tmp_path / "profile", f"--window-size={width},900")
    assert console == []
    assert "<title>cut off: </title>" in dom


def test_nothing_tuned_draws_too(tmp_path: Path) -> None:
    evidence = made_up_evidence(queries=60, docs=90)
    runs = {name: evidence.runs[name] for name in ("bm25", "base", "hybrid")}
    bare = replace(evidence, runs=runs, reference="bm25", tuned=(), pairs=(), seen=None, residual=None, training={})
    path = tmp_path / "report.html"
    write_page(build_report(bare, rounds=300), path)
    dom, console = browse(path, tmp_path / "profile")
    assert console == []
    for name in ("slice-all", "recall", "gains", "kind-0"):
        assert "<svg" in chart_of(dom, name), f"{name} was not drawn"
    assert len(listed(dom)) == 40
