"""The base of all specs, and reading one from YAML: overrides, and errors that name the key, the value and the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.reading import Refusal, read_json_object, read_text, shown
from searchtune.specs.yaml_text import parse_yaml


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


_DEEPEST = 8
"""Keys within each other that an override may name."""
_SHOWN = 12

AnySpec = TypeVar("AnySpec", bound=Spec)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a `ConfigError` that names the file and the line."""
    data = parse_yaml(read_text(path, ConfigError), shown(path))
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{shown(path)}: expected `key: value` lines, found {found}; name a file that has them")
    return data


def read_spec(path: Path, spec: type[AnySpec], what: str, error: Refusal = DataError) -> AnySpec:
    """What a JSON file holds, as a spec; `what` it should be is for the message.

    Raises:
        error: the file cannot be read, is no JSON object, or says something else than the spec asks for.
    """
    try:
        return spec.model_validate(read_json_object(path, error, what))
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        message = f"{shown(place)}: {first['msg'].lower()}"
        raise error(f"{shown(path)}: not {what}: {message}; name another file, or write it again") from problem


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `dotted.key=value` of `overrides` set; values are read as YAML."""
    result = _copy(data)
    for item in overrides:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {shown(item)!r}: expected KEY=VALUE, for instance --set optim.lr=1e-4")
        node = result
        *parents, leaf = key.strip().split(".")
        if len(parents) > _DEEPEST:
            raise ConfigError(f"--set {shown(item)!r}: {len(parents)} keys within each other; no recipe is as deep")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {shown(item)!r}: {parent!r} holds {shown(repr(child))}, not further keys")
            node = child
        node[leaf] = _number(parse_yaml(raw, f"--set {shown(item)!r}"))
    return result


def parse_spec(spec: type[AnySpec], data: Mapping[str, Any], source: str) -> AnySpec:
    """Check `data` against `spec`. `source` is the file or command that the error message will name."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        lines = [f"{source}: {_explain(spec, problem)}" for problem in error.errors()[:_SHOWN]]
        if error.error_count() > _SHOWN:
            lines.append(f"... and {error.error_count() - _SHOWN:,} more")
        raise ConfigError("\n".join(lines)) from error


def _explain(spec: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shown(key)!r}{did_you_mean(path[-1], _fields_at(spec, path[:-1]))}"
    if problem["type"] == "missing":
        return f"key {shown(key)!r} is missing; add it"
    return f"{shown(key)}: {problem['msg'].lower()} (found {shown(repr(problem['input']))}); correct it"


def _fields_at(spec: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that are allowed at a place inside a spec; empty where the place is not a nested spec."""
    for part in path:
        field = spec.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        spec = inner
    return list(spec.model_fields)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; read it as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}
