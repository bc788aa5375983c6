"""What all charts of the page are made with. They name no colours: the page's script gives them those of its theme."""

from __future__ import annotations

from typing import Any, cast

import altair as alt
import numpy as np

Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def chart() -> alt.Chart:
    """A chart whose rows `spec` puts in: altair would copy and check each of them."""
    return alt.Chart(alt.NamedData("rows"))


def spec(drawn: Any, rows: Rows, description: str) -> Spec:
    """The spec without altair's own theme, described for screen readers.

    It is not checked against the schema here, which takes half of a page's time: the tests do that.
    """
    described = cast(Spec, drawn.properties(description=description).to_dict(validate=False))
    return {key: value for key, value in described.items() if key != "config"} | {"data": {"values": rows}}


def thin(rows: Rows, most: int) -> Rows:
    """At most `most` rows, evenly spaced, first and last included."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
