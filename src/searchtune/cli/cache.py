"""`searchtune cache`: look at what is kept to save work, and remove what is not needed any more."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.retrieval.cache import KeyInfo
    from searchtune.storage.places import Kept

app = typer.Typer(no_args_is_help=True, help="Look at what is kept to save work, remove what is old.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@app.command()
def info(as_json: AsJson = False) -> None:
    """Say for which encoders vectors are kept, what else is, and how much disk it takes.

    The rest is BM25 indexes, scores and other derived values, and models that were converted; `prune --all` removes it.
    """
    from searchtune.retrieval.cache import EmbeddingCache

    cache = EmbeddingCache()
    found = cache.info()
    total = sum(one.bytes for one in found)
    if as_json:
        keys = [_plain(one) for one in found]
        others = [{"folder": str(one.folder), "files": one.files, "bytes": one.bytes} for one in _others()]
        facts = {"folder": str(cache.folder), "bytes": total, "keys": keys, "others": others}
        typer.echo(json.dumps(facts, indent=2))
        return
    for one in found:
        typer.echo(_line(one))
    typer.echo(f"{len(found)} encoders, {_size(total)} in {cache.folder}")
    for other in _others():
        typer.echo(f"{other.files:,} files, {_size(other.bytes)} in {other.folder}")


@app.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove what was not used for so many days.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Remove the longest unused until this is enough, such as 5GB.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the vectors of whole encoders, those unused for longest first; with --all everything that is kept."""
    import shutil

    from searchtune.retrieval.cache import EmbeddingCache

    if everything == (older_than is not None or max_size is not None):
        raise typer.BadParameter("say what to remove: --older-than DAYS, --max-size SIZE, or --all alone")
    cache = EmbeddingCache()
    most = 0 if everything else None if max_size is None else parse_size(max_size)
    gone = cache.candidates(older_than_days=older_than, max_bytes=most)
    others = _others() if everything else []
    if not gone and not others:
        typer.echo("nothing to remove")
        return
    for one in gone:
        typer.echo(_line(one), err=True)
    for other in others:
        typer.echo(f"{other.files:,} files, {_size(other.bytes)} in {other.folder}", err=True)
    if not yes:
        rest = f" and {len(others)} other folders" if others else ""
        typer.confirm(f"remove the vectors of these {len(gone)} encoders{rest}?", abort=True, err=True)
    removed = cache.prune(keys=[one.name for one in gone])
    for other in others:
        shutil.rmtree(other.folder, ignore_errors=True)
    freed = sum(one.bytes for one in removed) + sum(other.bytes for other in others)
    typer.echo(f"{len(removed)} encoders removed, {_size(freed)} freed")


def _others() -> list[Kept]:
    """What is kept beside the vectors."""
    from searchtune.retrieval.cache import default_folder
    from searchtune.storage.places import kept

    return [one for one in kept() if one.folder != default_folder()]


def parse_size(text: str) -> int:
    """Bytes in `5GB` (10^9), `5GiB` (2^30), `500 M` or a plain number; a `BadParameter` for anything else."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", text.strip().lower())
    if parts is None:
        raise typer.BadParameter(f"{text!r} is no size; write it like 500MB, 5GB or 1.5GiB", param_hint="--max-size")
    return int(float(parts.group(1)) * _UNITS[parts.group(2)])


def _line(one: KeyInfo) -> str:
    prompt = f", prompt {one.fields['prompt']!r}" if one.fields.get("prompt") else ""
    length = f", {one.fields['max_tokens']} tokens" if "max_tokens" in one.fields else ""
    dtype = f", {one.fields['dtype']}" if "dtype" in one.fields else ""
    return (
        f"{one.name[:8]}  {one.texts:>10,} texts  {_size(one.bytes):>9}  used {_date(one.last_used)}  "
        f"{one.label or 'unnamed'}{prompt}{length}{dtype}"
    )


def _plain(one: KeyInfo) -> dict[str, object]:
    return {
        "name": one.name,
        "label": one.label,
        "texts": one.texts,
        "bytes": one.bytes,
        "last_used": _date(one.last_used),
        "fields": dict(one.fields),
    }


def _date(seconds: float) -> str:
    """The day in UTC, ISO 8601."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
