"""An attribution for a terminal."""

from __future__ import annotations

from searchtune.evaluation.attribution import AttributionReport, MetricAttribution, attribution_verdict
from searchtune.evaluation.wording import bare_p, figure, interval, queries, signed, spread


def render_attribution(report: AttributionReport) -> str:
    """What every stage earned by each metric, and what to make of it."""
    lines = [f"{report.pipeline} on {report.collection}, {report.split}: {queries(report.queries)}", ""]
    for metric in (report.headline, *(name for name in report.metrics if name != report.headline)):
        lines += [*_shares(report.metrics[metric]), ""]
    headline, *reasons = attribution_verdict(report)
    lines += [f"{headline}.", *(f"  {sentence}" for sentence in reasons)]
    lines.append(
        f"All selections took {report.ratio:.1f} times what the full pipeline takes alone "
        f"({report.seconds:.1f} s and {report.full_seconds:.1f} s)."
    )
    return "\n".join(lines)


def _shares(metric: MetricAttribution) -> list[str]:
    rows = [[metric.label, "share", "95% interval", "p (Holm)", "alone", "on top"]]
    rows.append(["all off", figure(metric.nothing.value.mean), interval(metric.nothing.value), "", "", ""])
    for name, it in metric.stages.items():
        rows.append(
            [
                name,
                signed(it.share.mean),
                spread(it.share),
                bare_p(it.p_holm),
                signed(it.alone.mean),
                signed(it.last.mean),
            ]
        )
    rows.append(["all on", figure(metric.everything.value.mean), interval(metric.everything.value), "", "", ""])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
