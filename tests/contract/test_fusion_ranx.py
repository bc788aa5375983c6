"""Fusion against ranx on runs without ties.

ranx gives a document that a list lacks a z-score of 0, the mean of those found; here it is the lowest (see
`retrieval.fusion`). Where no list lacks a document the two rank alike.
"""

import numpy as np
import pytest

from searchtune.retrieval.fusion import fuse
from searchtune.types import Run

ranx = pytest.importorskip("ranx")

CASES = [
    ("rrf", "none", None, {"method": "rrf", "norm": None, "params": {"k": 60}}),
    ("combsum", "min-max", None, {"method": "sum", "norm": "min-max"}),
    ("combmnz", "min-max", None, {"method": "mnz", "norm": "min-max"}),
    ("combmax", "min-max", None, {"method": "max", "norm": "min-max"}),
    ("combsum", "rank", None, {"method": "sum", "norm": "rank"}),
    ("combsum", "min-max", (0.3, 0.7), {"method": "wsum", "norm": "min-max", "params": {"weights": (0.3, 0.7)}}),
]


@pytest.mark.slow
def test_scores_are_those_of_ranx():
    random = np.random.default_rng(0)
    docs = [np.argsort(random.random((6, 30)), axis=1)[:, :12] for _ in range(2)]
    runs = [
        Run.ranked(np.arange(6), each, random.normal(size=each.shape) * scale)
        for each, scale in zip(docs, (9, 0.2), strict=True)
    ]

    def theirs(run):
        rows = zip(run.docs.tolist(), run.scores.astype(float).tolist(), strict=True)
        return ranx.Run({f"q{i}": {f"d{d}": s for d, s in zip(*row, strict=True)} for i, row in enumerate(rows)})

    for method, normalisation, weights, options in CASES:
        expected = ranx.fuse(runs=[theirs(run) for run in runs], **options).to_dict()
        fused = fuse(runs, method, normalisation=normalisation, weights=weights)
        for i, row in enumerate(expected.values()):
            found = {
                f"d{d}": s for d, s in zip(fused.docs[i].tolist(), fused.scores[i].tolist(), strict=True) if d >= 0
            }
            assert found == pytest.approx(row, abs=1e-5), (method, normalisation)


@pytest.mark.slow
def test_z_scores_rank_as_those_of_ranx_where_no_document_is_missing():
    random = np.random.default_rng(1)
    docs = np.argsort(random.random((6, 12)), axis=1)
    runs = [Run.ranked(np.arange(6), docs, random.normal(size=docs.shape) * scale) for scale in (9, 0.2)]
    named = [
        ranx.Run(
            {
                f"q{i}": {f"d{d}": float(s) for d, s in zip(*row, strict=True)}
                for i, row in enumerate(zip(run.docs.tolist(), run.scores.tolist(), strict=True))
            }
        )
        for run in runs
    ]
    theirs = ranx.fuse(runs=named, method="sum", norm="zmuv").to_dict()
    ours = fuse(runs, "combsum", normalisation="z-score")
    for i, row in enumerate(theirs.values()):
        found = [f"d{doc}" for doc in ours.docs[i].tolist() if doc >= 0]
        assert found == sorted(row, key=row.get, reverse=True)
