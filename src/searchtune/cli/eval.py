"""`searchtune eval`: run a suite, score files, compare reports, guard against a regression."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchtune.cli.rows import OnProblem, RowPolicy
from searchtune.errors import DataError
from searchtune.reading import user_path

if TYPE_CHECKING:
    from searchtune.storage.output import OutputPolicy

app = typer.Typer(
    no_args_is_help=True, help="Measure systems on test collections, compare them, guard what they reach."
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", "-m", help="A metric such as ndcg@10; may be given several times.")
]


class AnswerValue(StrEnum):
    """By what an answer is valued."""

    citation_hit = "citation_hit"
    citation_precision = "citation_precision"
    token_f1 = "token_f1"


Common = Annotated[
    bool, typer.Option("--common", help="Where the query sets differ, use the queries that all have, and say how many.")
]


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite file, or a name under eval/suites/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set split=dev.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/eval/SUITE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Measure only the tasks that have no report yet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Encode everything anew; read and write no vectors.")
    ] = False,
    on_problem: OnProblem = RowPolicy.fail,
    as_json: Json = False,
) -> None:
    """Measure every system of a suite on every task, with intervals, paired tests and a page for each task."""
    from searchtune.cli.progress import RichProgress
    from searchtune.cli.tables import report_text
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.evaluate import load_suite, run_suite

    settled = load_suite(suite, overrides or [])
    if resume and overwrite:
        raise typer.BadParameter("give one of --resume and --overwrite")
    policy: OutputPolicy = "resume" if resume else "overwrite" if overwrite else "fail"
    with RichProgress() as progress:
        cache = None if no_cache else EmbeddingCache()
        results = run_suite(
            settled, out or Path("runs/eval") / settled.name, policy=policy, cache=cache, progress=progress
        )
    if as_json:
        rows = {result.task: result.report.model_dump(mode="json")["systems"] for result in results}
        typer.echo(json.dumps(rows, indent=2))
        return
    for result in results:
        typer.echo(report_text(result.report))
        typer.echo(f"report   {result.folder / 'report.html'}\n")


@app.command()
def score(
    qrels: Annotated[Path, typer.Argument(help="TREC qrels (4 columns) or a BEIR .tsv, plain or .gz.")],
    runs: Annotated[list[Path], typer.Argument(help="TREC run files, plain or .gz; the first one is the reference.")],
    metrics: Metrics = None,
    min_grade: Annotated[int, typer.Option(help="The smallest grade that counts as relevant.")] = 1,
    as_json: Json = False,
) -> None:
    """Score run files made anywhere: trec_eval's figures with intervals, and paired tests against the first run."""
    from searchtune.cli.tables import render_scores, terminal_width
    from searchtune.workflows.score import score_files

    scores = score_files(qrels, runs, metrics or ["ndcg@10", "recall@100", "mrr@10", "map"], min_grade=min_grade)
    for line in (*scores.warnings, *(line for system in scores.systems for line in system.warnings)):
        typer.echo(f"warning: {line}", err=True)
    typer.echo(json.dumps(scores.to_json(), indent=2) if as_json else render_scores(scores, terminal_width()))


@app.command()
def compare(
    reports: Annotated[list[Path], typer.Argument(help="Two or more report.json files over the same queries.")],
    system: Annotated[
        list[str] | None, typer.Option(help="Which system stands for each report, in their order.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", "-m", help="What to compare [default: the first report's headline metric]."),
    ] = None,
    common: Common = False,
    as_json: Json = False,
) -> None:
    """Compare systems of several reports, paired by query, and say which differences can be believed."""
    from searchtune.cli.tables import render_comparison, terminal_width
    from searchtune.evaluation import read_report
    from searchtune.evaluation.compare import compare_reports

    labels = _labels(reports)
    read = [read_report(path) for path in reports]
    table = compare_reports(read, labels=labels, systems=system, metric=metric, common=common)
    if as_json:
        found = {"systems": dict(table.systems), "left_out": table.left_out, **table.figures.model_dump(mode="json")}
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(render_comparison(table, terminal_width()))


@app.command()
def gate(
    report: Annotated[Path, typer.Argument(help="The report.json to check.")],
    baseline: Annotated[Path, typer.Option(help="The accepted report.json.")],
    max_drop: Annotated[
        list[str], typer.Option(metavar="METRIC=LIMIT", help="Such as ndcg@10=0.5% (relative) or ndcg@10=0.005.")
    ],
    system: Annotated[
        list[str] | None, typer.Option(help="Check only this system; may be given several times.")
    ] = None,
    common: Common = False,
    as_json: Json = False,
) -> None:
    """Exit 1 where a figure fell below an accepted report by more than its limit."""
    from searchtune.evaluation import read_report
    from searchtune.evaluation.gate import gate as check
    from searchtune.evaluation.gate import parse_limit

    limits = dict(parse_limit(text) for text in max_drop)
    result = check(read_report(report), read_report(baseline), limits, systems=system, common=common)
    if as_json:
        rows = [
            {"system": it.system, "metric": it.metric, "before": it.before, "after": it.after, "passed": it.passed}
            for it in result.checks
        ]
        typer.echo(json.dumps({"passed": result.passed, "n": result.n, "checks": rows}, indent=2))
    else:
        typer.echo("\n".join(result.describe()))
    raise typer.Exit(result.exit_code)


@app.command()
def table(
    report: Annotated[Path, typer.Argument(help="A report.json.")],
    layout: Annotated[str, typer.Option("--format", help="text, markdown or latex.")] = "text",
    part: Annotated[str, typer.Option("--slice", help="all, unseen, seen or residual.")] = "all",
) -> None:
    """Print a report as a table for the terminal, for Markdown or for a paper."""
    from searchtune.cli.tables import report_text
    from searchtune.errors import ConfigError, did_you_mean
    from searchtune.evaluation import read_report
    from searchtune.evaluation.table import latex_table, markdown_table

    found = read_report(report)
    layouts = {
        "text": lambda: report_text(found),
        "markdown": lambda: markdown_table(found, part),
        "latex": lambda: latex_table(found, part),
    }
    if layout not in layouts:
        raise ConfigError(f"--format {layout!r} is not one of text, markdown, latex{did_you_mean(layout, layouts)}")
    typer.echo(layouts[layout]())


@app.command()
def attribute(
    config: Annotated[str, typer.Argument(help="A pipeline's file, or a name under configs/pipeline/.")],
    split: Annotated[str, typer.Option(help="The task's labels.")] = "test",
    max_queries: Annotated[int | None, typer.Option(min=1, help="So many queries, the same ones every time.")] = None,
    answers: Annotated[
        AnswerValue, typer.Option(help="By what an answer is valued; token_f1 takes --references.")
    ] = AnswerValue.citation_hit,
    references: Annotated[
        Path | None, typer.Option(help="JSON lines with query_id and answers, a list of people's answers.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set answer.passages=5."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/attribute/CONFIG].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an attribution that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier one.")] = False,
    as_json: Json = False,
) -> None:
    """Say which stage of a pipeline earned what: every selection of stages on or off, shared work done once."""
    from searchtune.cli.progress import RichProgress
    from searchtune.data.references import read_references
    from searchtune.evaluation.attribution_table import render_attribution
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.storage.output import output_folder
    from searchtune.workflows.attribute import attribute_pipeline
    from searchtune.workflows.attribute_grid import AttributionPlan
    from searchtune.workflows.open_pipeline import load_pipeline, open_pipeline

    if resume and overwrite:
        raise typer.BadParameter("give one of --resume and --overwrite")
    name = Path(config).stem
    spec = load_pipeline(config, overrides=overrides or [])
    given = None if references is None else read_references(references)
    plan = AttributionPlan(split=split, max_queries=max_queries, answer_metric=answers.value, references=given)
    policy: OutputPolicy = "resume" if resume else "overwrite" if overwrite else "fail"
    place = out or Path("runs/attribute") / name
    with RichProgress() as progress, output_folder(place, policy) as folder:
        opened = open_pipeline(spec, name=name, cache=EmbeddingCache(), progress=progress)
        report = attribute_pipeline(opened, folder, plan, progress=progress)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo(render_attribution(report))
    typer.echo(f"report   {folder / 'attribution.html'}")


def _labels(reports: list[Path]) -> list[str]:
    """Short names for report files: their folders where those differ, otherwise A, B, ..."""
    names = [user_path(path, DataError).resolve().parent.name for path in reports]
    return names if len(set(names)) == len(names) else [chr(ord("A") + i) for i in range(len(reports))]
