"""Hybrids of a run's report: fitted on dev where that holds enough queries, told where they hurt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from searchtune.evaluation import build_report, verdict
from searchtune.types import Collection, Qrels
from searchtune.workflows import measure as module
from searchtune.workflows.measure import Subject, Vectors, measure

DOCS, HALF = 80, 40
DIM = 16


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "build_report", lambda evidence, seed: build_report(evidence, seed=seed, rounds=400))
    monkeypatch.setattr(module, "write_page", lambda report, path: None)


def collection() -> Collection:
    """Query i asks for document i in the words of two others; the first half are test queries, the second dev."""
    every = np.arange(DOCS)
    ones = np.ones(HALF, np.int64)
    return Collection(
        name="words",
        doc_ids=[f"d{i}" for i in every],
        titles=[""] * DOCS,
        texts=[f"this document speaks of subject{i} and nothing else" for i in every],
        query_ids=[f"q{i}" for i in every],
        query_texts=[f"subject{(i + 1) % DOCS} subject{(i + 2) % DOCS}" for i in every],
        qrels={
            "test": Qrels.from_triples(every[:HALF], every[:HALF], ones),
            "dev": Qrels.from_triples(every[HALF:], every[HALF:], ones),
        },
        fingerprint="f" * 64,
    )


def vectors(noise: float) -> Vectors:
    """Of a dense system that finds everything without noise, and nothing with much of it."""
    rng = np.random.default_rng(2)
    documents = rng.normal(size=(DOCS, DIM))
    queries = documents + noise * rng.normal(size=(DOCS, DIM))

    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return Vectors(unit(documents), unit(queries[:HALF]), dev=unit(queries[HALF:]), query_ms=[1.0])


def subject(**changes) -> Subject:
    found = collection()
    plain = Subject(found, "test", vectors(1.0), vectors(0.3), np.arange(0), dev=found.qrels["dev"])
    return replace(plain, **changes)


def test_a_hybrid_fitted_on_dev_is_not_worse_than_its_parts(tmp_path):
    report = measure(subject(), tmp_path, seed=1)
    assert report.estimate("bm25").mean < 0.1
    assert report.estimate("hybrid-tuned").mean > report.estimate("tuned").mean - 0.01 > 0.9
    assert "tuned, fitted on 40 dev queries" in report.costs["hybrid-tuned"]["fusion"]
    assert list(report.fusions) == ["hybrid", "hybrid-tuned"]
    assert [it.a for it in report.fusions["hybrid"]] == ["bm25", "base"]
    assert report.costs["hybrid"]["search_ms_per_query"] > report.costs["base"]["search_ms_per_query"] > 1


@pytest.mark.parametrize("most", [0, 10])
def test_reciprocal_ranks_stay_without_enough_dev_and_their_harm_is_told(tmp_path, most):
    plain = subject()
    dev = plain.dev.select(np.arange(HALF) < most) if most else None
    base, tuned = (replace(part, dev=part.dev[:most]) for part in (plain.base, plain.tuned))
    report = measure(replace(plain, dev=dev, base=base, tuned=tuned), tmp_path, seed=1)
    assert report.costs["hybrid-tuned"]["fusion"] == "reciprocal ranks"
    assert report.estimate("hybrid-tuned").mean < 0.8
    assert any(text.startswith("Fusing hurts: hybrid-tuned is worse than tuned alone") for text in verdict(report))


def test_queries_of_another_language_than_the_documents_end_no_run(tmp_path):
    found = replace(collection(), query_texts=[f"sujet{i}" for i in range(DOCS)])
    report = measure(subject(collection=found), tmp_path, seed=1)
    assert report.costs["hybrid-tuned"]["fusion"] == "reciprocal ranks, since bm25 finds nothing for dev"
    assert report.estimate("hybrid-tuned").mean == report.estimate("tuned").mean
