"""Whether a chart's rows hold what its marks encode: the frame of a chart is drawn even where nothing stands inside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def encodings(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every channel that reads a field, of all layers."""
    for channel, told in spec.get("encoding", {}).items():
        for one in told if isinstance(told, list) else [told]:
            if isinstance(one, Mapping) and isinstance(one.get("field"), str):
                yield channel, one
    for layer in spec.get("layer", ()):
        yield from encodings(layer)


def undrawn(spec: Mapping[str, Any]) -> list[str]:
    """What would leave marks out: no rows, a field that rows lack, or one that is no finite number where one is drawn."""
    rows = spec["data"]["values"]
    found = [] if rows else ["no rows"]
    told = list(encodings(spec))
    kinds = {one["field"]: one["type"] for _, one in told if "type" in one}
    for channel, one in told:
        kind = one.get("type") or ("quantitative" if channel in ("x2", "y2") else kinds.get(one["field"], "nominal"))
        for row in rows:
            value = row.get(one["field"])
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            name = isinstance(value, str | int | float | bool)
            if not (number if kind == "quantitative" else name):
                found.append(f"{channel}: {one['field']} is {value!r}")
                break
    return found if told else [*found, "nothing is encoded"]


def colours_of(spec: Mapping[str, Any], field: str = "system") -> dict[str, str]:
    """Name -> colour of whatever the chart tells apart by that field."""
    for channel, one in encodings(spec):
        scale = one.get("scale") or {}
        if channel == "color" and one["field"] == field and "range" in scale:
            return dict(zip(scale["domain"], scale["range"], strict=True))
    return {}
