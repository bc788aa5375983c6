"""The house keeps its own rules: cheap start, small files, valid YAML, pins that fit, a public API that is there."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperGroup

import searchtune
from searchtune.cli.main import COMMANDS, app, load_command
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.base import parse_spec, read_yaml
from searchtune.specs.judge import JudgeRecipe
from searchtune.specs.pipeline import PipelineSpec
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.specs.suite import SuiteSpec
from searchtune.specs.task import TaskSpec
from searchtune.storage.assets import find_asset

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = {"torch", "transformers", "sentence_transformers", "peft", "accelerate", "datasets", "faiss", "altair", "scipy"}
RECIPES = {
    "embed": EmbedRecipe,
    "rerank": RerankRecipe,
    "judge": JudgeRecipe,
    "rewrite": RewriteRecipe,
    "answer": AnswerRecipe,
    "pipeline": PipelineSpec,
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "code",
    ["import searchtune", "import searchtune; searchtune.Collection, searchtune.EmbedRecipe"]
    + [
        f"from typer.testing import CliRunner\nfrom searchtune.cli.main import app\nCliRunner().invoke(app, {args!r})"
        for args in (["--help"], *([name, "--help"] for name in COMMANDS))
    ],
)
def test_starting_loads_nothing_heavy(code):
    report = "\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_sources_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_data_never_becomes_code(path):
    banned = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in banned and isinstance(node.value, ast.Constant):
            assert node.value.value is not banned[node.arg], f"line {node.lineno}: {node.arg}"


READERS_OF_THEIR_OWN = {
    "reading.py": "the guard itself",
    "data/packed.py": "unpacks what the guard opened",
    "data/parse.py": "collections, whose lines are checked one by one",
    "data/shapes.py": "a glance at a line, to word a message",
    "data/pystdlib.py": "Python's own library",
    "models/base_facts.py": "the head of a stranger's model card, which may say nothing",
    "models/endpoint.py": "replies of a server",
    "models/remote_reply.py": "replies of a server",
    "models/gguf_export.py": "what a tokenizer says of itself",
    "models/merge.py": "what a process of ours printed",
    "models/precision.py": "what the system says of its processor",
    "prompts/answer.py": "replies of a model",
    "retrieval/segments.py": "our own files, each part sealed",
    "storage/atomic.py": "brings files to disk, reads none",
    "storage/derived.py": "our own files, sealed",
    "storage/journal.py": "our own files, each line sealed",
    "storage/lock.py": "who holds a lock, if that can be read",
    "workflows/adapter.py": "what a process of ours printed",
}
"""Modules that read otherwise than through `searchtune.reading`, and why they may."""
_RAW = {("json", "load"), ("json", "loads"), ("yaml", "load"), ("yaml", "safe_load"), ("np", "load"), ("gzip", "open")}


def raw_reads(tree):
    """Calls that open, decode or parse a file without the guard, with their lines."""
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        call = node.func
        if isinstance(call, ast.Name) and call.id == "open":
            yield f"line {node.lineno}: open"
        if not isinstance(call, ast.Attribute):
            continue
        owner = call.value.id if isinstance(call.value, ast.Name) else ""
        mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "r"
        reads = call.attr == "open" and owner not in ("os", "gzip") and not set(str(mode)) & set("wxa")
        if reads or call.attr in ("read_text", "read_bytes", "expanduser") or (owner, call.attr) in _RAW:
            yield f"line {node.lineno}: {owner}.{call.attr}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_read_by_the_guard(path):
    found = list(raw_reads(ast.parse(path.read_text(encoding="utf-8"))))
    own = path.relative_to(ROOT / "src" / "searchtune").as_posix() in READERS_OF_THEIR_OWN
    assert own or not found, f"{found}: use searchtune.reading"


def test_raw_reads_are_found():
    code = "open(x); p.read_text(); p.expanduser(); json.loads(x); p.open(); p.open('rb'); p.open('wb'); os.open(p, 0)"
    assert [line.partition(": ")[2] for line in raw_reads(ast.parse(code))] == [
        "open", "p.read_text", "p.expanduser", "json.loads", "p.open", "p.open",
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=relative)
def test_every_recipe_is_valid(path):
    stage = path.relative_to(ROOT / "configs").parts[0]
    recipe = parse_spec(RECIPES[stage], read_yaml(path), relative(path))
    assert recipe.kind == stage
    sources = {"judge": ("train", "test"), "rewrite": ("test",), "answer": ("train", "test")}.get(stage, ())
    for task in (source.task for source in ([getattr(recipe, name) for name in sources] or [recipe]) if source):
        assert task is None or find_asset("tasks", task).is_relative_to(ROOT / "tasks")
    assert path.read_text(encoding="utf-8").startswith("#"), "a recipe opens with a comment: its launch command"


@pytest.mark.parametrize("stage", sorted(path.name for path in (ROOT / "configs").iterdir() if path.is_dir()))
def test_every_stage_has_a_recipe_for_a_quick_try(stage):
    assert stage in RECIPES
    assert list((ROOT / "configs" / stage).glob("*-smoke.yaml")), f"configs/{stage} needs a *-smoke.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "eval" / "suites").rglob("*.yaml")), ids=relative)
def test_every_suite_is_valid(path):
    suite = parse_spec(SuiteSpec, read_yaml(path), relative(path))
    assert suite.name == path.stem
    assert all(find_asset("tasks", task).is_relative_to(ROOT / "tasks") for task in suite.tasks)
    assert path.read_text(encoding="utf-8").startswith("# searchtune eval run"), "a suite opens with its launch command"


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.yaml")), ids=relative)
def test_every_task_is_valid(path):
    task = parse_spec(TaskSpec, read_yaml(path), relative(path))
    assert task.licence != "unknown"
    assert task.description


OF_OTHERS = {"--force-reinstall", "--no-deps", "--merge"}
"""Options of pip and of llama.cpp's `gguf-split` that messages name."""


def options_of_all_commands():
    found, waiting = {"--help"}, [load_command(name) for name in COMMANDS] + [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
        if isinstance(command, TyperGroup):
            waiting += [one for name, one in command.commands.items() if name not in COMMANDS]
    return found


def messages_in(path):
    """Texts of a source, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def test_every_option_that_a_message_names_is_there():
    known = options_of_all_commands() | OF_OTHERS
    assert {"--max-unreadable", "--no-history", "--overwrite"} <= known
    pages = ROOT / "src" / "searchtune" / "evaluation"  # colours of CSS look like options
    wrong = [
        f"{relative(path)}:{number}: {option}"
        for path in SOURCES
        if not path.is_relative_to(pages)
        for number, text in messages_in(path)
        for option in re.findall(r"(?<![\w/-])--[a-z][a-z_-]+", text)
        if option not in known
    ]
    assert not wrong, wrong


def test_root_folders_hold_no_importable_code():
    for folder in ("tasks", "configs", "eval", "data"):
        assert not list((ROOT / folder).rglob("*.py"))


def test_public_names_are_there_and_told_to_type_checkers():
    tree = ast.parse((ROOT / "src" / "searchtune" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert told == searchtune._HOMES
    for name in told:
        assert getattr(searchtune, name).__name__ == name
        assert name in dir(searchtune)
    with pytest.raises(AttributeError, match="has no attribute 'Colection'"):
        searchtune.Colection  # noqa: B018


def test_pins_satisfy_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, (x for x in lines if not x.startswith("#")))}
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["cpu"], *extras["demo"], *extras["dev"]]:
        wanted = Requirement(text)
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{text} against {pin}"
    assert all(len(pin.specifier) == 1 and "+" not in str(pin) for pin in pins.values())
