"""The built-in collection: made from sources without running them, the same every time, no docstring left in it."""

import ast
import sysconfig
import textwrap
from pathlib import Path

import pytest

from searchtune.data import pystdlib
from searchtune.data.leakage import find_leaks
from searchtune.data.near import near_groups, normalise
from searchtune.data.pystdlib import build_pystdlib, first_sentence, load_pystdlib, read_functions

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A part of the real library, small enough to build in a second."""
    root = tmp_path_factory.mktemp("lib")
    for package in ("json", "email", "logging"):
        (root / package).symlink_to(STDLIB / package)
    copied = tmp_path_factory.mktemp("copy")
    for path in [*STDLIB.glob("[a-d]*.py"), *(p for package in root.iterdir() for p in package.glob("*.py"))]:
        target = copied / path.relative_to(root if path.is_relative_to(root) else STDLIB)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return build_pystdlib(copied)


def write(root: Path, name: str, source: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(textwrap.dedent(source), encoding="utf-8")
    return root


def test_sources_are_read_and_never_run(tmp_path):
    source = '''
        raise SystemExit("this module was run")

        def outer(x):
            """Outer function of the module. More about it."""
            def inner():
                """Inner docstring."""
                return 1  # keep this comment
            return inner

        class Shape:
            """Class docstring."""
            @property
            def área(self): "Area of the shape."; return 1

            async def move(self):
                """Move it
                further along.

                Second paragraph.
                """
                await go()

        if True:
            def branch():
                \'\'\'Made in a branch.\'\'\'
                return "é"
    '''
    found = {f.name: f for f in read_functions(write(tmp_path, "pack/__init__.py", source))}
    assert list(found) == ["pack.outer", "pack.Shape.área", "pack.Shape.move", "pack.branch"]
    assert found["pack.outer"].sentence == "Outer function of the module."
    assert found["pack.outer"].source == (
        "def outer(x):\n    def inner():\n        return 1  # keep this comment\n    return inner"
    )
    assert found["pack.Shape.área"].source == "@property\ndef área(self): return 1"
    assert found["pack.Shape.move"] == (
        "pack.Shape.move",
        "async def move(self):\n    await go()",
        "Move it further along.",
    )
    assert found["pack.branch"].source == 'def branch():\n    return "é"'


@pytest.mark.parametrize(
    "body", ["pass", "...", "raise NotImplementedError", "raise NotImplementedError('no')", '"""Another string."""', ""]
)
def test_functions_that_do_nothing_are_left_out(tmp_path, body):
    root = write(tmp_path, "m.py", f'def f():\n    """Does what it says."""\n    {body}\n')
    assert list(read_functions(root)) == []


@pytest.mark.parametrize(
    "name",
    ["test/a.py", "x/tests/a.py", "test_a.py", "idlelib/a.py", "lib2to3/a.py", "site-packages/a.py", "a-b.py"],
)
def test_tests_and_others_packages_are_skipped(tmp_path, name):
    root = write(tmp_path, name, 'def f():\n    """Does what it says."""\n    return 1\n')
    assert list(read_functions(root)) == []


def test_broken_sources_are_skipped(tmp_path):
    write(tmp_path, "broken.py", "def f(:")
    (tmp_path / "latin.py").write_bytes(b'# coding: latin-1\ndef f():\n    """Says \xe9."""\n    return "\xe9"\n')
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    assert [f.source for f in read_functions(tmp_path)] == ['def f():\n    return "é"']


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return x.", "Return x."),
        ("Return x. And y.", "Return x."),
        ("Return x, e.g. a URL, i.e. Text. More.", "Return x, e.g. a URL, i.e. Text."),
        ("Use os.path here\nand there\n\nnot this", "Use os.path here and there"),
        ("Is it? Yes.", "Is it?"),
        ("Return a dictionary\n>>> f()\n{}", "Return a dictionary"),
        (">>> f()\n1", ""),
        ("  version 3.11 only  ", "version 3.11 only"),
    ],
)
def test_first_sentence(docstring, sentence):
    assert first_sentence(docstring) == sentence


def test_sentences_must_be_of_length_and_unique(tmp_path):
    def function(name: str, docstring: str) -> str:
        return f'def {name}(x):\n    """{docstring}"""\n    return {name * 3}(x)\n'

    parts = [
        function("three", "Only three words."),
        function("four", "Now exactly four words."),
        function("long", "word " * 41),
        function("longest", "wort " * 40),
        function("twin", "Shared by two functions!"),
        function("other", "shared  by TWO functions"),
    ]
    collection = build_pystdlib(write(tmp_path, "m.py", "\n".join(parts)))
    assert list(collection.query_ids) == ["m.four", "m.longest"]


def test_every_document_has_one_query_and_no_docstring(real):
    assert len(real.doc_ids) > 300
    assert list(real.doc_ids) == list(real.query_ids) == list(real.titles)
    assert sum(len(labels) for labels in real.qrels.values()) == len(real.doc_ids)
    for text in real.texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.body:
                assert ast.get_docstring(node) is None
    sentences = [normalise(text) for text in real.query_texts]
    assert len(set(sentences)) == len(sentences)
    assert all(4 <= len(text.split()) <= 40 for text in real.query_texts)


def test_near_duplicates_do_not_straddle_splits(real):
    split_of = {query: split for split, labels in real.qrels.items() for query in labels.queries.tolist()}
    for column in (real.query_texts, real.texts):
        for row, group in enumerate(near_groups([column])):
            assert split_of[row] == split_of[group]
    assert find_leaks(real, real.split("train"), real.split("test")).leaks == ()
    assert len(near_groups([real.texts])) > len(set(near_groups([real.texts])))


def test_cache_gives_the_same_and_heals_itself(tmp_path, monkeypatch):
    root = write(tmp_path / "lib", "m.py", 'def f():\n    """Does what it says here."""\n    return 1\n')
    monkeypatch.setattr(pystdlib.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built = load_pystdlib()
    (folder,) = (tmp_path / "cache" / "searchtune").iterdir()
    monkeypatch.setattr(pystdlib, "build_pystdlib", lambda stdlib: pytest.fail("built again though it is cached"))
    assert load_pystdlib().fingerprint == built.fingerprint
    monkeypatch.undo()

    monkeypatch.setattr(pystdlib.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for damage in (b"", (folder / "corpus.jsonl").read_bytes().replace(b"return 1", b"return 2")):
        (folder / "corpus.jsonl").write_bytes(damage)
        assert load_pystdlib().fingerprint == built.fingerprint
    (folder / "COMPLETE.json").unlink()
    assert load_pystdlib().fingerprint == built.fingerprint
    assert (folder / "COMPLETE.json").is_file()


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    root = write(tmp_path / "lib", "m.py", 'def f():\n    """Does what it says here."""\n    return 1\n')
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(pystdlib.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert list(load_pystdlib().doc_ids) == ["m.f"]


def test_building_twice_gives_the_same(tmp_path):
    for name in ("a.py", "b/c.py"):
        write(tmp_path, name, f'def f{name[0]}(x):\n    """Does what {name} says here."""\n    return x.{name[0]}\n')
    assert build_pystdlib(tmp_path).fingerprint == build_pystdlib(tmp_path).fingerprint
