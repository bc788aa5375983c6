"""From runs to a report that says whether tuning helped: figures, verdict, terminal table and page."""

from searchtune.evaluation.build import Evidence, build_report
from searchtune.evaluation.report import Comparison, Report, Slice, read_report, write_report
from searchtune.evaluation.table import render_report, show_report
from searchtune.evaluation.verdict import Outcome, outcome, verdict

__all__ = [
    "Comparison",
    "Evidence",
    "Outcome",
    "Report",
    "Slice",
    "build_report",
    "outcome",
    "read_report",
    "render_report",
    "show_report",
    "verdict",
    "write_report",
]
