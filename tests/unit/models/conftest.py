"""Token stores for tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

import support
from unit.models.causal import write_causal


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The small world's documents and queries: 5 to 17 words."""
    return [f"{title} {text}" for title, text in support.documents().values()] + [q.text for q in support.queries()]


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 3 layers and 64 dimensions with an output layer of its own. Read only."""
    return write_causal(tmp_path_factory.mktemp("tiny-causal"), tie_word_embeddings=False)
