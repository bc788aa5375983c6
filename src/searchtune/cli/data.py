"""`searchtune data`: look at test collections before they are trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from searchtune.data.problems import CheckResult, Problem
    from searchtune.types import Collection, Qrels

app = typer.Typer(no_args_is_help=True, help="Look at test collections: list, show, check, fetch, export.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TaskName = Annotated[str, typer.Argument(help="A name under tasks/, a task file, a BEIR folder, or builtin:NAME.")]

_SHOWN = 20
_EXAMPLES = 3


@app.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """Name the tasks that are known here."""
    from searchtune.data.tasks import load_task
    from searchtune.storage.assets import list_assets

    tasks = [load_task(name) for name in list_assets("tasks")]
    if as_json:
        _print_json([task.model_dump() for task in tasks])
        return
    for task in tasks:
        typer.echo(f"{task.name:22} {task.description}")


@app.command()
def show(task: TaskName, as_json: AsJson = False) -> None:
    """Count and sample a task's collection, and say what train and test share."""
    from searchtune.data.tasks import load_task, open_collection

    spec = load_task(task)
    typer.echo(f"reading {spec.source}", err=True)
    collection = open_collection(spec)
    facts = _facts(collection)
    if as_json:
        _print_json({"task": spec.model_dump(), **facts})
        return
    typer.echo(f"{collection.name}: {len(collection.doc_ids):,} documents, {len(collection.query_ids):,} queries")
    typer.echo(f"licence {spec.licence}; fingerprint {collection.fingerprint[:12]}")
    for what, words in facts["words"].items():
        typer.echo(f"words in {what}: median {words['median']}, p90 {words['p90']}, longest {words['longest']:,}")
    for split, numbers in facts["splits"].items():
        typer.echo(f"{split}: {numbers['judged']:,} judged queries, {numbers['relevant_per_query']:.1f} relevant each")
    for example in facts["examples"]:
        typer.echo(f"  query {example['query']!r}\n  document {example['document']!r}")
    for line in facts["duplicate_documents"]:
        typer.echo(line)
    _show_shared(facts["shared"])


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A BEIR folder.")],
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail too.")] = False,
    rejected: Annotated[Path | None, typer.Option(help="Write unusable rows with their reasons here (JSONL).")] = None,
    queries_file: Annotated[str, typer.Option(help="Queries, inside the folder.")] = "queries.jsonl",
    qrels_folder: Annotated[str, typer.Option(help="Labels, inside the folder.")] = "qrels",
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with a collection; exit code 1 where there are errors."""
    from searchtune.data.check import check_folder, write_rejected

    result = check_folder(folder, queries_file=queries_file, qrels_folder=qrels_folder)
    if rejected is not None:
        count = write_rejected(result, rejected)
        typer.echo(f"{count:,} rejected rows written to {rejected}", err=True)
    if as_json:
        _print_json({"ok": not _failed(result, strict), **asdict(result)})
    else:
        _print_findings(result)
    if _failed(result, strict):
        raise typer.Exit(1)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A public BEIR set, such as beir/scifact.")],
    out: Annotated[Path | None, typer.Option(help="Default: $SEARCHTUNE_DATA, or ./datasets.")] = None,
) -> None:
    """Download a public collection."""
    from searchtune.data.fetch import fetch as download
    from searchtune.data.tasks import data_home

    typer.echo(str(download(name, out or data_home())))


@app.command()
def export(
    task: TaskName,
    folder: Annotated[Path, typer.Argument(help="The BEIR folder to write.")],
) -> None:
    """Write a task's collection as a BEIR folder, its splits as training sees them."""
    from searchtune.data.beir import write_beir
    from searchtune.data.tasks import load_task, open_collection

    spec = load_task(task)
    typer.echo(f"reading {spec.source}", err=True)
    collection = open_collection(spec)
    write_beir(collection, folder)
    typer.echo(str(folder))


def _facts(collection: Collection) -> dict[str, Any]:
    """What `show` says, as plain values."""
    from searchtune.data.duplicates import find_duplicates

    return {
        "documents": len(collection.doc_ids),
        "queries": len(collection.query_ids),
        "fingerprint": collection.fingerprint,
        "words": {
            "documents": _lengths(collection.documents),
            "queries": _lengths(collection.query_texts),
        },
        "splits": {
            split: {
                "judged": len(labels),
                "labels": len(labels.docs),
                "relevant_per_query": _density(collection, labels),
            }
            for split, labels in sorted(collection.qrels.items())
        },
        "examples": _examples(collection),
        "duplicate_documents": find_duplicates(collection).describe(),
        "shared": _shared(collection),
    }


def _lengths(texts: Any) -> dict[str, int]:
    from searchtune.words import count_words

    words = sorted(map(count_words, texts))
    return {"median": words[len(words) // 2], "p90": words[len(words) * 9 // 10], "longest": words[-1]}


def _density(collection: Collection, labels: Qrels) -> float:
    return int((labels.grades >= collection.min_grade).sum()) / len(labels)


def _examples(collection: Collection) -> list[dict[str, str]]:
    """The first judged queries of one split, each with its best document."""
    labels = collection.qrels[min(collection.qrels)]
    examples = []
    for i in range(min(_EXAMPLES, len(labels))):
        docs, grades = labels.row(i)
        query, document = int(labels.queries[i]), int(docs[grades.argmax()])
        examples.append({"query": collection.query_texts[query], "document": collection.documents[document][:160]})
    return examples


def _shared(collection: Collection) -> list[dict[str, Any]]:
    """For every later split: queries that leak from train, and those whose relevant documents train has too."""
    from searchtune.data.leakage import find_leaks, shared_documents

    rows: list[dict[str, Any]] = []
    train = collection.qrels.get("train")
    for split in ("dev", "test"):
        labels = collection.qrels.get(split)
        if train is None or labels is None:
            continue
        report = find_leaks(collection, train, labels, splits=("train", split))
        rows.append(
            {
                "split": split,
                "judged": len(labels),
                "share_a_relevant_document_with_train": shared_documents(collection, train, labels).queries,
                "leaks": [{**asdict(leak), "text": report.describe(leak)} for leak in report.leaks],
                "copied_answers": [
                    {**asdict(leak), "text": report.describe_document(leak)} for leak in report.documents
                ],
            }
        )
    return rows


def _show_shared(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        seen = row["share_a_relevant_document_with_train"]
        typer.echo(
            f"train and {row['split']}: {len(row['leaks'])} leaking query pairs, {len(row['copied_answers'])} copied "
            f"answers; {seen:,} of {row['judged']:,} {row['split']} queries share a relevant document with train"
        )
        for leak in (*row["leaks"][:_SHOWN], *row["copied_answers"][:_SHOWN]):
            typer.echo(f"  {leak['text']}")


def _failed(result: CheckResult, strict: bool) -> bool:
    return bool(result.problems or (strict and result.warnings))


def _print_findings(result: CheckResult) -> None:
    for label, findings in (("error", result.problems), ("warning", result.warnings), ("note", result.notes)):
        _print_some(label, findings)
    typer.echo(", ".join(f"{what} {count:,}" for what, count in result.counts.items()))
    typer.echo(f"{len(result.problems):,} errors, {len(result.warnings):,} warnings")


def _print_some(label: str, findings: tuple[Problem, ...]) -> None:
    from searchtune.data.problems import fold

    lines = fold(findings)
    for line in lines[:_SHOWN]:
        typer.echo(f"{label}: {line}")
    if len(lines) > _SHOWN:
        typer.echo(f"{label}: ... and {len(lines) - _SHOWN:,} more (--json lists them all, --rejected FILE the rows)")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
