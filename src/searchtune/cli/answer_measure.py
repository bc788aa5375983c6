"""`searchtune answer measure`: the options of measuring answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from searchtune.cli.answer_run import Json, RowForm
from searchtune.reading import user_path

if TYPE_CHECKING:
    from searchtune.evaluation.answer_report import Condition
    from searchtune.specs.answer import AnswerSource

_Answerer = Annotated[str, typer.Argument(help="An answerer's run folder or adapter.")]
_Out = Annotated[
    Path, typer.Option(help="The folder of answers, report and page; a measurement that is there goes on.")
]
_Questions = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSONL of questions [default: the recipe's test questions].")
]
_Form = Annotated[RowForm, typer.Option(help="How its rows look.")]
_Task = Annotated[str | None, typer.Option(help="A task instead: its queries, answered by its relevant documents.")]
_Split = Annotated[str, typer.Option(help="Of the task.")]
_MaxQuestions = Annotated[int | None, typer.Option(min=1, help="Only so many questions, the same ones every time.")]
_Conditions = Annotated[
    list[str] | None,
    typer.Option("--condition", help="gold, retrieved, removed or none [default: gold, retrieved and none]."),
]
_Depth = Annotated[int, typer.Option(min=1, help="Passages that are retrieved.")]
_Canaries = Annotated[int, typer.Option(min=0, help="Questions asked once more with an order planted in a passage.")]
_Dense = Annotated[
    str | None, typer.Option("--dense", help="Retrieve with this bi-encoder or embedding adapter, not with BM25.")
]
_Judge = Annotated[str | None, typer.Option(help="A judge that says which sentences their passages support.")]
_Longest = Annotated[int | None, typer.Option(min=1, help="Tokens of an answer [default: as trained].")]
_Base = Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")]


def measure(
    answerer: _Answerer,
    out: _Out,
    questions: _Questions = None,
    form: _Form = RowForm.passages,
    task: _Task = None,
    split: _Split = "test",
    max_questions: _MaxQuestions = None,
    conditions: _Conditions = None,
    depth: _Depth = 3,
    canaries: _Canaries = 60,
    dense_model: _Dense = None,
    judge: _Judge = None,
    max_new_tokens: _Longest = None,
    base: _Base = None,
    as_json: Json = False,
) -> None:
    """Measure an answerer beside its base: from gold passages, from retrieved ones and from none."""
    from searchtune.cli.progress import RichProgress
    from searchtune.evaluation.answer_table import answer_table
    from searchtune.workflows.answer_compare import compare_answerers, kept_questions, open_with_base
    from searchtune.workflows.answer_conditions import dense, words
    from searchtune.workflows.answer_measure import CONDITIONS, PAGE_FILE, MeasurePlan
    from searchtune.workflows.open_judge import open_judge

    systems = open_with_base(answerer, base=base, max_new_tokens=max_new_tokens)
    source = _source(questions, form, task, split) or kept_questions(user_path(answerer))
    if max_questions is not None:
        source = source.model_copy(update={"max_examples": max_questions})
    plan = MeasurePlan(
        conditions=cast("tuple[Condition, ...]", tuple(conditions or CONDITIONS)),
        depth=depth,
        canaries=canaries,
        window=8,
    )
    with RichProgress() as progress:
        report = compare_answerers(
            systems,
            source,
            out,
            plan=plan,
            retriever=words if dense_model is None else dense(dense_model),
            judge=None if judge is None else open_judge(judge),
            progress=progress,
        )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo("\n".join(answer_table(report)))
    typer.echo(f"report   {out / PAGE_FILE}")


def _source(questions: Path | None, form: RowForm, task: str | None, split: str) -> AnswerSource | None:
    """The questions that the options name; None where they name none."""
    from searchtune.specs.answer import AnswerSource

    if questions is not None and task is not None:
        raise typer.BadParameter("name either --questions or --task")
    if task is not None:
        return AnswerSource(task=task, split=split)
    return None if questions is None else AnswerSource(file=str(questions), form=form.value)
