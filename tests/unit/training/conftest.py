"""The small world, read once for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

import support
from unit.models.causal import write_causal


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny collection's folder. Read only."""
    return support.write_collection(tmp_path_factory.mktemp("small-world") / "small")


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 3 layers and 64 dimensions with an output layer of its own. Read only."""
    return write_causal(tmp_path_factory.mktemp("tiny-llm"), tie_word_embeddings=False)
