"""Broken input for every command that reads: paths, files of every format, values of every option.

`build` makes a small sound world once, `cases` breaks one thing of it at a time, and `run` calls the command in this
process. `python tests/bad_input.py` prints how many cases of each command and kind of fault end in a traceback.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import support

LONG = "x" * 300
DIGITS = "9" * 5000
DEEP = 100_000
LONGEST = 30
"""Seconds after which a command counts as hung."""

PATHS: dict[str, Callable[[Path], str]] = {}
"""Kind of fault -> what to name; the argument is an empty folder to put things in."""


def _path(make: Callable[[Path], str]) -> Callable[[Path], str]:
    PATHS[make.__name__.replace("_", " ")] = make
    return make


@_path
def nobodys_home(room):
    return "~nobody-of-this-name/x"


@_path
def a_long_name(room):
    return str(room / LONG)


@_path
def a_long_name_alone(room):
    return LONG


@_path
def links_in_a_circle(room):
    (room / "round").symlink_to(room / "about")
    (room / "about").symlink_to(room / "round")
    return str(room / "round")


@_path
def a_link_to_nothing(room):
    (room / "dangling").symlink_to(room / "nothing")
    return str(room / "dangling")


@_path
def nothing_there(room):
    return str(room / "nothing-there")


@_path
def below_a_file(room):
    (room / "a-file").write_text("x")
    return str(room / "a-file" / "x")


@_path
def a_pipe(room):
    os.mkfifo(room / "a-pipe")
    return str(room / "a-pipe")


@_path
def a_device(room):
    return "/dev/null"


@_path
def an_empty_folder(room):
    (room / "an-empty-folder").mkdir()
    return str(room / "an-empty-folder")


@_path
def an_empty_file(room):
    (room / "an-empty-file").write_text("")
    return str(room / "an-empty-file")


@_path
def a_name_that_is_no_text(room):
    return os.fsdecode(os.fsencode(room) + b"/\xff\xfe")


@_path
def a_nul(room):
    return str(room / "a") + "\0b"


@_path
def no_name(room):
    return ""


_NUL = b"\0\0\0\0"
JSON_FAULTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"[1, 2]",
    "list of objects": b'[{"_id": "1", "text": "x"}]',
    "number": b"3",
    "null": b"null",
    "text": b'"x"',
    "true": b"true",
    "cut": b'{"a": [1, 2',
    "not UTF-8": b'{"a": "caf\xe9"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": _NUL,
    "many digits": b'{"a": ' + DIGITS.encode() + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "beyond floats": b'{"a": 1e999}',
    "deep list": b"[" * DEEP,
    "deep object": b'{"a":' * DEEP,
    "half a pair": b'{"a": "\\ud800"}',
    "half a pair in a key": b'{"\\udc00": 1}',
    "other object": b'{"a": 1, "b": {"c": [null]}}',
    "no object": b"{}",
    "yaml": b"a: 1\nb: [2]\n",
    "noise": bytes(range(256)),
}
LINE_FAULTS: dict[str, bytes] = {**JSON_FAULTS, "blank lines": b"\n\n  \n", "only BOM": b"\xef\xbb\xbf"}
YAML_FAULTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"- 1\n- 2\n",
    "scalar": b"hello\n",
    "cut": b"a: [1, 2\n",
    "tab": b"a:\n\tb: 1\n",
    "not UTF-8": b"a: caf\xe9\n",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "NUL": b"a: \0\n",
    "control": b"a: \x07\n",
    "twice": b"a: 1\na: 2\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "date": b"name: 2020-01-01\nkind: 2020-01-01\n",
    "no date": b"name: 2020-13-45\n",
    "time": b"name: 2020-01-01T25:61:61Z\n",
    "set": b"name: !!set {a, b}\n",
    "ordered": b"name: !!omap [a: 1]\n",
    "pairs": b"name: !!pairs [a: 1]\n",
    "bytes": b"name: !!binary aGVsbG8=\n",
    "broken bytes": b"name: !!binary a\n",
    "octal": b"seed: 0o17\nname: 017\n",
    "broken hex": b"seed: 0x_\n",
    "sixties": b"seed: 190:20:30\nname: 1:99:99.5\n",
    "tag of Python": b"name: !!python/object/apply:os.getcwd []\n",
    "own tag": b"name: !mine x\n",
    "int tag": b"seed: !!int x\n",
    "float tag": b"seed: !!float x\n",
    "bool tag": b"seed: !!bool x\n",
    "null tag": b"seed: !!null x\n",
    "value": b"=: 1\nname: =\n",
    "merge": b"<<: 3\n",
    "merge list": b"<<: [1, 2]\n",
    "list as key": b"? [a]\n: 1\n",
    "many digits": b"seed: " + DIGITS.encode() + b"\n",
    "many hex digits": b"seed: 0x" + b"f" * 5000 + b"\n",
    "NaN": b"seed: .nan\n",
    "infinity": b"seed: -.inf\n",
    "itself": b"a: &a [*a]\n",
    "itself in a mapping": b"a: &a {b: *a}\n",
    "itself as key": b"&a ? *a\n: 1\n",
    "no anchor": b"a: *nothing\n",
    "bomb": b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n".encode() for i in range(1, 12)),
    "deep list": b"a: " + b"[" * 3000,
    "deep mapping": b"a: " + b"{a: " * 3000,
    "half a pair": b'name: "\\ud800"\n',
    "half a pair in a key": b'"\\udc00": 1\n',
    "unknown keys": b"nonsense: 1\nmore: {of: it}\n",
    "numbers as keys": b"1: 2\n3.5: 4\ntrue: 5\n",
    "null as key": b"~: 1\n",
    "json": b'{"a": 1}',
    "noise": bytes(range(256)),
}
ARRAY_FAULTS: dict[str, bytes] = {
    "empty": b"",
    "noise": bytes(range(256)),
    "cut": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'",
    "objects": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n",
    "huge": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,), }".ljust(117)
    + b"\n",
    "no shape": b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4'}".ljust(117) + b"\n",
    "another shape": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n\0\0\0\0",
    "texts": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\na\0\0\0",
    "a zip": b"PK\x05\x06" + b"\0" * 18,
}
TENSOR_FAULTS: dict[str, bytes] = {
    "empty": b"",
    "short": b"abc",
    "noise": bytes(range(256)),
    "long header": b"\xff" * 8 + b"{}",
    "no header": (2).to_bytes(8, "little") + b"{}",
    "header of a list": (2).to_bytes(8, "little") + b"[]",
    "broken header": (4).to_bytes(8, "little") + b'{"a"',
    "odd header": (9).to_bytes(8, "little") + b'{"a":"b"}',
    "outside": (66).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[999],"data_offsets":[0,3996]}}'.ljust(66),
    "unknown type": (66).to_bytes(8, "little")
    + b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}'.ljust(66)
    + b"\0\0\0\0",
    "others": (66).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(66)
    + b"\0\0\0\0",
}
TABLE_FAULTS: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n\n",
    "one column": b"q1\nq2\n",
    "not UTF-8": b"q1 0 d\xe9 1\n",
    "NUL": _NUL,
    "many digits": b"q1 Q0 d1 1 " + DIGITS.encode() + b" t\n",
    "many digits as a grade": b"q1 0 d1 " + DIGITS.encode() + b"\n",
    "NaN": b"q1 Q0 d1 1 nan t\n",
    "json": b'{"a": 1}\n',
    "noise": bytes(range(256)),
    "cut gzip": b"\x1f\x8b\x08\x00\x00",
    "broken gzip": b"\x1f\x8b" + bytes(range(256)),
}
FAULTS = {
    "json": JSON_FAULTS,
    "jsonl": LINE_FAULTS,
    "yaml": YAML_FAULTS,
    "npy": ARRAY_FAULTS,
    "safetensors": TENSOR_FAULTS,
    "table": TABLE_FAULTS,
}
HARMLESS = {"blank lines", "many digits", "two documents", "numbers as keys"}
ODD: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, "", " ", "\ud800", "\0", "~nobody-of-this-name", LONG, [], [[]], {}, {"a": []}, "../../x",
    "nan", "http://[", "{", ["\u0000"], 0.5,
]  # fmt: skip
OPTION_VALUES = [
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e999",
    DIGITS,
    "0x10",
    "٣",
    "x",
    " ",
    "\ud800",
    "🙂",
    "[",
    "a=b",
    LONG,
]
SETTINGS = [
    "", "=", "a", "seed", "seed=", "=3", ".=1", "a..b=1", "optim.=1", "seed.deep=1", "seed=.nan", "seed=.inf", "seed=-.inf",
    "seed=" + DIGITS, "seed=0x" + "f" * 5000, "seed=1e999", "seed=2020-13-45", "seed=2020-01-01", "seed=!!set {a}",
    "seed=!!binary a", "seed=!!int x", "seed=&a [*a]", "seed=*a", "seed=" + "[" * 5000, "seed=" + "{a: " * 3000, "seed=[1",
    "seed=!!python/name:os.system", "seed=\"\\ud800\"", "name=\ud800", "seed=\0", "seed=\x07", "sed=1", "kind=x", "kind=[1]",
    "kind=null", "base=~nobody-of-this-name/x", "base=" + LONG, "base=", "base=\"\\0\"", "base=3", "base=package:", "base=package:os",
    "base=package:../x", "base=/dev/zero", "base=package:json/../..", "task=~nobody-of-this-name", "task=" + LONG,
    "task=builtin:", "task=irds:", "task=builtin:nothing", "a." * 2000 + "b=1", "🙂=1", "seed: 1", "seed=: :", "seed=-", "seed=?",
    "seed=%", "seed=@", "seed=`", "seed=<<: 3",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call: `args` once `prepare` has broken something in a room of its own."""

    command: str
    fault: str
    prepare: Callable[[Path], list[str]]
    named: str = ""
    """What the message must name; empty where the case may be taken as it is."""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.command}: {self.fault}"


@dataclass(frozen=True)
class World:
    """What is sound."""

    folder: Path
    adapters: dict[str, Path]
    """By kind, folders made by training or like it."""
    base: Path
    causal: Path
    job: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


def build(folder: Path, embed: Path, base: Path) -> World:
    """The sound world; `embed` is the adapter of a small training run on `base`."""
    from searchtune.data.judging import read_pairs
    from searchtune.workflows.judge_job import JobPlan, run_job
    from unit.workflows.answering import write_asked
    from unit.workflows.judging import Oracle, write_rows
    from unit.workflows.pipelines import write_adapter, write_base

    tiny = support.write_collection(folder / "tiny")
    causal = write_base(folder / "causal")
    adapters = {"embed": embed}
    for kind in ("judge", "rewrite", "answer"):
        adapters[kind] = folder / kind
        write_adapter(folder / kind, causal, kind, 1)
    write_rows(folder / "pairs.jsonl", queries=4, docs=5)
    run_job(Oracle().opened(), read_pairs(folder / "pairs.jsonl"), folder / "job", JobPlan(canaries=2))
    write_asked(folder / "asked.jsonl", 4)
    lines = {
        "texts.jsonl": [{"title": "a", "text": "b"}],
        "scored.jsonl": [{"query": "a", "document": "b"}],
        "turns.jsonl": [{"utterance": "and reefs?", "history": [{"role": "user", "text": "tides"}]}],
        "queries.jsonl": [{"query": "sail", "history": [{"role": "user", "text": "tides"}]}],
        "references.jsonl": [{"query_id": "q1", "answers": ["x"]}],
        "human.jsonl": [{"query_id": "q0", "doc_id": "d0-0", "grade": 1}],
    }
    for name, rows in lines.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ranked.run").write_text("q48 Q0 sea-0 1 2.0 t\nq48 Q0 sea-1 2 1.0 t\n")
    (folder / "labels.tsv").write_text("q48\tsea-0\t2\n")
    (folder / "calibration.json").write_text(json.dumps(Oracle().opened() and _calibration(folder / "job")))
    gone = str(folder / "gone")
    specs: dict[str, dict[str, Any]] = {
        "task": {"name": "tiny", "source": str(tiny), "description": "x", "licence": "x"},
        "embed-recipe": {"task": str(tiny), "base": str(base), "max_tokens": 64},
        "rerank-recipe": {
            "kind": "rerank",
            "task": str(tiny),
            "base": str(base),
            "first_stage": {"bm25": {"kind": "bm25"}},
        },
        "judge-recipe": {"kind": "judge", "base": str(causal), "train": {"file": gone}, "test": {"file": gone}},
        "rewrite-recipe": {"kind": "rewrite", "base": str(causal), "train": [{"file": gone}]},
        "answer-recipe": {"kind": "answer", "base": str(causal), "train": {"file": gone}},
        "pipeline": {"kind": "pipeline", "task": gone, "retrieve": {"words": True}},
        "suite": {"name": "suite", "tasks": [gone], "systems": {"bm25": {"kind": "bm25"}}, "metrics": ["ndcg@10"]},
    }
    for name, content in specs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(embed.parent / "report.json", folder / "report.json")
    return World(folder, adapters, base, causal, folder / "job")


def _calibration(job: Path) -> Any:
    return json.loads((job / "job.json").read_text())["calibration"]


def slots(w: World) -> Iterator[tuple[str, str, list[str], str, str]]:
    """Command, what is named, the call with `{}` where the broken thing is named, its format, and its file's name."""
    embed, judge = str(w.adapters["embed"]), str(w.adapters["judge"])
    tiny, job, out = str(w.tiny), str(w.job), "--out=out"
    for stage in ("embed", "rerank"):
        yield f"{stage} train", "recipe", [stage, "train", "{}", out, "--dry-run"], "yaml", "recipe.yaml"
        recipe = str(w.folder / f"{stage}-recipe.yaml")
        yield f"{stage} train", "task", [stage, "train", recipe, "--task", "{}", out, "--dry-run"], "yaml", "task.yaml"
    for stage in ("judge", "rewrite", "answer"):
        yield f"{stage} train", "recipe", [stage, "train", "{}", out], "yaml", "recipe.yaml"
    yield "plan", "recipe", ["plan", "{}"], "yaml", "recipe.yaml"
    for suffix in ("jsonl", "json"):
        yield (
            "embed encode",
            f"texts.{suffix}",
            ["embed", "encode", embed, "{}", "--out=v.npy"],
            "jsonl",
            f"texts.{suffix}",
        )
        yield "rerank score", f"pairs.{suffix}", ["rerank", "score", str(w.base), "{}"], "jsonl", f"pairs.{suffix}"
    yield "embed search", "task", ["embed", "search", embed, "sail", "--task", "{}"], "yaml", "task.yaml"
    yield "rerank score", "run", ["rerank", "score", str(w.base), "{}", "--task", tiny, out], "table", "a.run"
    yield (
        "rewrite run",
        "turns",
        ["rewrite", "run", str(w.adapters["rewrite"]), "--turns", "{}"],
        "jsonl",
        "turns.jsonl",
    )
    yield "rewrite run", "task", ["rewrite", "run", str(w.adapters["rewrite"]), "--task", "{}"], "yaml", "task.yaml"
    answer = str(w.adapters["answer"])
    yield "answer run", "questions", ["answer", "run", answer, out, "--questions", "{}"], "jsonl", "asked.jsonl"
    yield "answer run", "run", ["answer", "run", answer, out, "--task", tiny, "--run", "{}"], "table", "a.run"
    yield "answer measure", "questions", ["answer", "measure", answer, out, "--questions", "{}"], "jsonl", "asked.jsonl"
    yield "judge run", "pairs", ["judge", "run", judge, out, "--pairs", "{}"], "jsonl", "pairs.jsonl"
    yield "judge run", "run", ["judge", "run", judge, out, "--task", tiny, "--run", "{}"], "table", "a.run"
    pairs = str(w.folder / "pairs.jsonl")
    yield (
        "judge run",
        "calibration",
        ["judge", "run", judge, out, "--pairs", pairs, "--calibration", "{}"],
        "json",
        "fitted.json",
    )
    for suffix, form in (("jsonl", "jsonl"), ("json", "json"), ("csv", "table")):
        yield (
            "judge calibrate",
            f"human.{suffix}",
            ["judge", "calibrate", job, "--out=f.json", "--human", "{}"],
            form,
            f"h.{suffix}",
        )
    yield "judge agree", "human", ["judge", "agree", job, out, "--human", "{}"], "jsonl", "h.jsonl"
    yield (
        "judge agree",
        "run",
        ["judge", "agree", job, out, "--run", "{}", "--run", str(w.folder / "ranked.run")],
        "table",
        "a.run",
    )
    yield "pipeline run", "config", ["pipeline", "run", "{}", str(w.folder / "queries.jsonl")], "yaml", "pipeline.yaml"
    yield (
        "pipeline run",
        "queries",
        ["pipeline", "run", str(w.folder / "pipeline.yaml"), "{}"],
        "jsonl",
        "queries.jsonl",
    )
    yield "pipeline serve-local", "config", ["pipeline", "serve-local", "{}"], "yaml", "pipeline.yaml"
    yield "eval run", "suite", ["eval", "run", "{}", out], "yaml", "suite.yaml"
    yield "eval score", "qrels", ["eval", "score", "{}", str(w.folder / "ranked.run")], "table", "qrels.tsv"
    yield "eval score", "run", ["eval", "score", str(w.folder / "labels.tsv"), "{}"], "table", "a.run"
    report = str(w.folder / "report.json")
    yield "eval compare", "report", ["eval", "compare", report, "{}"], "json", "report.json"
    yield (
        "eval gate",
        "report",
        ["eval", "gate", "{}", "--max-drop", "ndcg@10=0.1", "--baseline", report],
        "json",
        "report.json",
    )
    yield (
        "eval gate",
        "baseline",
        ["eval", "gate", report, "--max-drop", "ndcg@10=0.1", "--baseline", "{}"],
        "json",
        "report.json",
    )
    yield "eval table", "report", ["eval", "table", "{}"], "json", "report.json"
    yield "eval attribute", "config", ["eval", "attribute", "{}", out], "yaml", "pipeline.yaml"
    refer = ["eval", "attribute", str(w.folder / "pipeline.yaml"), out, "--answers=token_f1", "--references", "{}"]
    yield "eval attribute", "references", refer, "jsonl", "references.jsonl"
    yield "data show", "task", ["data", "show", "{}"], "yaml", "task.yaml"
    yield "data export", "task", ["data", "export", "{}", "out"], "yaml", "task.yaml"


def path_slots(w: World) -> Iterator[tuple[str, str, list[str]]]:
    """Command, what is named, and the call, where a folder, a model or a place to write is named."""
    embed, base, tiny, job = str(w.adapters["embed"]), str(w.base), str(w.tiny), str(w.job)
    texts, pairs, asked = (str(w.folder / name) for name in ("texts.jsonl", "pairs.jsonl", "asked.jsonl"))
    scored, turns = str(w.folder / "scored.jsonl"), str(w.folder / "turns.jsonl")
    for verb in ("show", "verify"):
        yield f"adapter {verb}", "folder", ["adapter", verb, "{}"]
    for verb in ("merge", "export"):
        yield f"adapter {verb}", "folder", ["adapter", verb, "{}", "--out=out"]
        yield f"adapter {verb}", "base", ["adapter", verb, embed, "--out=out", "--base", "{}"]
    yield "adapter verify", "base", ["adapter", "verify", embed, "--base", "{}"]
    yield "embed encode", "adapter", ["embed", "encode", "{}", texts, "--out=v.npy"]
    yield "embed encode", "base", ["embed", "encode", embed, texts, "--out=v.npy", "--base", "{}"]
    yield "embed search", "adapter", ["embed", "search", "{}", "sail", "--task", tiny]
    yield "rerank score", "reranker", ["rerank", "score", "{}", scored]
    yield "rerank score", "task", ["rerank", "score", base, str(w.folder / "ranked.run"), "--out=o", "--task", "{}"]
    for stage in ("embed", "rerank"):
        recipe = str(w.folder / f"{stage}-recipe.yaml")
        yield f"{stage} train", "base", [stage, "train", recipe, "--out=out", "--dry-run", "--set", "base={}"]
    yield "plan", "base", ["plan", str(w.folder / "embed-recipe.yaml"), "--set", "base={}"]
    yield "rewrite run", "rewriter", ["rewrite", "run", "{}", "--turns", turns]
    yield "rewrite run", "base", ["rewrite", "run", str(w.adapters["rewrite"]), "--turns", turns, "--base", "{}"]
    yield "answer run", "answerer", ["answer", "run", "{}", "--out=out", "--questions", asked]
    yield "answer run", "task", ["answer", "run", str(w.adapters["answer"]), "--out=out", "--task", "{}"]
    yield "answer measure", "answerer", ["answer", "measure", "{}", "--out=out", "--questions", asked]
    yield "answer measure", "its questions", ["answer", "measure", "{}", "--out=out"]
    yield "judge run", "judge", ["judge", "run", "{}", "--out=out", "--pairs", pairs]
    yield "judge run", "base", ["judge", "run", str(w.adapters["judge"]), "--out=out", "--pairs", pairs, "--base", "{}"]
    yield (
        "judge run",
        "made by",
        ["judge", "run", str(w.adapters["judge"]), "--out=out", "--pairs", pairs, "--made-by", "{}"],
    )
    yield "judge merge", "shard", ["judge", "merge", job, "{}", "--out=out"]
    yield "judge agree", "job", ["judge", "agree", "{}", "--out=out"]
    yield "judge agree", "named job", ["judge", "agree", "a={}", "--out=out"]
    yield "judge calibrate", "job", ["judge", "calibrate", "{}", "--out=f.json"]
    yield "judge export", "job", ["judge", "export", "{}", "o.csv"]
    yield "data check", "folder", ["data", "check", "{}"]
    yield "data check", "queries file", ["data", "check", tiny, "--queries-file", "{}"]
    yield "data check", "labels", ["data", "check", tiny, "--qrels-folder", "{}"]
    yield "eval attribute", "config", ["eval", "attribute", "{}"]


def out_slots(w: World) -> Iterator[tuple[str, list[str]]]:
    """Command and the call, where a place to write is named that cannot be written."""
    recipe = str(w.folder / "judge-recipe.yaml")
    for stage in ("embed", "rerank", "rewrite", "answer", "judge"):
        yield f"{stage} train", [stage, "train", str(w.folder / f"{stage}-recipe.yaml"), "--out", "{}"]
    yield "judge export", ["judge", "export", str(w.job), "{}"]
    yield "judge calibrate", ["judge", "calibrate", str(w.job), "--out", "{}"]
    yield "judge merge", ["judge", "merge", str(w.job), "--out", "{}"]
    yield "eval run", ["eval", "run", str(w.folder / "suite.yaml"), "--out", "{}"]
    yield "eval attribute", ["eval", "attribute", str(w.folder / "pipeline.yaml"), "--out", "{}"]
    yield "data export", ["data", "export", str(w.tiny), "{}"]
    yield "data check", ["data", "check", str(w.tiny), "--rejected", "{}"]
    yield "data fetch", ["data", "fetch", "beir/nothing", "--out", "{}"]
    yield "adapter merge", ["adapter", "merge", "gone", "--out", "{}"]
    yield "demo", ["demo", "--out", "{}"]
    yield "answer run", ["answer", "run", "gone", "--questions", "gone", "--out", "{}"]
    assert recipe


def _fill(call: list[str], value: str) -> list[str]:
    return [part.replace("{}", value) for part in call]


def cases(w: World, *, mutations: int = 6) -> Iterator[Case]:
    """Every case, in an order that does not change."""
    for command, what, call, form, name in slots(w):
        for fault, make in PATHS.items():
            yield Case(command, f"{what}, {fault}", _names(call, make), "path")
        for fault, content in FAULTS[form].items():
            named = "" if what == "queries" else name  # any line is a query there
            yield Case(command, f"{what}, {form}: {fault}", _writes(call, name, content), named)
    for command, what, call in path_slots(w):
        for fault, make in PATHS.items():
            yield Case(command, f"{what}, {fault}", _names(call, make), "path")
    for command, call in out_slots(w):
        for fault in ("nobodys home", "a long name", "links in a circle", "below a file", "a nul", "an empty file"):
            yield Case(command, f"out, {fault}", _names(call, PATHS[fault]))
    yield from _folder_cases(w)
    yield from _mutated_cases(w, mutations)
    yield from _value_cases(w)


SOME = 11
"""One case in so many is called in the tests; with a prime number each command meets other faults."""
_SLOW = ("adapter verify", "adapter merge", "adapter export")


def some_cases(w: World) -> Iterator[Case]:
    """A part of the cases that takes less than a minute."""
    for number, case in enumerate(cases(w)):
        if number % (SOME**2 if case.command in _SLOW else SOME) == 3:
            yield case


def _names(call: list[str], make: Callable[[Path], str]) -> Callable[[Path], list[str]]:
    return lambda room: _fill(call, make(room))


def _writes(call: list[str], name: str, content: bytes) -> Callable[[Path], list[str]]:
    def prepare(room: Path) -> list[str]:
        (room / name).write_bytes(content)
        return _fill(call, str(room / name))

    return prepare


def _form(name: str) -> str:
    suffix = name.rpartition(".")[2]
    return {"json": "json", "jsonl": "jsonl", "npy": "npy", "safetensors": "safetensors"}.get(suffix, "table")


def _breaks(
    source: Path, name: str, content: bytes | None, call: list[str], *, marked: bool
) -> Callable[[Path], list[str]]:
    """Copy a folder, put `content` in place of one file (None: a folder of its name), and mark it complete again."""

    def prepare(room: Path) -> list[str]:
        from searchtune.storage.marker import mark_complete

        copy = room / "copy"
        shutil.copytree(source, copy)
        (copy / name).unlink()
        if content is None:
            (copy / name).mkdir()
        else:
            (copy / name).write_bytes(content)
        if marked:
            mark_complete(copy)
        return _fill(call, str(copy))

    return prepare


def _folder_cases(w: World) -> Iterator[Case]:
    """Folders in which one file is broken: adapters, bases, jobs, collections."""
    for kind, adapter in w.adapters.items():
        for name in sorted(path.name for path in adapter.iterdir() if path.is_file()):
            marker = name == "COMPLETE.json"
            for fault, content in FAULTS[_form(name)].items():
                label = f"{kind} {name}: {fault}"
                for verb in ("show", "verify") if name not in _LATE else ("show",):
                    call = ["adapter", verb, "{}"]
                    yield Case(f"adapter {verb}", label, _breaks(adapter, name, content, call, marked=not marker))
    yield from _use_cases(w)
    for name in ("job.json", "pairs.jsonl", "journal.jsonl"):
        for fault, content in FAULTS[_form(name)].items():
            for verb, more in (("calibrate", ["--out=f.json"]), ("export", ["o.csv"])):
                call = ["judge", verb, "{}", *more]
                yield Case(f"judge {verb}", f"{name}: {fault}", _breaks(w.job, name, content, call, marked=False), name)
            call = ["judge", "merge", "{}", "--out=out"]
            yield Case("judge merge", f"{name}: {fault}", _breaks(w.job, name, content, call, marked=False))
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        for fault, content in FAULTS["table" if name.endswith("tsv") else "jsonl"].items():
            for command in (["data", "check"], ["data", "show"]):
                call = [*command, "{}"]
                label = f"{name}: {fault}"
                yield Case(" ".join(command), label, _breaks(w.tiny, name, content, call, marked=False))
        for command in (["data", "check"], ["data", "show"]):
            call = [*command, "{}"]
            yield Case(" ".join(command), f"{name}: a folder", _breaks(w.tiny, name, None, call, marked=False))


_LATE = {"tokenizer.json", "tokenizer_config.json", "adapter_model.safetensors", "adapter_config.json"}
"""Files that only a library opens, which takes longer: some cases of each."""


def _use_cases(w: World) -> Iterator[Case]:
    texts, pairs = str(w.folder / "texts.jsonl"), str(w.folder / "pairs.jsonl")
    uses = {
        "embed": [["embed", "encode", "{}", texts, "--out=v.npy"], ["adapter", "verify", "{}"]],
        "judge": [["judge", "run", "{}", "--pairs", pairs, "--out=out"], ["adapter", "verify", "{}"]],
    }
    for kind, calls in uses.items():
        for name in sorted(_LATE | {"modules.json", "1_Pooling/config.json"}):
            if not (w.adapters[kind] / name).is_file():
                continue
            for i, (fault, content) in enumerate(FAULTS[_form(name)].items()):
                call = calls[i % len(calls)]
                prepare = _breaks(w.adapters[kind], name, content, call, marked=True)
                yield Case(" ".join(call[:2]), f"{kind} {name}: {fault}", prepare)
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
    ):
        for fault, content in FAULTS[_form(name)].items():
            if not (w.base / name).is_file():
                continue
            call = ["plan", str(w.folder / "embed-recipe.yaml"), "--set", "base={}"]
            yield Case("plan", f"base {name}: {fault}", _breaks(w.base, name, content, call, marked=False))
            call = ["rerank", "score", "{}", str(w.folder / "scored.jsonl")]
            yield Case("rerank score", f"base {name}: {fault}", _breaks(w.base, name, content, call, marked=False))
            call = ["embed", "train", str(w.folder / "embed-recipe.yaml"), "--out=o", "--dry-run", "--set", "base={}"]
            yield Case("embed train", f"base {name}: {fault}", _breaks(w.base, name, content, call, marked=False))


def _mutated(value: Any, rng: random.Random) -> Any:
    """A copy in which one place, key or value, is something odd."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    copy = json.loads(json.dumps(value))
    walk(copy)
    node, key = rng.choice(places)
    how = rng.random()
    if how < 0.15:
        del node[key]
    elif how < 0.25 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    else:
        node[key] = rng.choice(ODD)
    return copy


def _mutated_cases(w: World, count: int) -> Iterator[Case]:
    """Sound files in which one value is odd: they must be refused by name, or be taken."""
    rng = random.Random(5)
    for command, what, call, form, name in slots(w):
        stem = {"fitted.json": "calibration.json", "task.yaml": "task.yaml"}.get(name, name)
        if stem == "recipe.yaml":
            stem = f"{call[0] if call[0] != 'plan' else 'embed'}-recipe.yaml"
        sound = next((w.folder / one for one in (stem, f"{what}.jsonl") if (w.folder / one).is_file()), None)
        if sound is None or form == "table":
            continue
        text = sound.read_text()
        for i in range(count * (3 if form == "yaml" else 1)):
            if form == "jsonl":
                rows = [json.loads(line) for line in text.splitlines()]
                rows[-1] = _mutated(rows[-1], rng)
                content = "".join(json.dumps(row) + "\n" for row in rows)
            elif form == "json":
                content = json.dumps(_mutated(json.loads(text), rng))
            else:
                content = json.dumps(_mutated(yaml.safe_load(text), rng))
            yield Case(command, f"{what}, mutated {i}", _writes(call, name, content.encode()))
    for kind, adapter in w.adapters.items():
        for name in ("adapter_card.json", "adapter_config.json", "COMPLETE.json"):
            for i in range(count):
                content = json.dumps(_mutated(json.loads((adapter / name).read_text()), rng)).encode()
                verb = "show" if name == "COMPLETE.json" or i % 3 else "verify"
                prepare = _breaks(adapter, name, content, ["adapter", verb, "{}"], marked=name != "COMPLETE.json")
                yield Case(f"adapter {verb}", f"{kind} {name}, mutated {i}", prepare)
    for i in range(3 * count):
        content = json.dumps(_mutated(json.loads((w.job / "job.json").read_text()), rng)).encode()
        call = ["judge", "calibrate", "{}", "--out=f.json"] if i % 2 else ["judge", "agree", "{}", "--out=out"]
        yield Case(
            " ".join(call[:2]), f"job.json, mutated {i}", _breaks(w.job, "job.json", content, call, marked=False)
        )


def _value_cases(w: World) -> Iterator[Case]:
    """Odd values of settings and options."""
    for stage in ("embed", "rerank", "judge", "rewrite", "answer"):
        for setting in SETTINGS:
            call = [stage, "train", str(w.folder / f"{stage}-recipe.yaml"), "--out=o", "--set", setting]
            if stage in ("embed", "rerank"):
                call.append("--dry-run")
            yield Case(f"{stage} train", f"--set {setting[:30]!r}", _same(call))
    for setting in SETTINGS[::2]:
        yield Case(
            "plan", f"--set {setting[:30]!r}", _same(["plan", str(w.folder / "embed-recipe.yaml"), "--set", setting])
        )
        yield Case(
            "eval run",
            f"--set {setting[:30]!r}",
            _same(["eval", "run", str(w.folder / "suite.yaml"), "--out=o", "--set", setting]),
        )
        call = ["pipeline", "run", str(w.folder / "pipeline.yaml"), "-q", "x", "--set", setting]
        yield Case("pipeline run", f"--set {setting[:30]!r}", _same(call))
    for command, option, call in _options(w):
        for value in OPTION_VALUES:
            yield Case(command, f"{option} {value[:12]!r}", _same([*call, f"{option}={value}"]))
    junk = {
        "a file": "x",
        "nobodys home": "~nobody-of-this-name",
        "a long name": LONG,
        "no name": "",
        "a device": "/dev/null",
    }
    for variable in ("SEARCHTUNE_CACHE", "SEARCHTUNE_DATA"):
        for fault, value in junk.items():
            for call in (
                ["cache", "info"],
                ["cache", "prune", "--all", "--yes"],
                ["doctor"],
                ["data", "show", "pystdlibx"],
            ):
                if call != ["doctor"]:
                    yield Case(
                        " ".join(call[:2]), f"{variable}, {fault}", _same(call), environment=((variable, value),)
                    )


def _same(call: list[str]) -> Callable[[Path], list[str]]:
    return lambda room: call


def _options(w: World) -> Iterator[tuple[str, str, list[str]]]:
    """Every option that takes a value, on a call that would otherwise name something that is not there."""
    import typer

    from searchtune.cli.main import COMMANDS, load_command

    calls = {"eval score": ["gone", "gone"], "eval compare": ["gone", "gone"], "judge merge": ["gone"]}
    for noun in COMMANDS:
        found = load_command(noun)
        for verb, command in getattr(found, "commands", {"": found}).items():
            name = f"{noun} {verb}".strip()
            arguments = calls.get(name, ["gone" for one in command.params if one.param_type_name == "argument"])
            if name in ("doctor", "demo", "cache info", "cache prune", "data list", "data fetch"):
                continue
            for option in command.params:
                if option.param_type_name == "option" and not option.is_flag and option.name != "help":
                    yield name, option.opts[0], [*name.split(), *arguments]
    assert typer


_REMEDIES = (
    ";",
    "did you mean",
    "Usage",
    "expected",
    "name ",
    "choose ",
    "pip install",
    "train one",
    "it has:",
    "requires",
)
"""What a message has that says what to do."""


class HungError(BaseException):
    """A command that does not come back."""


def _give_up(*_: object) -> None:
    raise HungError


@dataclass(frozen=True)
class Outcome:
    """What a case came to."""

    case: Case
    code: int
    output: str
    error: BaseException | None

    @property
    def fault(self) -> str:  # noqa: PLR0911
        """What is wrong with it; empty where nothing is."""
        if self.error is not None and not isinstance(self.error, SystemExit):
            return f"{type(self.error).__name__}: {str(self.error)[:80]}"
        if "Traceback" in self.output or "Aborted" in self.output:
            return "a traceback or 'Aborted'"
        if self.code == 1 and self.case.command not in ("data check", "eval gate", "doctor"):
            return "exit 1"
        if self.code not in (0, 1, 2):
            return f"exit {self.code}"
        if self.code == 0 and self.case.named and self.case.fault.rpartition(": ")[2] not in HARMLESS:
            return "taken"
        if self.code == 2 and not self.output.strip():
            return "no word"
        plain = " ".join(self.output.split())
        if self.code == 2 and "mutated" not in self.case.fault and not any(sign in plain for sign in _REMEDIES):
            return f"no remedy: {plain[:80]}"
        if self.code == 2 and self.case.named not in ("", "path") and self.case.named not in plain:
            return f"no file named: {plain[:80]}"
        return ""


def run(case: Case, room: Path) -> Outcome:
    """Call the command in this process, in an empty folder."""
    from typer.testing import CliRunner

    from searchtune.cli.main import app

    room.mkdir(parents=True)
    work = room / "work"
    work.mkdir()
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(work)
    (work / "x").write_text("x")
    os.environ.update(case.environment)
    try:
        args = case.prepare(room)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(LONGEST)
        found = CliRunner().invoke(app, args, input="", prog_name="searchtune")
        return Outcome(case, found.exit_code, found.output, found.exception)
    except HungError as error:
        return Outcome(case, -1, "", error)
    finally:
        signal.alarm(0)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(room, ignore_errors=True)


def _main() -> None:
    import tempfile
    import time

    from searchtune.workflows import finish, measure
    from searchtune.workflows.adapter import verify_adapter
    from searchtune.workflows.embed import train_embedding
    from unit.workflows.conftest import small_recipe

    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    os.environ.update(HF_HUB_OFFLINE="1", SEARCHTUNE_CACHE=str(folder / "cache"))
    base = support.write_bert(folder / "bert")
    finish.verify_in_fresh_process = verify_adapter
    measure.write_page = lambda report, file: None
    trained = train_embedding(small_recipe(support.write_collection(folder / "train-on"), base), folder / "run")
    world = build(folder / "world", trained.adapter, base)
    total, bad, seconds = Counter(), Counter(), Counter()
    first, step = (int(part) for part in (sys.argv[1] if len(sys.argv) > 1 else "0/1").split("/"))
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    for number, case in enumerate(cases(world)):
        if wanted not in case.name or number % step != first:
            continue
        start = time.perf_counter()
        outcome = run(case, folder / "rooms" / str(number))
        took = time.perf_counter() - start
        total[case.command] += 1
        seconds[case.command] += took
        if outcome.fault or took > 3:
            bad[case.command] += bool(outcome.fault)
            sys.stdout.write(f"{case.name} -> {outcome.fault} [{took:.1f} s]\n")
            sys.stdout.flush()
    for command in sorted(total):
        sys.stdout.write(f"{command:24} {total[command]:5} cases {bad[command]:5} at fault {seconds[command]:6.1f} s\n")
    sys.stdout.write(f"{'all':24} {total.total():5} cases {bad.total():5} at fault\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    _main()
