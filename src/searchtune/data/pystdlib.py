"""`builtin:pystdlib`: code search over the standard library of the running Python.

A document is a function or method: its qualified name and its source with every docstring cut out. Its query is the
first sentence of its docstring. Sources are parsed, never imported. The collection depends on the Python version, so
it is built where it is used and kept in the user's cache.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import platform
import re
import shutil
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import decode_source
from pathlib import Path
from typing import NamedTuple

from searchtune.data.beir import read_beir, write_beir
from searchtune.data.collection import build_collection
from searchtune.data.near import near_groups, normalise
from searchtune.data.splits import hash_splits
from searchtune.errors import DataError, SearchtuneError
from searchtune.storage.fingerprint import Fingerprint
from searchtune.storage.marker import check_complete
from searchtune.types import Collection

SPLITS = {"train": 0.6, "dev": 0.1, "test": 0.3}
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
MIN_WORDS, MAX_WORDS = 4, 40

_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?](?=\s+[^\sa-z]|$)")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """One function or method that may become a document."""

    name: str
    """Module, classes and function, joined by dots."""
    source: str
    sentence: str
    """First sentence of the docstring."""


def load_pystdlib() -> Collection:
    """The collection for this Python, from the cache where it is whole and of this version, else built and cached.

    The cache is `$XDG_CACHE_HOME/searchtune` (`~/.cache/searchtune`); where it cannot be written, nothing is kept.
    """
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    folder = _cache_folder(stdlib)
    with suppress(SearchtuneError, OSError):
        check_complete(folder)
        return read_beir(folder, name="pystdlib")
    collection = build_pystdlib(stdlib)
    with suppress(SearchtuneError, OSError):
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there at all
        write_beir(collection, folder)
    return collection


def build_pystdlib(stdlib: Path) -> Collection:
    """Build the collection from the Python sources under `stdlib`; a few seconds on one core."""
    functions = _with_own_sentence(list(read_functions(stdlib)))
    if not functions:
        raise DataError(f"{stdlib} holds no Python sources with docstrings: use a Python that was installed with them")
    names = [function.name for function in functions]
    groups = near_groups([[f.sentence for f in functions], [f.source for f in functions]])
    splits = hash_splits(names, groups, list(SPLITS.values()))
    labels = {
        split: [(name, name, 1) for name, at in zip(names, splits, strict=True) if at == number]
        for number, split in enumerate(SPLITS)
    }
    return build_collection(
        "pystdlib",
        {function.name: (function.name, function.source) for function in functions},
        {function.name: function.sentence for function in functions},
        {split: rows for split, rows in labels.items() if rows},
    )


def read_functions(root: Path) -> Iterator[Function]:
    """Every function and method below `root` with a docstring and a body that does something, file by file.

    Functions inside functions are part of the outer one. Of several definitions of a name the first counts.
    """
    seen: set[str] = set()
    for path in _modules(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            source = decode_source(path.read_bytes())
            tree = _parsed(source)
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue
        lines = source.encode("utf-8").split(b"\n")
        for name, node in _definitions(tree, module):
            docstring = ast.get_docstring(node)
            if docstring and name not in seen and not _idle(node):
                seen.add(name)
                yield Function(name, _source_without_docstrings(lines, node), first_sentence(docstring))


def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line; a doctest example is no sentence.

    >>> first_sentence('Split a path, e.g. a URL. Returns\\n    a pair.')
    'Split a path, e.g. a URL.'
    """
    paragraph = re.split(r"\n\s*\n|>>>", inspect.cleandoc(docstring).strip(), maxsplit=1)[0]
    line = " ".join(paragraph.split())
    end = _SENTENCE_END.search(line)
    return line[: end.end()] if end else line


def _with_own_sentence(functions: list[Function]) -> list[Function]:
    """Those whose sentence is 4 to 40 words long and belongs to no other function, sorted by name."""
    count = Counter(normalise(function.sentence) for function in functions)
    return sorted(
        function
        for function in functions
        if MIN_WORDS <= len(function.sentence.split()) <= MAX_WORDS and count[normalise(function.sentence)] == 1
    )


def _modules(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in SKIPPED and name.isidentifier())
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)  # noqa: PTH122
            if suffix == ".py" and stem.isidentifier() and not stem.startswith("test_"):
                yield Path(folder, file)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    """Functions and methods below `node` with qualified names; looks into classes and branches, not into functions."""
    for child in _blocks(node):
        if isinstance(child, FunctionNode):
            yield f"{prefix}.{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}.{child.name}")
        else:
            yield from _definitions(child, prefix)


def _blocks(node: ast.AST) -> Iterator[ast.AST]:
    """The statements, exception handlers and cases right below a statement (expressions hold no definitions)."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        yield from getattr(node, part, ())


def _idle(node: FunctionNode) -> bool:
    """Whether nothing but `pass`, `...` or `raise NotImplementedError` follows the docstring."""
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Raise) and "NotImplementedError" in ast.dump(statement))
        for statement in node.body[1:]
    )


def _source_without_docstrings(lines: list[bytes], node: FunctionNode) -> str:
    """The source from the first decorator on, dedented, without its docstring and those of what it defines."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = lines[first - 1 : node.end_lineno]
    for docstring in sorted(_docstrings(node), key=lambda expr: expr.lineno, reverse=True):
        start, end = docstring.lineno - first, (docstring.end_lineno or docstring.lineno) - first
        before, after = kept[start][: docstring.col_offset], kept[end][docstring.end_col_offset :]
        rest = before + after.lstrip(b"; \t")
        kept[start : end + 1] = [rest] if rest.strip() else []
    return textwrap.dedent(b"\n".join(kept).decode("utf-8", errors="replace")).strip()


def _docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    """The docstrings of a definition and of all definitions inside it."""
    if isinstance(node, FunctionNode | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
        statement = node.body[0]
        if isinstance(statement, ast.Expr):
            yield statement
    for child in _blocks(node):
        yield from _docstrings(child)


def _cache_folder(stdlib: Path) -> Path:
    """One folder for each Python, each place of its library, and each version of the code that builds this."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "searchtune"
    made_by = Fingerprint().add(platform.python_implementation(), str(stdlib.resolve()))
    for module in ("pystdlib.py", "near.py", "splits.py", "collection.py"):
        made_by.add(hashlib.sha256(Path(__file__).with_name(module).read_bytes()).hexdigest())
    return root / f"pystdlib-{platform.python_version()}-{made_by.hexdigest()[:12]}"
