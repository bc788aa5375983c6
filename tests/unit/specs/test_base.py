"""Reading specs: what is wrong is named by file, key and value, with the fix."""

from typing import Literal

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.base import Spec, apply_overrides, parse_spec, read_yaml


class Inner(Spec):
    lr: float = 1e-3
    schedule: Literal["linear", "cosine"] = "linear"


class Outer(Spec):
    name: str
    optim: Inner = Inner()
    sizes: list[int] = []


def test_defaults_and_values():
    spec = parse_spec(Outer, {"name": "x", "optim": {"lr": 2e-4}}, "x.yaml")
    assert spec == Outer(name="x", optim=Inner(lr=2e-4))


def test_specs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").name = "y"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nam": "x"}, "x.yaml: unknown key 'nam'; did you mean 'name'?"),
        ({}, "x.yaml: key 'name' is missing"),
        ({"name": "x", "optim": {"shedule": 1}}, "unknown key 'optim.shedule'; did you mean 'schedule'?"),
        ({"name": "x", "optim": {"lr": float("inf")}}, "optim.lr: input should be a finite number"),
        ({"name": "x", "optim": {"zzzzz": 1}}, "unknown key 'optim.zzzzz'; known: lr, schedule"),
        ({"name": "x", "optim": {"lr": "fast"}}, "optim.lr: input should be a valid number"),
        ({"name": "x", "optim": {"lr": "fast"}}, "(found 'fast')"),
        ({"name": "x", "optim": {"schedule": "linea"}}, "optim.schedule: input should be 'linear' or 'cosine'"),
        ({"name": "x", "optim": 3}, "optim: input should be a valid dictionary"),
        ({"name": "x", "sizes": [1, "two"]}, "sizes.1: input should be a valid integer"),
    ],
)
def test_what_is_wrong_is_named(data, message):
    with pytest.raises(ConfigError) as caught:
        parse_spec(Outer, data, "x.yaml")
    assert message in str(caught.value)


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_spec(Outer, {"nam": 1, "optim": {"lr": "x"}}, "x.yaml")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML: .*line"),
        (b"a: 1\n\tb: 2", "not valid YAML"),
        (b"a: 1\nb: 2\na: 3", "key 'a' comes twice.*line 3"),
        (b"? [a]\n: 1", "not valid YAML: .*unhashable"),
        (b"b: {a: 1, a: 2}", "key 'a' comes twice"),
        (b"- a\n- b", "expected `key: value` lines, found list"),
        (b"", "found nothing"),
        (b"a: \xff", "not UTF-8 at byte 3; save the file as UTF-8"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_unreadable_yaml(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"(?s)x.yaml: .*{message}"):
        read_yaml(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read .No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read .Is a directory"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=1e-4", {"lr": 1e-4}),
        ("lr=0.5", {"lr": 0.5}),
        ("n=3", {"n": 3}),
        ("on=true", {"on": True}),
        ("none=null", {"none": None}),
        ("sizes=[256, 64]", {"sizes": [256, 64]}),
        ("name=a=b", {"name": "a=b"}),
        ("name=", {"name": None}),
        ("optim.lr=2", {"optim": {"lr": 2}}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
    ],
)
def test_overrides(override, expected):
    assert apply_overrides({}, [override]) == expected


def test_overrides_go_in_order_and_leave_the_input_alone():
    data = {"optim": {"lr": 1, "epochs": 2}}
    assert apply_overrides(data, ["optim.lr=3", "optim.lr=4", "seed=1"]) == {
        "optim": {"lr": 4, "epochs": 2},
        "seed": 1,
    }
    assert data == {"optim": {"lr": 1, "epochs": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "expected KEY=VALUE, for instance --set optim.lr=1e-4"),
        ("=3", "expected KEY=VALUE"),
        ("name.deep=1", "'name' holds 'x', not further keys"),
        ("sizes=[1", "not valid YAML"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"name": "x"}, [override])
    assert message in str(caught.value)
    assert repr(override) in str(caught.value)
