"""Token stores for tests of models."""

from __future__ import annotations

import pytest

import support


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The small world's documents and queries: 5 to 17 words."""
    return [f"{title} {text}" for title, text in support.documents().values()] + [q.text for q in support.queries()]
