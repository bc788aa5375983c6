"""From runs to a report that says whether tuning helped: figures, verdict, tables, page, gate and comparison."""

from searchtune.evaluation.build import Evidence, build_report
from searchtune.evaluation.compare import ComparisonTable, compare_reports
from searchtune.evaluation.gate import GateResult, Limit, gate, parse_limit
from searchtune.evaluation.report import Comparison, Report, Slice, read_report, write_report
from searchtune.evaluation.table import latex_table, markdown_table, render_report, show_report
from searchtune.evaluation.trade_offs import CostedRun
from searchtune.evaluation.verdict import Outcome, outcome, verdict

__all__ = [
    "Comparison",
    "ComparisonTable",
    "CostedRun",
    "Evidence",
    "GateResult",
    "Limit",
    "Outcome",
    "Report",
    "Slice",
    "build_report",
    "compare_reports",
    "gate",
    "latex_table",
    "markdown_table",
    "outcome",
    "parse_limit",
    "read_report",
    "render_report",
    "show_report",
    "verdict",
    "write_report",
]
