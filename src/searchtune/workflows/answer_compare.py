"""An answerer beside its base: both answer the questions that its recipe keeps for testing, or others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError
from searchtune.evaluation.answer_report import AnswerReport
from searchtune.specs.answer import AnswerRecipe, AnswerSource
from searchtune.specs.base import parse_spec
from searchtune.workflows.answer_conditions import Retriever, words
from searchtune.workflows.answer_measure import MeasurePlan, measure_answers
from searchtune.workflows.answer_sets import open_answers
from searchtune.workflows.open_answerer import OpenAnswerer, open_answerer
from searchtune.workflows.open_judge import OpenJudge
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.run_folder import RECIPE_FILE, read_record


def open_with_base(
    answerer: str, *, base: str | None = None, max_new_tokens: int | None = None
) -> dict[str, OpenAnswerer]:
    """An answerer's adapter as `tuned`, and as `base` the model without it.

    The base is asked as a plain model is, under the prompt that explains itself, since it has not learned the other.
    `base` is for an adapter whose base is not where its card says.

    Raises:
        ConfigError: no adapter with a card.
        SearchtuneError: whatever else a user can mend.
    """
    tuned = open_answerer(answerer, base=base, max_new_tokens=max_new_tokens)
    if tuned.card is None:
        raise ConfigError(f"{answerer}: a plain model; name the adapter or the run folder of an answerer")
    plain = open_answerer(base or tuned.card.base, quantise=tuned.card.quantise, max_new_tokens=tuned.max_new_tokens)
    return {"base": plain, "tuned": tuned}


def compare_answerers(
    systems: Mapping[str, OpenAnswerer],
    source: AnswerSource,
    out: Path | str,
    *,
    plan: MeasurePlan | None = None,
    retriever: Retriever = words,
    judge: OpenJudge | None = None,
    progress: Progress = SILENT,
) -> AnswerReport:
    """Measure opened answerers on the questions of a source and close them; see `measure_answers`.

    Where the source is a task, all its documents are searched.
    """
    plan = replace(plan or MeasurePlan(), collection=source.task or Path(str(source.file)).name.split(".")[0])
    try:
        pool = [] if source.task is None else open_collection(load_task(source.task)).documents
        return measure_answers(
            systems, open_answers(source), out=out, plan=plan, retriever=retriever, pool=pool, judge=judge,
            progress=progress,
        )  # fmt: skip
    finally:
        for system in systems.values():
            system.close()


def kept_questions(run: Path) -> AnswerSource:
    """The questions that the recipe of a run folder, or of the run that an adapter folder lies in, is tested on.

    Raises:
        ConfigError: there is no such recipe, or it names none.
    """
    for folder in (run, run.parent):
        if (folder / RECIPE_FILE).is_file():
            saved = read_record(folder / RECIPE_FILE)
            test = parse_spec(AnswerRecipe, saved.recipe, str(folder / RECIPE_FILE)).test
            if test is not None:
                return test
    raise ConfigError(f"{run}: no recipe beside it that names `test` questions; name some with --questions or --task")
