"""Fixtures for all tests. Nothing here reaches the network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SEARCHTUNE_CACHE"] = tempfile.mkdtemp(prefix="searchtune-cache-")

import pytest

import support


@pytest.fixture
def tiny_collection(tmp_path: Path) -> Path:
    """A BEIR folder: 40 documents, 60 queries, graded labels for train (36), dev (12) and test (12)."""
    return support.write_collection(tmp_path / "tiny-collection")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with a random BERT: 4 layers, 32 dimensions. Read only."""
    return support.write_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def tiny_llama_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a random Llama: 2 layers, 32 dimensions. Read only."""
    return support.write_llama(tmp_path_factory.mktemp("tiny-llama"))
