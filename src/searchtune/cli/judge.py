"""`searchtune judge`: train a judge of relevance, judge pairs, compare with people, calibrate, hand pairs to people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchtune.cli.embed import LeakPolicy, default_folder, output_policy

if TYPE_CHECKING:
    from searchtune.evaluation.judge_report import JudgeReport
    from searchtune.types import Judgment
    from searchtune.workflows.open_judge import OpenJudge

app = typer.Typer(
    no_args_is_help=True,
    help="Train a judge of relevance, judge pairs, compare with people, calibrate, hand pairs out.",
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Human = Annotated[
    Path | None, typer.Option(help="Labels of people (JSONL, CSV or Label Studio) in place of those in the job.")
]
HumanFrom = Annotated[
    int | None, typer.Option(min=1, help="From which grade on people call a pair relevant [default: the rubric's].")
]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name under configs/judge/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set quantise=nf4.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/judge-RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    fail_if_exists: Annotated[
        bool, typer.Option("--fail-if-exists", help="Refuse a folder with a run (default).")
    ] = False,
    leaks: Annotated[LeakPolicy, typer.Option(help="Train queries that are also test queries.")] = LeakPolicy.fail,
    as_json: Json = False,
) -> None:
    """Adapt a language model to grading passages with LoRA or QLoRA, and report how far it agrees with people."""
    from searchtune.workflows.recipes import load_judge_recipe

    policy = output_policy(resume, overwrite, fail_if_exists)
    settled = load_judge_recipe(recipe, overrides=overrides or [])
    folder = out or default_folder(f"judge-{Path(recipe).name}", None)

    from searchtune.cli.progress import RichProgress
    from searchtune.workflows.judge import train_judge

    with RichProgress() as progress:
        result = train_judge(settled, folder, policy=policy, leaks=leaks.value, progress=progress)
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
        return
    if result.report is not None:
        _show_report(result.report, result.folder)
    typer.echo(f"adapter  {result.adapter}")


@app.command()
def run(
    judge: Annotated[
        str, typer.Argument(help="A judge's or reranker's adapter, a language model, or a remote model's name.")
    ],
    out: Annotated[Path, typer.Option(help="The job's folder; a job that is there goes on.")],
    pairs: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSONL with query_id, query, doc_id and passage a line.")
    ] = None,
    grade_field: Annotated[str, typer.Option(help="Its field with the people's grade; empty: none.")] = "human",
    judges_field: Annotated[str | None, typer.Option(help="Its field with other judges' grades.")] = None,
    task: Annotated[str | None, typer.Option(help="A task instead: its labelled pairs, or --run.")] = None,
    split: Annotated[str, typer.Option(help="The task's labels.")] = "test",
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="FILE", help="Judge the top of a TREC run; may be repeated.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="How much of it.")] = 10,
    holes: Annotated[bool, typer.Option("--holes", help="Only pairs that nobody has judged.")] = False,
    rubric: Annotated[str | None, typer.Option(help="umbrela or binary, for a model without an adapter.")] = None,
    style: Annotated[str | None, typer.Option(help="brief, short or full: how much the prompt says.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="What `judge calibrate` wrote.")] = None,
    quantise: Annotated[str | None, typer.Option(help="none or nf4, for a model without an adapter.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible address.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable of its key.")
    ] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs/--no-logprobs", help="Read grades off its log-probabilities, or its words.")
    ] = True,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Stop when so much is spent (needs --prices).")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="Stop when so many tokens are used.")] = None,
    prices: Annotated[tuple[float, float], typer.Option(help="Prices of a million tokens, in and out.")] = (0.0, 0.0),
    shard: Annotated[str, typer.Option(metavar="I/N", help="Judge part I of N, counted from 1.")] = "1/1",
    canaries: Annotated[int, typer.Option(min=0, help="How many pairs are judged with a canary in them too.")] = 110,
    max_unreadable: Annotated[float, typer.Option(min=0, max=1, help="Fail above this share without a grade.")] = 0.05,
    used: Annotated[
        list[str] | None,
        typer.Option("--made-by", metavar="ADAPTER", help="An adapter that made or taught what is judged; repeatable."),
    ] = None,
    allow_circular: Annotated[
        bool, typer.Option("--allow-circular", help="Judge even what the judge itself made or taught.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws the canaries and the mark around passages.")] = 13,
    as_json: Json = False,
) -> None:
    """Judge pairs; a job that was stopped at any moment goes on where it was."""
    from searchtune.cli.progress import RichProgress
    from searchtune.specs.base import parse_spec
    from searchtune.specs.judge import PairSource
    from searchtune.workflows.judge_calibrate import read_calibration
    from searchtune.workflows.judge_job import JobPlan, run_job
    from searchtune.workflows.judge_pairs import open_pairs
    from searchtune.workflows.open_judge import check_judge

    opened = _opened(
        judge, rubric, style, quantise, base, endpoint=endpoint, key_variable=key_variable, logprobs=logprobs,
        budget=(max_tokens, max_cost, *prices),
    )  # fmt: skip
    source = parse_spec(
        PairSource,
        {
            "file": pairs, "grade_field": grade_field or None, "judges_field": judges_field, "task": task,
            "split": split, "runs": runs or [], "depth": depth, "holes": holes,
        },
        "judge run",
    )  # fmt: skip
    for warning in check_judge(opened, used or [], allow=allow_circular):
        typer.echo(f"note: {warning}", err=True)
    plan = JobPlan(
        canaries,
        _shard(shard),
        max_unreadable,
        None if calibration is None else read_calibration(calibration),
        seed,
    )
    try:
        with RichProgress() as progress:
            top = 9 if opened.style is None else opened.rubric.top
            job = run_job(opened, open_pairs(source, top=top), out, plan, progress=progress)
    finally:
        opened.close()
    _show_job(job, as_json)


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="Folders of finished shards.")],
    out: Annotated[Path, typer.Option(help="The folder of the whole job.")],
    max_unreadable: Annotated[float, typer.Option(min=0, max=1, help="Fail above this share without a grade.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Join the shards of a job."""
    from searchtune.workflows.judge_job import merge_jobs

    _show_job(merge_jobs(shards, out, max_unreadable=max_unreadable), as_json)


@app.command()
def agree(
    jobs: Annotated[
        list[str], typer.Argument(metavar="[NAME=]JOB...", help="Finished jobs; the first is the headline.")
    ],
    out: Annotated[Path, typer.Option(help="Where report and pages go.")],
    against: Annotated[str | None, typer.Option(help="The judge that the headline is compared with.")] = None,
    human: Human = None,
    human_from: HumanFrom = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--other", metavar="NAME:GRADE", help="A judge in the pairs' file, relevant from GRADE on."),
    ] = None,
    average: Annotated[bool, typer.Option("--average", help="Also judge by the mean of all jobs.")] = False,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="TREC runs of systems, ranked by people's and judges' labels.")
    ] = None,
    metric: Annotated[str, typer.Option(help="By which metric they are ranked.")] = "ndcg@10",
    as_json: Json = False,
) -> None:
    """Measure how far judges agree with people, and write a report and a page to review disagreements."""
    from searchtune.workflows.judge_agree import AgreementPlan
    from searchtune.workflows.judge_agree import agree as measure
    from searchtune.workflows.judge_job import open_job

    named = [text.partition("=")[::2] if "=" in text else (Path(text).name, text) for text in jobs]
    opened = {name: open_job(folder) for name, folder in named}
    if len(opened) < len(jobs):
        raise typer.BadParameter("two jobs have the same name: write NAME=FOLDER")
    plan = AgreementPlan(
        headline=next(iter(opened)),
        reference=against,
        others=dict(_other(text) for text in others or []),
        average=average,
        runs=runs or [],
        metric=metric,
        human=_people(human, next(iter(opened.values())).facts["prompt"]["rubric"]["labels"]),
        human_from=human_from,
    )
    report = measure(opened, out, plan)
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json"), indent=2))
        return
    _show_report(report, out)


@app.command()
def calibrate(
    job: Annotated[Path, typer.Argument(help="A finished job, some of whose pairs people have graded.")],
    out: Annotated[Path, typer.Option(help="The file to write; `judge run --calibration` takes it.")],
    human: Human = None,
    human_from: HumanFrom = None,
    as_json: Json = False,
) -> None:
    """Fit a judge's probabilities, and from which one on a pair is relevant, to what people say."""
    from searchtune.workflows.judge_calibrate import calibrate as fit
    from searchtune.workflows.judge_job import open_job

    opened = open_job(job)
    said = _people(human, opened.facts["prompt"]["rubric"]["labels"])
    done = fit(opened, out, human=said, human_from=human_from)
    if as_json:
        typer.echo(json.dumps({**done.calibration.to_json(), "pairs": done.pairs}, indent=2))
        return
    typer.echo(
        f"fitted on {done.pairs:,} pairs: relevant from a probability of {done.calibration.threshold:.2f} on; "
        f"calibration error {done.error_before:.3f} -> {done.error_after:.3f} on these pairs"
    )
    typer.echo(f"calibration  {out}")


@app.command()
def export(
    job: Annotated[Path, typer.Argument(help="A finished job.")],
    out: Annotated[Path, typer.Argument(help=".jsonl, .csv, or .json for Label Studio.")],
    prefill: Annotated[
        bool, typer.Option("--prefill", help="Show the judge's grades; people then agree with it more than they would.")
    ] = False,
) -> None:
    """Hand a job's pairs to people to label; `--human` of the other commands takes the file back."""
    from searchtune.data.human_labels import write_for_labelling
    from searchtune.workflows.judge_job import open_job

    opened = open_job(job)
    labels = opened.facts["prompt"]["rubric"]["labels"]
    judgments = opened.judgments() if prefill else []
    write_for_labelling(out, opened.pairs, labels, judgments=judgments, judge=opened.judge)
    typer.echo(f"{len(opened.pairs):,} pairs -> {out}")


def _opened(
    judge: str,
    rubric: str | None,
    style: Any,
    quantise: Any,
    base: str | None,
    *,
    endpoint: str | None,
    key_variable: str | None,
    logprobs: bool,
    budget: tuple[int | None, float | None, float, float],
) -> OpenJudge:
    from searchtune.prompts.rubrics import find_rubric
    from searchtune.workflows.open_judge import open_judge, open_remote_judge

    if endpoint is None:
        opened = open_judge(judge, base=base, quantise=quantise)
        return opened.under(None if rubric is None else find_rubric(rubric), style)
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.remote import Budget

    address = Endpoint(endpoint, judge, key_variable, top_logprobs=20 if logprobs else 0)
    return open_remote_judge(address, Budget(*budget), find_rubric(rubric or "umbrela"), style or "full")


def _shard(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if not (slash and part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise typer.BadParameter(f"{text!r} is no part of a job; write 1/4 for the first of four", param_hint="--shard")
    return int(part) - 1, int(count)


def _other(text: str) -> tuple[str, int]:
    name, colon, grade = text.rpartition(":")
    if not (colon and name and grade.isdigit() and int(grade) >= 1):
        raise typer.BadParameter(f"{text!r}: write NAME:GRADE, such as umbrela_gpt4o:2", param_hint="--other")
    return name, int(grade)


def _people(file: Path | None, labels: list[str]) -> list[Judgment]:
    from searchtune.data.human_labels import read_human_labels

    return [] if file is None else list(read_human_labels(file, labels).judgments)


def _show_job(job: Any, as_json: bool) -> None:
    facts = job.facts
    missing = sum(job.unreadable.values())
    if as_json:
        typer.echo(json.dumps({"folder": str(job.folder), "unreadable": job.unreadable, **facts}, indent=2))
        return
    cost = "" if facts["cost"] is None else f", {facts['cost']:.2f} spent"
    pace = f"{facts['labels_per_second']:.1f} labels a second"
    typer.echo(f"{len(job.pairs):,} pairs judged by {job.judge} ({pace}{cost}), {missing:,} without a grade")
    for reason, count in sorted(job.unreadable.items(), key=lambda item: -item[1])[:5]:
        typer.echo(f"  {count:,}  {reason}", err=True)
    typer.echo(f"judgments  {job.folder / 'judgments.jsonl'}")
    typer.echo(f"qrels      {job.folder / 'qrels.txt'}")


def _show_report(report: JudgeReport, out: Path) -> None:
    from searchtune.evaluation.judge_table import judge_table
    from searchtune.evaluation.judge_wording import judge_verdict

    for line in judge_table(report):
        typer.echo(line)
    for sentence in judge_verdict(report):
        typer.echo(sentence)
    typer.echo(f"report   {out / 'judge.html'}")
    typer.echo(f"review   {out / 'review.html'}")
