"""The base of all specs, and reading one from YAML: overrides, and errors that name the key, the value and the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from searchtune.errors import ConfigError, did_you_mean


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a recipe with two `optim:` blocks is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


AnySpec = TypeVar("AnySpec", bound=Spec)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a `ConfigError` that names the file and the line."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(data).__name__}")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `dotted.key=value` of `overrides` set; values are read as YAML."""
    result = _copy(data)
    for item in overrides:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {item!r}: expected KEY=VALUE, for instance --set optim.lr=1e-4")
        node = result
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {item!r}: {parent!r} holds {child!r}, not further keys")
            node = child
        try:
            node[leaf] = _number(yaml.safe_load(raw))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item!r}: the value is not valid YAML: {error}") from error
    return result


def parse_spec(spec: type[AnySpec], data: Mapping[str, Any], source: str) -> AnySpec:
    """Check `data` against `spec`. `source` is the file or command that the error message will name."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        lines = [f"{source}: {_explain(spec, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explain(spec: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(path[-1], _fields_at(spec, path[:-1]))}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    return f"{key}: {problem['msg'].lower()} (found {problem['input']!r})"


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
