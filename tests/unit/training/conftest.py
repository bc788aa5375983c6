"""The small world, read once for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

import support


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny collection's folder. Read only."""
    return support.write_collection(tmp_path_factory.mktemp("small-world") / "small")
