"""YAML as plain values: texts, numbers, truth values, lists and mappings, each key once; all else is refused."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

from searchtune.errors import ConfigError
from searchtune.reading import check_characters, shown

MOST_BYTES = 4 << 20
"""Of a recipe, task, suite or pipeline; what is larger is another file, and YAML is slow to read."""
_MOST_NODES = 100_000
"""Of a document with its aliases written out: a few lines of aliases can stand for billions of values."""
_MOST_DEPTH = 64
_LARGEST = 2**63


class _PlainLoader(yaml.SafeLoader):
    """Refuses values that are not plain, and a key that comes twice, of which YAML would silently take the later."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested more than {_MOST_DEPTH} deep; write it flatter", self.get_mark()
            )
        found = super().compose_node(parent, index)
        self._depth -= 1
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise _problem(f"key {shown(key.value)!r} comes twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            what = f"{shown(node.value)!r} ({shown(error)})" if isinstance(node, yaml.ScalarNode) else shown(error)
            raise _problem(f"a value that cannot be read: {what}; put it in quotes if a text is meant", node) from error
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(value, node)
        elif not isinstance(node, yaml.MappingNode | yaml.SequenceNode) or node.tag not in _TAGS:
            raise _problem(f"a {node.tag.rpartition(':')[2]}, where only lists and mappings are taken", node)
        return value


_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; `source` is the file or option that messages name.

    Raises:
        ConfigError: no YAML, or a value that is not plain: a date, a set, bytes, NaN, a number beyond 64 bits, a tag of
            another language; a key that comes twice; aliases that stand for too much or for themselves; deep nesting.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{source}: {len(text):,} characters, and no recipe is as long; name the right file")
    loader = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        value = loader.construct_document(node)
        check_characters(value)
        return value
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_told(error)}; correct it") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply; write it flatter") from error
    except ValueError as error:
        raise ConfigError(f"{source}: not valid YAML: {shown(error)}; correct it") from error
    finally:
        if loader is not None:
            loader.dispose()


def _told(error: yaml.YAMLError) -> str:
    """What the parser says, without the control characters and endless lines that may stand in its excerpt."""
    lines = str(error).splitlines()
    return "\n".join(shown(line) for line in lines[:8])


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _check_scalar(value: Any, node: yaml.ScalarNode) -> None:
    plain = value is None or isinstance(value, str | bool | int | float)
    if not plain:
        raise _problem(f"{shown(node.value)!r} is a {type(value).__name__} in YAML; put it in quotes", node)
    if isinstance(value, float) and not math.isfinite(value):
        raise _problem(f"{shown(node.value)!r} is no finite number; write one, or put it in quotes", node)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise _problem(f"{shown(node.value)!r} is beyond 64 bits; write a smaller number, or put it in quotes", node)


def _check_size(root: yaml.Node) -> None:
    """Count nodes with aliases written out, each node once; a node within itself is an error."""
    sizes: dict[int, int] = {}
    within: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in within:
            raise _problem("an alias that stands for what it is in; write the value out", node)
        if id(node) not in sizes:
            within.add(id(node))
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            inner = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
            sizes[id(node)] = 1 + sum(map(size, inner))
            within.discard(id(node))
        if sizes[id(node)] > _MOST_NODES:
            raise _problem(f"aliases that stand for more than {_MOST_NODES:,} values; write out what is meant", node)
        return sizes[id(node)]

    size(root)
