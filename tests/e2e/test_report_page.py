"""The report page in a real browser: charts are drawn, nothing is logged, nothing in the data runs, no network is used."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.evaluation import Report, build_report, read_report, write_report
from searchtune.evaluation.page import write_page

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
]
CHARTS = ("slice-all", "slice-unseen", "slice-seen", "slice-residual", "gains", "loss", "dev")
MEGABYTE = 2**20

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at in a browser"),
]


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and what was written to the console."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def chart_of(dom: str, name: str) -> str:
    """The element of one chart, up to the next chart's."""
    found = re.search(rf'id="{name}"(.*?)(?=class="chart|</section>)', dom, re.DOTALL)
    assert found is not None, f"no element for {name}"
    return found.group(1)


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
    assert page.stat().st_size < 3 * MEGABYTE

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
