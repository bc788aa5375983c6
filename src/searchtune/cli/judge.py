"""`searchtune judge`: train a judge of relevance, judge pairs, compare with people, calibrate, hand pairs to people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchtune.cli.embed import LeakPolicy, default_folder, output_policy
from searchtune.cli.judge_run import AllowCircular, Json, MadeBy, Unreadable, run, show_job
from searchtune.cli.rows import OnProblem, RowPolicy

if TYPE_CHECKING:
    from searchtune.evaluation.judge_report import JudgeReport
    from searchtune.types import Judgment
    from searchtune.workflows.judge_job import Job

app = typer.Typer(
    no_args_is_help=True,
    help="Train a judge of relevance, judge pairs, compare with people, calibrate, hand pairs out.",
)

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
    on_problem: OnProblem = RowPolicy.fail,
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


app.command()(run)


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="Folders of finished shards.")],
    out: Annotated[Path, typer.Option(help="The folder of the whole job.")],
    max_unreadable: Unreadable = 0.05,
    as_json: Json = False,
) -> None:
    """Join the shards of a job."""
    from searchtune.workflows.judge_job import merge_jobs

    show_job(merge_jobs(shards, out, max_unreadable=max_unreadable), as_json)


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
    made_by: MadeBy = None,
    allow_circular: AllowCircular = False,
    as_json: Json = False,
) -> None:
    """Measure how far judges agree with people, and write a report and a page to review disagreements."""
    from searchtune.reading import user_path
    from searchtune.workflows.judge_agree import AgreementPlan, check_circular
    from searchtune.workflows.judge_agree import agree as measure
    from searchtune.workflows.judge_job import open_job
    from searchtune.workflows.open_judge import makers

    named = [text.partition("=")[::2] if "=" in text else (user_path(text).resolve().name, text) for text in jobs]
    if len(dict(named)) < len(jobs) or not all(map(all, named)):
        raise typer.BadParameter(f"{' '.join(jobs)}: each job needs a name of its own: write NAME=FOLDER")
    opened = {name: open_job(folder) for name, folder in named}
    used = makers(made_by or [])
    for job in opened.values():
        for warning in check_circular(job, used, allow=allow_circular):
            typer.echo(f"note: {warning}", err=True)
    plan = AgreementPlan(
        headline=named[0][0],
        reference=against,
        others=dict(_other(text) for text in others or []),
        average=average,
        runs=runs or [],
        metric=metric,
        human=_people(human, *opened.values()),
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
    centre: Annotated[
        bool, typer.Option("--centre", help="Bring queries to one level: labels then depend on all pairs of a query.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit a judge's probabilities, and from which one on a pair is relevant, to what people say."""
    from searchtune.workflows.judge_calibrate import calibrate as fit
    from searchtune.workflows.judge_job import open_job

    opened = open_job(job)
    done = fit(opened, out, human=_people(human, opened), human_from=human_from, centre=centre)
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
    from searchtune.data.human_labels import label_studio_config, write_for_labelling
    from searchtune.errors import OutputExistsError
    from searchtune.storage.atomic import write_text
    from searchtune.workflows.judge_job import open_job

    opened = open_job(job)
    if out.exists():
        raise OutputExistsError(f"{out} is there and may hold labels: choose another name, or remove it")
    rubric = opened.facts["prompt"]["rubric"]
    judgments = opened.judgments() if prefill else []
    write_for_labelling(out, opened.pairs, rubric["labels"], judgments=judgments, judge=opened.judge)
    typer.echo(f"{len(opened.pairs):,} pairs -> {out}")
    if out.suffix == ".json":
        interface = out.with_suffix(".xml")
        write_text(interface, label_studio_config(rubric["labels"], rubric["meanings"]))
        typer.echo(f"labelling interface of Label Studio -> {interface}")


def _other(text: str) -> tuple[str, int]:
    name, colon, grade = text.rpartition(":")
    if not (colon and name and grade.isdigit() and int(grade) >= 1):
        raise typer.BadParameter(f"{text!r}: write NAME:GRADE, such as umbrela_gpt4o:2", param_hint="--other")
    return name, int(grade)


def _people(file: Path | None, *jobs: Job) -> list[Judgment]:
    """What people said, by the labels of the job with the most grades; known are only the pairs of the first."""
    from searchtune.data.human_labels import read_human_labels

    if file is None:
        return []
    labels = max((job.facts["prompt"]["rubric"]["labels"] for job in jobs), key=len)
    found = read_human_labels(file, labels, pairs=jobs[0].pairs)
    if not found.judgments and not found.unlabelled:
        from searchtune.errors import DataError

        raise DataError(f"{file}: no label in it; name the file that people filled in, or leave out --human")
    if found.unlabelled:
        typer.echo(f"note: {found.unlabelled:,} pairs in {file} have no label yet", err=True)
    return list(found.judgments)


def _show_report(report: JudgeReport, out: Path) -> None:
    from searchtune.evaluation.judge_table import judge_table
    from searchtune.evaluation.judge_wording import judge_verdict

    for line in judge_table(report):
        typer.echo(line)
    for sentence in [*judge_verdict(report), *(f"warning: {note}" for note in report.notes)]:
        typer.echo(sentence)
    typer.echo(f"report   {out / 'judge.html'}")
    typer.echo(f"review   {out / 'review.html'}")
