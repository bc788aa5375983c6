"""Questions with passages, the passages that answer them, and people's answers: read, split, and kept apart.

`AnswerSet` is what training and measuring share. A question is answerable where one of its passages is gold; without a
gold passage the right reply is to abstain, whatever people would answer from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from searchtune.data.near import near_groups
from searchtune.data.packed import created
from searchtune.data.problems import OnProblem, Problem
from searchtune.data.rows import BadRow, RowReader
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.storage.fingerprint import Fingerprint
from searchtune.types import NO_DOC, Collection, Qrels, Run

AnswerForm = Literal["passages", "clapnq", "pubmedqa"]
"""`passages` is searchtune's own form; the others are those of ClapNQ (Rosenthal et al. 2024, arXiv:2404.02103) and of
PubMedQA (Jin et al. 2019, arXiv:1909.06146)."""
_ROUNDING = 1e-6
"""By how much shares may miss 1."""


@dataclass(frozen=True)
class AnswerExample:
    """One question with what it is answered from. `passages` and `passage_ids` are parallel."""

    id: str
    question: str
    passages: tuple[str, ...]
    gold: tuple[int, ...]
    """The places of the passages that answer it, from 0; empty where none does."""
    references: tuple[str, ...]
    """Answers of people; empty where they found none."""
    passage_ids: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    """The sentences of the passages that people took an answer from, where they were asked."""
    decision: str | None = None
    """PubMedQA's answer in one word: yes, no or maybe."""
    part: str | None = None
    """The part of its file that a row says it belongs to, such as PubMedQA's `split`."""

    @property
    def answerable(self) -> bool:
        """Whether its passages answer it."""
        return bool(self.gold)


@dataclass(frozen=True)
class AnswerSet:
    """Questions in the byte order of their ids, whatever order they came in."""

    examples: tuple[AnswerExample, ...]
    fingerprint: str
    """SHA-256 over ids, questions, passages, gold and references."""
    warnings: tuple[Problem, ...] = ()
    """What a reader put up with."""

    @classmethod
    def of(cls, examples: Sequence[AnswerExample], warnings: tuple[Problem, ...] = ()) -> AnswerSet:
        """A set of these questions.

        Raises:
            DataError: two with one id.
        """
        ordered = tuple(sorted(examples, key=lambda one: one.id.encode()))
        for before, after in pairwise(ordered):
            if before.id == after.id:
                raise DataError(f"question {after.id!r} comes twice; give one of them another id")
        return cls(ordered, _fingerprint(ordered), warnings)

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, keep: Callable[[AnswerExample], bool]) -> AnswerSet:
        """Only the questions that `keep` says yes to."""
        return AnswerSet.of([one for one in self.examples if keep(one)], self.warnings)


def read_answers(path: Path, form: AnswerForm = "passages", *, on_problem: OnProblem = "fail") -> AnswerSet:
    """Read questions from JSON lines, plain or gzip-compressed.

    `passages` rows are `{id, question, passages: [{id, title?, text}], gold: [ids], answers: [text]}`, the last two
    being empty or absent where the passages do not answer. In ClapNQ's form `sources` are the passages, all of them
    gold where `answerable`; in PubMedQA's, the sections of an abstract make one gold passage, and `long_answer` is
    the reference.

    Raises:
        ConfigError: no such form.
        DataError: rows that cannot be used, or an id twice; the message names file, line, value and remedy. `skip`
            leaves such rows out, unless none remain.
    """
    if form not in _READERS:
        raise ConfigError(f"no form of answers {form!r}{did_you_mean(form, get_args(AnswerForm))}")
    reader, found = RowReader(path), dict[str, tuple[AnswerExample, int]]()
    for row in reader.objects():
        try:
            example = _READERS[form](reader, row)
            if example.id in found:
                line = found[example.id][1]
                reader.reject("repeated-id", example.id, f"id {example.id!r} stands on line {line} too", "rename one")
        except BadRow:
            continue
        found[example.id] = (example, reader.number)
    result = reader.finish(on_problem)
    if not found:
        reader.number = 0
        reader.error("empty-file", "", "no usable question in it", "check that whatever wrote it came to its end")
        reader.finish("fail")
    return AnswerSet.of([example for example, _ in found.values()], (*result.problems, *result.warnings))


def answers_of_labels(collection: Collection, labels: Qrels, *, passages: int = 1) -> AnswerSet:
    """Questions of a test collection: each query, its best labelled documents, and an answer that names them.

    The answer is made of titles, or of ids where a document has none: with `builtin:pystdlib` it names the function
    that was looked for. At most `passages` documents of each query are taken, the highest grades first.

    Raises:
        DataError: no query has a relevant document.
    """
    relevant, examples = labels.relevant(collection.min_grade), []
    for row, query in enumerate(relevant.queries.tolist()):
        docs, grades = relevant.row(row)
        best = [int(doc) for _, doc in sorted(zip(-grades, docs, strict=True))[:passages]]
        names = [collection.titles[doc].strip() or collection.doc_ids[doc] for doc in best]
        examples.append(
            AnswerExample(
                id=collection.query_ids[query],
                question=collection.query_texts[query],
                passages=tuple(collection.documents[doc] for doc in best),
                gold=tuple(range(len(best))),
                references=(" ".join(f"Use `{name}`." for name in names),),
                passage_ids=tuple(collection.doc_ids[doc] for doc in best),
            )
        )
    if not examples:
        raise DataError(f"{collection.name}: no query of this split has a relevant document, so nothing is answered")
    return AnswerSet.of(examples)


def answers_of_run(collection: Collection, run: Run, depth: int, labels: Qrels | None = None) -> AnswerSet:
    """The same questions with the first `depth` documents that a run has for them in place of the labelled ones.

    Gold are those of them that `labels` call relevant; references are as in `answers_of_labels`. Queries without labels
    have neither. A query with labels that the run lacks has no passage.

    Raises:
        ConfigError: a depth below 1.
        DataError: the run has no query.
    """
    if depth < 1:
        raise ConfigError(f"depth {depth}: answer from at least the first document of each query")
    run = run if labels is None else run.over(np.union1d(run.queries, labels.queries))
    known = {} if labels is None else {one.id: one for one in answers_of_labels(collection, labels).examples}
    relevant = None if labels is None else labels.relevant(collection.min_grade)
    wanted = {} if relevant is None else {int(q): set(relevant.row(i)[0]) for i, q in enumerate(relevant.queries)}
    examples = []
    for row, query in enumerate(run.queries.tolist()):
        docs = [int(doc) for doc in run.docs[row, :depth] if doc != NO_DOC]
        name = collection.query_ids[query]
        examples.append(
            AnswerExample(
                id=name,
                question=collection.query_texts[query],
                passages=tuple(collection.documents[doc] for doc in docs),
                gold=tuple(place for place, doc in enumerate(docs) if doc in wanted.get(query, ())),
                references=known[name].references if name in known else (),
                passage_ids=tuple(collection.doc_ids[doc] for doc in docs),
            )
        )
    if not examples:
        raise DataError(f"{collection.name}: the run has no query, so there is nothing to answer")
    return AnswerSet.of(examples)


def write_questions(path: Path, answers: AnswerSet) -> None:
    """Write questions in the form `passages`, whole or not at all; `.gz` is packed."""
    with created(path) as file:
        for one in answers.examples:
            names = one.passage_ids or tuple(str(place + 1) for place in range(len(one.passages)))
            row = {
                "id": one.id,
                "question": one.question,
                "passages": [{"id": name, "text": text} for name, text in zip(names, one.passages, strict=True)],
                "gold": [names[place] for place in one.gold],
                "answers": list(one.references),
            }
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))


def split_by_md5(answers: AnswerSet, parts: Mapping[str, float]) -> dict[str, AnswerSet]:
    """Parts by the md5 of the ids: sorted by it and cut where the shares say, so that `.5` and `.5` are two halves.

    Raises:
        ConfigError: shares that are not above 0 or do not sum to 1.
        DataError: a part would get no question.
    """
    if not (parts and min(parts.values()) > 0 and abs(sum(parts.values()) - 1) <= _ROUNDING):
        raise ConfigError(f"shares {dict(parts)}: each must be above 0, and together they make 1")
    found, start, total = {}, 0.0, 0.0
    for name, share in parts.items():
        total += share
        found[name] = md5_range(answers, start, min(1.0, total))
        start = total
    return found


def md5_range(answers: AnswerSet, start: float, stop: float) -> AnswerSet:
    """The questions from share `start` to share `stop` in the order of the md5 of their ids.

    Raises:
        DataError: there is none.
    """
    ordered = sorted(answers.examples, key=lambda one: (_md5(one.id), one.id))
    kept = ordered[round(start * len(ordered)) : round(stop * len(ordered))]
    if not kept:
        raise DataError(f"none of {len(ordered)} questions lies from {start:g} to {stop:g} by md5: take a wider part")
    return AnswerSet.of(kept, answers.warnings)


def sampled_answers(answers: AnswerSet, count: int) -> AnswerSet:
    """At most so many of the questions, chosen by the md5 of their ids."""
    ordered = sorted(answers.examples, key=lambda one: (_md5(one.id), one.id))
    return AnswerSet.of(ordered[:count], answers.warnings)


def shared_questions(train: AnswerSet, test: AnswerSet) -> set[str]:
    """Ids of the training questions that are also, or nearly, test questions."""
    texts = [one.question for one in (*train.examples, *test.examples)]
    groups = near_groups([texts])
    theirs = set(groups[len(train) :])
    return {one.id for one, group in zip(train.examples, groups, strict=False) if group in theirs}


def without_passages(example: AnswerExample) -> AnswerExample:
    """The same question with nothing to answer it from."""
    return replace(example, passages=(), passage_ids=(), gold=())


def titled(title: str, text: str) -> str:
    """A passage as models read it: the title on a line of its own, where there is one."""
    return f"{title.strip()}\n{text.strip()}".strip()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8"), usedforsecurity=False).hexdigest()


def _fingerprint(examples: Sequence[AnswerExample]) -> str:
    total = Fingerprint()
    for one in examples:
        total.add(one.id, one.question, *one.gold).add_texts(one.passages).add_texts(one.references)
    return total.hexdigest()


def _passages_row(reader: RowReader, row: dict[str, Any]) -> AnswerExample:
    passages = [(reader.identifier(one, "id"), _passage(reader, one)) for one in _objects(reader, row, "passages")]
    ids = [name for name, _ in passages]
    if len(set(ids)) < len(ids):
        reader.reject("repeated-id", ids, f"passages {ids} repeat an id", "give each passage an id of its own")
    gold = _texts(reader, row, "gold") if "gold" in row else []
    for name in gold:
        if name not in ids:
            reader.reject(
                "unknown-id", name, f"gold {name!r} is none of its passages {ids}", "name ids of its passages"
            )
    answers = _texts(reader, row, "answers") if "answers" in row else []
    return _example(reader, row, passages, gold=[ids.index(name) for name in dict.fromkeys(gold)], answers=answers)


def _clapnq_row(reader: RowReader, row: dict[str, Any]) -> AnswerExample:
    passages = [(reader.identifier(one, "id"), _passage(reader, one)) for one in _objects(reader, row, "sources")]
    answerable = reader.value(row, "answerable")
    if not isinstance(answerable, bool):
        reader.reject("wrong-type", answerable, f"'answerable' is {answerable!r}", "write true or false")
    given = _objects(reader, row, "answers") if answerable else []
    texts = [reader.text(one, "text") for one in given]
    if answerable and not any(map(str.strip, texts)):
        reader.reject(
            "no-answer", row.get("id"), "answerable, and no answer has text", "write one, or answerable: false"
        )
    selected = [text for one in given for text in _texts(reader, one, "selected_sentences")]
    gold = list(range(len(passages))) if answerable else []
    example = _example(reader, row, passages, gold=gold, answers=texts)
    return replace(example, selected=tuple(dict.fromkeys(selected)))


def _pubmedqa_row(reader: RowReader, row: dict[str, Any]) -> AnswerExample:
    text = " ".join(one.strip() for one in _texts(reader, row, "contexts"))
    passages = [(reader.identifier(row, "id"), text)]
    answer = reader.text(row, "long_answer")
    if not text or not answer.strip():
        reader.reject("no-answer", row.get("id"), "no context, or no long_answer", "leave the row out")
    decision = reader.text(row, "answer") if "answer" in row else None
    part = reader.text(row, "split") if "split" in row else None
    return replace(_example(reader, row, passages, gold=[0], answers=[answer]), decision=decision, part=part)


_READERS: dict[AnswerForm, Callable[[RowReader, dict[str, Any]], AnswerExample]] = {
    "passages": _passages_row,
    "clapnq": _clapnq_row,
    "pubmedqa": _pubmedqa_row,
}


def _example(
    reader: RowReader, row: dict[str, Any], passages: Sequence[tuple[str, str]], *, gold: list[int], answers: list[str]
) -> AnswerExample:
    name, question = reader.identifier(row, "id"), reader.text(row, "question").strip()
    if not question:
        reader.reject("empty-question", name, f"question {name!r} has no text", "write its text or remove the row")
    for place, text in passages:
        if not text:
            reader.warn("empty-passage", place, "empty passages", "fill them, or leave them out")
    return AnswerExample(
        id=name,
        question=question,
        passages=tuple(text for _, text in passages),
        gold=tuple(gold),
        references=tuple(text.strip() for text in answers if text.strip()),
        passage_ids=tuple(place for place, _ in passages),
        part=row["split"] if isinstance(row.get("split"), str) else None,
    )


def _passage(reader: RowReader, row: dict[str, Any]) -> str:
    return titled(reader.text(row, "title") if row.get("title") is not None else "", reader.text(row, "text"))


def _objects(reader: RowReader, row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return _list(reader, row, key, dict, 'write [{"id": ..., "text": ...}]')


def _texts(reader: RowReader, row: dict[str, Any], key: str) -> list[str]:
    found: list[str] = _list(reader, row, key, str, "write a list of strings")
    return found


def _list(reader: RowReader, row: dict[str, Any], key: str, kind: type, remedy: str) -> list[Any]:
    value = reader.value(row, key)
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        what = "objects" if kind is dict else "strings"
        reader.reject("wrong-type", value, f"{key!r} is {str(value)[:60]!r}, which is no list of {what}", remedy)
    return value
