"""`searchtune answer run`: the options of an answering job."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchtune.cli.judge_run import Bits

if TYPE_CHECKING:
    from searchtune.data.answering import AnswerSet
    from searchtune.prompts.answer import AnswerPrompt
    from searchtune.workflows.answer_run import AnswerJob, Price
    from searchtune.workflows.open_answerer import OpenAnswerer


class AnswerStyle(StrEnum):
    """How much the prompt says."""

    brief = "brief"
    full = "full"


class AnswerFormat(StrEnum):
    """What replies look like."""

    plain = "plain"
    markdown = "markdown"
    json = "json"


class Abstaining(StrEnum):
    """How it is settled whether passages answer."""

    read = "read"
    written = "written"


class RowForm(StrEnum):
    """How the rows of a file of questions look."""

    passages = "passages"
    clapnq = "clapnq"
    pubmedqa = "pubmedqa"


Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
_Answerer = Annotated[str, typer.Argument(help="An answerer's adapter, a language model, or a remote model's name.")]
_Out = Annotated[Path, typer.Option(help="The job's folder; a job that is there goes on.")]
_Questions = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSONL with id, question and passages [{id, text}] a line.")
]
_Form = Annotated[RowForm, typer.Option(help="How its rows look.")]
_Task = Annotated[str | None, typer.Option(help="A task instead: its queries, with --run or with BM25's passages.")]
_Split = Annotated[str, typer.Option(help="The task's queries.")]
_Run = Annotated[Path | None, typer.Option("--run", metavar="FILE", help="A TREC run whose top documents are read.")]
_Depth = Annotated[int, typer.Option(min=1, help="How many passages of a task's ranking are read.")]
_MaxQuestions = Annotated[int | None, typer.Option(min=1, help="Only so many questions, the same ones every time.")]
_Style = Annotated[AnswerStyle, typer.Option(help="For a model without an adapter: how much the prompt says.")]
_Format = Annotated[
    AnswerFormat, typer.Option("--format", help="For a model without an adapter: what replies look like.")
]
_Abstain = Annotated[
    Abstaining, typer.Option(help="For a model without an adapter: read yes or no, or have it written.")
]
_Longest = Annotated[int | None, typer.Option(min=1, help="Tokens of an answer [default: as trained, or 160].")]
_Quantise = Annotated[Bits | None, typer.Option(help="For a model without an adapter.")]
_Base = Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")]
_Endpoint = Annotated[str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible address.")]
_KeyVariable = Annotated[str | None, typer.Option(metavar="NAME", help="The environment variable of its key.")]
_MaxCost = Annotated[float | None, typer.Option(min=0, help="Stop this session when so much is spent (--prices).")]
_MaxTokens = Annotated[int | None, typer.Option(min=0, help="Stop this session when so many tokens are used.")]
_Prices = Annotated[tuple[float, float], typer.Option(help="Prices of a million tokens, in and out.")]


def run(
    answerer: _Answerer,
    out: _Out,
    questions: _Questions = None,
    form: _Form = RowForm.passages,
    task: _Task = None,
    split: _Split = "test",
    run: _Run = None,
    depth: _Depth = 5,
    max_questions: _MaxQuestions = None,
    style: _Style = AnswerStyle.full,
    form_of_replies: _Format = AnswerFormat.plain,
    abstain: _Abstain = Abstaining.written,
    max_new_tokens: _Longest = None,
    quantise: _Quantise = None,
    base: _Base = None,
    endpoint: _Endpoint = None,
    key_variable: _KeyVariable = None,
    max_cost: _MaxCost = None,
    max_tokens: _MaxTokens = None,
    prices: _Prices = (0.0, 0.0),
    as_json: Json = False,
) -> None:
    """Answer questions from passages; a job that was stopped at any moment goes on where it was."""
    from searchtune.prompts.answer import AnswerPrompt

    if (questions is None) == (task is None):
        raise typer.BadParameter("name either --questions or --task")
    if questions is not None and run is not None:
        raise typer.BadParameter("--run gives the passages of a --task; a file of questions has its own")
    prompt = AnswerPrompt(style.value, form_of_replies.value, abstain.value)
    if endpoint is None:
        far = {"--key-variable": key_variable, "--max-cost": max_cost, "--max-tokens": max_tokens}
        _refuse([name for name, value in far.items() if value is not None], "give --endpoint too")
        opened = _near(answerer, prompt, base, quantise, max_new_tokens)
        price = None
    else:
        _refuse([name for name, value in {"--base": base, "--quantise": quantise}.items() if value], "leave it out")
        budget = (max_tokens, max_cost, *prices)
        opened, price = _far(endpoint, answerer, prompt, key_variable, budget, max_new_tokens)
    found = _questions(questions, form, max_questions) if task is None else None
    if found is None:
        from searchtune.workflows.answer_run import questions_of_task

        template = None if opened.card is None else opened.card.doc_template
        found = questions_of_task(
            str(task), split=split, run=run, depth=depth, max_questions=max_questions, doc_template=template
        )
    _show(_answered(opened, found, out, price), as_json)


def _answered(answerer: OpenAnswerer, questions: AnswerSet, out: Path, price: Price | None) -> AnswerJob:
    """Answer the questions; the answerer is closed whatever happens."""
    from searchtune.cli.progress import RichProgress
    from searchtune.workflows.answer_run import run_answers

    try:
        for problem in questions.warnings:
            typer.echo(f"note: {problem}", err=True)
        with RichProgress() as progress:
            return run_answers(answerer, questions, out, price=price, progress=progress)
    finally:
        answerer.close()


def _questions(file: Path | None, form: RowForm, most: int | None) -> AnswerSet:
    from searchtune.data.answering import read_answers, sampled_answers

    assert file is not None
    found = read_answers(file, form.value)
    return found if most is None else sampled_answers(found, most)


def _near(
    name: str, prompt: AnswerPrompt, base: str | None, quantise: Bits | None, max_new_tokens: int | None
) -> OpenAnswerer:
    """An adapter's card settles its prompt; the options are for a plain model."""
    from searchtune.specs.card import CARD_FILE, adapter_folder
    from searchtune.workflows.open_answerer import open_answerer

    tuned = (adapter_folder(name) / CARD_FILE).is_file()
    return open_answerer(
        name,
        base=base,
        quantise=None if quantise is None else quantise.value,
        prompt=None if tuned else prompt,
        max_new_tokens=max_new_tokens,
    )


def _far(
    url: str,
    model: str,
    prompt: AnswerPrompt,
    key_variable: str | None,
    budget: tuple[int | None, float | None, float, float],
    longest: int | None,
) -> tuple[OpenAnswerer, Price | None]:
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.remote import Budget
    from searchtune.workflows.open_answerer import open_remote_answerer

    if budget[1] is not None and not any(budget[2:]):
        raise typer.BadParameter("--max-cost takes --prices, the prices of a million tokens in and out")
    spending = Budget(*budget)
    opened = open_remote_answerer(Endpoint(url, model, key_variable), spending, prompt, max_new_tokens=longest)
    return opened, spending.price if any(budget[2:]) else None


def _refuse(given: list[str], remedy: str) -> None:
    """Refuse options that would say nothing."""
    if given:
        raise typer.BadParameter(f"{', '.join(given)} would say nothing here: {remedy}")


def _show(job: AnswerJob, as_json: bool) -> None:
    """What a job did: a few lines for people, everything for machines."""
    facts = job.facts
    if as_json:
        typer.echo(json.dumps({"folder": str(job.folder), "missing": job.missing, **facts}, indent=2))
        return
    cost = "" if facts["cost"] is None else f", {facts['cost']:.2f} spent"
    typer.echo(
        f"{len(job.questions):,} questions put to {facts['answerer']}: {facts['abstained']:,} abstained, "
        f"{facts['cut']:,} cut off, {job.missing:,} without an answer{cost}"
    )
    for reason, count in Counter(filter(None, job.reasons)).most_common(5):
        typer.echo(f"  {count:,}  {reason}", err=True)
    typer.echo(f"answers  {job.folder / 'answers.jsonl'}")
