"""The contrastive objectives against loops written by hand."""

import math

import numpy as np
import pytest
import torch

from searchtune.data.beir import read_beir
from searchtune.data.examples import KnownRelevance, text_groups
from searchtune.specs.recipe import ContrastiveObjective, HardNegatives
from searchtune.training.contrastive import (
    FixedDocumentContrastive,
    InBatchContrastive,
    PairBatch,
    Pairs,
    contrastive_loss,
    info_nce,
)
from searchtune.types import Qrels
from unit.training.tiny import open_world, random_negatives


def by_hand(anchors, candidates, own, known, temperature):
    """Mean over anchors of -log softmax, in float64, one number after the other."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        scores = {
            j: math.exp(sum(a * c for a, c in zip(anchor, candidate, strict=True)) / temperature)
            for j, candidate in enumerate(candidates)
            if j == own[i] or not known[i][j]
        }
        total -= math.log(scores[own[i]] / sum(scores.values()))
    return total / len(anchors)


def units(rows, dim, seed):
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def lists(tensor):
    return tensor.double().tolist()


@pytest.fixture(scope="module")
def world(tiny_model, small_world):
    return open_world(tiny_model, small_world, negatives=random_negatives(read_beir(small_world)))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_info_nce(temperature):
    anchors, candidates = units(4, 6, 0), units(7, 6, 1)
    own = torch.tensor([2, 0, 6, 2])
    known = torch.zeros(4, 7, dtype=torch.bool)
    known[0, 2] = True  # its own place counts although it is known to be relevant
    for i, best in enumerate((anchors @ candidates.T).argmax(dim=1)):
        known[i, best] = True
    expected = by_hand(lists(anchors), lists(candidates), own.tolist(), known.tolist(), temperature)
    assert info_nce(anchors, candidates, own, known, temperature).item() == pytest.approx(expected, rel=1e-5)
    unmasked = info_nce(anchors, candidates, own, torch.zeros_like(known), temperature).item()
    assert unmasked > expected + 1e-4, "a candidate that is left out makes the task easier"


def test_one_candidate_costs_nothing():
    known = torch.ones(2, 1, dtype=torch.bool)
    assert info_nce(units(2, 4, 0), units(1, 4, 1), torch.zeros(2, dtype=torch.int64), known, 0.05).item() == 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sizes", [[], [6, 4, 2]])
def test_contrastive_loss(symmetric, sizes):
    queries, documents = units(3, 6, 0), units(5, 6, 1)
    known = torch.zeros(3, 5, dtype=torch.bool)
    known[0, 1] = known[1, 4] = True
    expected = []
    for size in sizes or [6]:
        left, right = queries[:, :size], documents[:, :size]
        left, right = left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True)
        loss = by_hand(lists(left), lists(right), [0, 1, 2], known.tolist(), 0.1)
        if symmetric:  # mined negatives are no anchors
            back = by_hand(lists(right[:3]), lists(left), [0, 1, 2], known[:, :3].T.tolist(), 0.1)
            loss = (loss + back) / 2
        expected.append(loss)
    spec = ContrastiveObjective(temperature=0.1, symmetric=symmetric, matryoshka=sizes)
    assert contrastive_loss(queries, documents, known, spec).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_in_batch_contrastive_is_its_parts(world):
    spec = ContrastiveObjective(temperature=0.1, hard_negatives=HardNegatives(per_query=2))
    objective = world.objective(spec)
    batch = next(objective.batches(0))
    assert len(batch.queries) == len(batch.docs) == 12
    assert len(batch.negatives) > 5
    vectors = world.encoder.encode_store(world.tokens)
    queries = torch.from_numpy(vectors[batch.queries])
    docs = np.concatenate([batch.docs, batch.negatives])
    documents = torch.from_numpy(vectors[len(world.collection.query_ids) + docs])
    labels = {
        (int(q), int(d)) for q, d in zip(world.pairs.relevant.label_queries, world.pairs.relevant.docs, strict=True)
    }
    known = [[(int(q), int(d)) in labels for d in docs] for q in batch.queries]
    own = list(range(12))
    there = by_hand(lists(queries), lists(documents), own, known, 0.1)
    back = by_hand(lists(documents[:12]), lists(queries), own, np.array(known)[:, :12].T.tolist(), 0.1)
    assert sum(map(sum, known)) > 12, "some other candidate is known to be relevant"
    assert objective.loss(batch).item() == pytest.approx((there + back) / 2, rel=1e-4)


def test_equal_texts_are_no_negatives(world):
    """Two documents with one text: the one without a label is left out too, and two queries with one text share labels."""
    relevant = Qrels.from_triples(np.array([0, 1]), np.array([0, 1]), np.array([1, 1]))
    known = KnownRelevance(np.array([0, 1, 0]), text_groups(["Same  text", "other", "same TEXT ", "third"]), relevant)
    assert known.mask(np.array([0, 1, 2]), np.arange(4)).tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
    ]
    tighter = Pairs(world.pairs.relevant, known)
    spec = ContrastiveObjective(symmetric=False)
    objective = InBatchContrastive(world.encoder, world.texts(), tighter, spec, batch_size=2, seed=0)
    batch = PairBatch(np.array([0, 1]), np.array([0, 1]), np.array([2]))
    vectors = world.encoder.encode_store(world.tokens)
    queries, documents = vectors[:2], vectors[len(world.collection.query_ids) + np.arange(3)]
    expected = by_hand(queries.tolist(), documents.tolist(), [0, 1], [[0, 0, 1], [0, 0, 0]], spec.temperature)
    assert objective.loss(batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sizes", [[], [32, 8]])
@pytest.mark.parametrize("candidates", ["batch", "positives", "corpus"])
def test_fixed_documents(world, candidates, sizes):
    spec = ContrastiveObjective(
        temperature=0.1, candidates=candidates, matryoshka=sizes, hard_negatives=HardNegatives(per_query=2)
    )
    all_vectors = torch.nn.functional.normalize(torch.randn(40, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
    documents = np.arange(40)
    if candidates != "corpus":
        documents = np.unique(np.concatenate([world.pairs.relevant.docs, *world.pairs.negatives.values()]))
    objective = FixedDocumentContrastive(
        world.encoder,
        world.texts(),
        world.pairs,
        spec,
        documents=documents,
        vectors=all_vectors[documents].numpy(),
        batch_size=8,
        seed=0,
    )
    batch = next(objective.batches(0))
    docs = np.unique(np.concatenate([batch.docs, batch.negatives])) if candidates == "batch" else documents
    queries = torch.from_numpy(world.encoder.encode_store(world.tokens, batch.queries))
    labels = {
        (int(q), int(d)) for q, d in zip(world.pairs.relevant.label_queries, world.pairs.relevant.docs, strict=True)
    }
    known = [[(int(q), int(d)) in labels for d in docs] for q in batch.queries]
    own = [docs.tolist().index(int(doc)) for doc in batch.docs]
    expected = []
    for size in sizes or [32]:
        left, right = queries[:, :size], all_vectors[docs][:, :size]
        left, right = left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True)
        expected.append(by_hand(lists(left), lists(right), own, known, 0.1))
    loss = objective.loss(batch)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)
    loss.backward()
    assert not objective.vectors.requires_grad


def test_batches_are_the_same_whenever_asked(world):
    spec = ContrastiveObjective(hard_negatives=HardNegatives(per_query=2))
    first, second = world.objective(spec), world.objective(spec)

    def drawn(objective, epoch):
        return [(b.queries.tolist(), b.docs.tolist(), b.negatives.tolist()) for b in objective.batches(epoch)]

    assert drawn(first, 0) == drawn(second, 0) == drawn(first, 0)
    assert drawn(first, 0) != drawn(first, 1)
    assert drawn(world.objective(spec, seed=4), 0) != drawn(first, 0)
    assert len(drawn(first, 0)) == first.steps_per_epoch() == 6  # 72 pairs, 12 a batch


def test_a_last_batch_of_one_pair_is_left_out(world):
    spec = ContrastiveObjective()
    assert world.objective(spec, batch_size=71).steps_per_epoch() == 1
    assert world.objective(spec, batch_size=70).steps_per_epoch() == 2
    assert [len(b.queries) for b in world.objective(spec, batch_size=70).batches(0)] == [70, 2]


def test_mined_negatives_of_a_batch(world):
    spec = ContrastiveObjective(hard_negatives=HardNegatives(per_query=2))
    for batch in world.objective(spec).batches(0):
        pools = [set(world.pairs.negatives[int(q)].tolist()) for q in batch.queries]
        assert set(batch.negatives.tolist()) <= set.union(*pools)
        assert len(batch.negatives) == len(set(batch.negatives.tolist()))
    plain = world.objective(ContrastiveObjective())
    assert all(not len(batch.negatives) for batch in plain.batches(0))
