"""`searchtune judge run`: the options of a judging job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.workflows.judge_job import Job, JobPlan
    from searchtune.workflows.open_judge import OpenJudge


class PromptStyle(StrEnum):
    """How much the prompt says."""

    brief = "brief"
    short = "short"
    full = "full"
    likelihood = "likelihood"


class Bits(StrEnum):
    """How a base is loaded."""

    none = "none"
    nf4 = "nf4"


Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Unreadable = Annotated[float, typer.Option(min=0, max=1, help="Fail above this share without a grade.")]
MadeBy = Annotated[
    list[str] | None,
    typer.Option("--made-by", metavar="ADAPTER", help="An adapter that made or taught what is judged; repeatable."),
]
AllowCircular = Annotated[
    bool, typer.Option("--allow-circular", help="Judge even what the judge itself made or taught.")
]

_Judge = Annotated[
    str, typer.Argument(help="A judge's or reranker's adapter, a language model, or a remote model's name.")
]
_Out = Annotated[Path, typer.Option(help="The job's folder; a job that is there goes on.")]
_Pairs = Annotated[
    str | None, typer.Option(metavar="FILE", help="JSONL with query_id, query, doc_id and passage a line.")
]
_GradeField = Annotated[str, typer.Option(help="Its field with the people's grade; empty: none.")]
_JudgesField = Annotated[str | None, typer.Option(help="Its field with other judges' grades.")]
_Task = Annotated[str | None, typer.Option(help="A task instead: its labelled pairs, or --run.")]
_Split = Annotated[str, typer.Option(help="The task's labels.")]
_Runs = Annotated[
    list[str] | None, typer.Option("--run", metavar="FILE", help="Judge the top of a TREC run; may be repeated.")
]
_Depth = Annotated[int, typer.Option(min=1, help="How much of it.")]
_Holes = Annotated[bool, typer.Option("--holes", help="Only pairs that nobody has judged.")]
_Negatives = Annotated[int, typer.Option(min=0, help="So many of BM25's best unlabelled documents a query as grade 0.")]
_MaxQueries = Annotated[int | None, typer.Option(min=1, help="Only so many queries, the same ones every time.")]
_MaxPairs = Annotated[int | None, typer.Option(min=1, help="Only so many pairs, the same random ones every time.")]
_Rubric = Annotated[str | None, typer.Option(help="umbrela or binary, for a model without an adapter.")]
_Style = Annotated[PromptStyle | None, typer.Option(help="How much the prompt says; likelihood asks for the query.")]
_Calibration = Annotated[Path | None, typer.Option(help="What `judge calibrate` wrote.")]
_Quantise = Annotated[Bits | None, typer.Option(help="For a model without an adapter.")]
_Base = Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")]
_Endpoint = Annotated[str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible address.")]
_KeyVariable = Annotated[str | None, typer.Option(metavar="NAME", help="The environment variable of its key.")]
_Logprobs = Annotated[
    bool, typer.Option("--logprobs/--no-logprobs", help="Read grades off its log-probabilities, or its words.")
]
_Longest = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of its reply [default: 64]; more for a model that thinks before it grades."),
]
_MaxCost = Annotated[float | None, typer.Option(min=0, help="Stop this session when so much is spent (--prices).")]
_MaxTokens = Annotated[int | None, typer.Option(min=0, help="Stop this session when so many tokens are used.")]
_Prices = Annotated[tuple[float, float], typer.Option(help="Prices of a million tokens, in and out.")]
_Shard = Annotated[str, typer.Option(metavar="I/N", help="Judge part I of N, counted from 1.")]
_Canaries = Annotated[int, typer.Option(min=0, help="How many pairs are judged with a canary in them too.")]
_Seed = Annotated[int, typer.Option(help="Draws the canaries and the mark around passages.")]


def run(
    judge: _Judge,
    out: _Out,
    pairs: _Pairs = None,
    grade_field: _GradeField = "human",
    judges_field: _JudgesField = None,
    task: _Task = None,
    split: _Split = "test",
    runs: _Runs = None,
    depth: _Depth = 10,
    holes: _Holes = False,
    negatives: _Negatives = 0,
    max_queries: _MaxQueries = None,
    max_pairs: _MaxPairs = None,
    rubric: _Rubric = None,
    style: _Style = None,
    calibration: _Calibration = None,
    quantise: _Quantise = None,
    base: _Base = None,
    endpoint: _Endpoint = None,
    key_variable: _KeyVariable = None,
    logprobs: _Logprobs = True,
    max_new_tokens: _Longest = None,
    max_cost: _MaxCost = None,
    max_tokens: _MaxTokens = None,
    prices: _Prices = (0.0, 0.0),
    shard: _Shard = "1/1",
    canaries: _Canaries = 110,
    max_unreadable: Unreadable = 0.05,
    made_by: MadeBy = None,
    allow_circular: AllowCircular = False,
    seed: _Seed = 13,
    as_json: Json = False,
) -> None:
    """Judge pairs; a job that was stopped at any moment goes on where it was."""
    from searchtune.workflows.judge_calibrate import read_calibration
    from searchtune.workflows.judge_job import JobPlan

    part = _part(shard)
    source = {
        "file": pairs, "grade_field": grade_field or None, "judges_field": judges_field, "task": task, "split": split,
        "runs": runs or [], "depth": depth, "holes": holes, "negatives": negatives, "max_queries": max_queries,
        "max_pairs": max_pairs,
    }  # fmt: skip
    far = {"--key-variable": key_variable, "--no-logprobs": not logprobs, "--max-cost": max_cost,
           "--max-new-tokens": max_new_tokens, "--max-tokens": max_tokens, "--prices": any(prices)}  # fmt: skip
    _check_place(endpoint, far, {"--base": base, "--quantise": quantise})
    if endpoint is None:
        opened = _near(judge, rubric, style, base=base, quantise=quantise)
    else:
        budget = (max_tokens, max_cost, *prices)
        asked = (rubric, style, max_new_tokens)
        opened = _far(endpoint, judge, asked, key_variable=key_variable, logprobs=logprobs, budget=budget)
    fitted = None if calibration is None else read_calibration(calibration)
    plan = JobPlan(canaries, part, max_unreadable, fitted, seed)
    show_job(_judged(opened, source, out, plan, made_by=made_by or [], allow_circular=allow_circular), as_json)


def show_job(job: Job, as_json: bool) -> None:
    """What a job did: a few lines for people, everything for machines."""
    facts = job.facts
    missing = sum(job.unreadable.values())
    if as_json:
        typer.echo(json.dumps({"folder": str(job.folder), "unreadable": job.unreadable, **facts}, indent=2))
        return
    cost = "" if facts["cost"] is None else f", {facts['cost']:.2f} spent"
    pace = f"{facts['labels_per_second']:.1f} labels a second"
    typer.echo(f"{len(job.pairs):,} pairs judged by {job.judge} ({pace}{cost}), {missing:,} without a grade")
    sources = facts.get("read_from", {})
    if sources.get("text"):
        told = ", ".join(f"{count:,} from {source}" for source, count in sources.items())
        typer.echo(f"  grades read: {told}", err=True)
    for reason, count in sorted(job.unreadable.items(), key=lambda item: -item[1])[:5]:
        typer.echo(f"  {count:,}  {reason}", err=True)
    typer.echo(f"judgments  {job.folder / 'judgments.jsonl'}")
    typer.echo(f"qrels      {job.folder / 'qrels.txt'}")


def _judged(
    judge: OpenJudge,
    source: Mapping[str, object],
    out: Path,
    plan: JobPlan,
    *,
    made_by: list[str],
    allow_circular: bool,
) -> Job:
    """Open the pairs and judge them; the judge is closed whatever happens."""
    from searchtune.cli.progress import RichProgress
    from searchtune.data.judging import TOP_GRADE
    from searchtune.specs.base import parse_spec
    from searchtune.specs.circularity import refuse_circular
    from searchtune.specs.judge import PairSource
    from searchtune.workflows.judge_job import run_job
    from searchtune.workflows.judge_pairs import open_pairs
    from searchtune.workflows.open_judge import makers

    try:
        settled = parse_spec(PairSource, dict(source), "judge run")
        for warning in refuse_circular(judge.facts, makers(made_by), allow=allow_circular):
            typer.echo(f"note: {warning}", err=True)
        top = TOP_GRADE if judge.style is None else judge.rubric.top
        pairs = open_pairs(settled, top=top, doc_template=judge.doc_template)
        for problem in pairs.warnings:
            typer.echo(f"note: {problem}", err=True)
        with RichProgress() as progress:
            job = run_job(judge, pairs, out, plan, progress=progress)
            limit = int(judge.identity.get("max_tokens", 0))
            if said := judge.cuts.words(
                "prompts", limit, "train a judge with a larger max_tokens, or split long passages"
            ):
                progress.warn(f"{judge.name}: {said}")
            return job
    finally:
        judge.close()


def _near(
    judge: str, rubric: str | None, style: PromptStyle | None, *, base: str | None, quantise: Bits | None
) -> OpenJudge:
    from searchtune.prompts.rubrics import find_rubric
    from searchtune.workflows.open_judge import open_judge

    wanted = None if rubric is None else find_rubric(rubric)
    opened = open_judge(judge, base=base, quantise=None if quantise is None else quantise.value)
    return opened.under(wanted, None if style is None else style.value)


def _far(
    url: str,
    model: str,
    asked: tuple[str | None, PromptStyle | None, int | None],
    *,
    key_variable: str | None,
    logprobs: bool,
    budget: tuple[int | None, float | None, float, float],
) -> OpenJudge:
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.remote import Budget
    from searchtune.prompts.rubrics import find_rubric
    from searchtune.workflows.open_judge import open_remote_judge

    if budget[1] is not None and not any(budget[2:]):
        raise typer.BadParameter("--max-cost takes --prices, the prices of a million tokens in and out")
    rubric, style, longest = asked
    address = Endpoint(url, model, key_variable, top_logprobs=20 if logprobs else 0)
    return open_remote_judge(
        address,
        Budget(*budget),
        find_rubric(rubric or "umbrela"),
        "full" if style is None else style.value,
        max_new_tokens=longest,
    )


def _check_place(endpoint: str | None, far: Mapping[str, object], near: Mapping[str, object]) -> None:
    """Refuse options that would say nothing."""
    given = [name for name, value in (far if endpoint is None else near).items() if value not in (None, False)]
    if given and endpoint is None:
        raise typer.BadParameter(f"{', '.join(given)}: for a model behind an address; give --endpoint too")
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: for a model in this process; leave out, or leave out --endpoint")


def _part(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if not (slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise typer.BadParameter(f"{text!r} is no part of a job; write 1/4 for the first of four", param_hint="--shard")
    return int(part) - 1, int(count)
