"""Groups for a reranker: which negatives are mined, and that draws are complete, repeatable and rightly labelled."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.data.examples import KnownRelevance
from searchtune.data.groups import GroupSampler, GroupShape, PairScores, batches, mine_ranking_negatives
from searchtune.errors import ConfigError, DataError
from searchtune.specs.recipe import HardNegatives
from searchtune.types import NO_DOC, Qrels, Run

QUERIES, DOCS = 4, 12


def qrels(labels):
    """From query -> document -> grade."""
    triples = [(query, doc, grade) for query, row in labels.items() for doc, grade in row.items()]
    return Qrels.from_triples(*np.array(triples, dtype=np.int64).reshape(-1, 3).T)


def mine(labels, *, min_grade=1, docs=(0, 1, 2, 3, 4, 5), doc_groups=range(DOCS), queries=(0,), **window):
    train = qrels(labels)
    relevant = train.relevant(min_grade)
    known = KnownRelevance(np.arange(QUERIES), np.array(doc_groups), relevant)
    scores = np.where(np.array(docs) == NO_DOC, -np.inf, 0.9 - 0.1 * np.arange(len(docs))).astype(np.float32)
    run = Run(np.array(queries), np.array([docs] * len(queries)), np.array([scores] * len(queries)))
    window = HardNegatives(**{"first_rank": 3, "last_rank": 4, "margin": 0.0, **window})
    found = mine_ranking_negatives(run, train, relevant, known, window)
    return {query: pool.tolist() for query, pool in found.items()}


def test_judged_documents_count_at_any_rank_and_in_rank_order():
    assert mine({0: {1: 1}}) == {0: [3, 4]}
    assert mine({0: {1: 1, 0: 0, 5: 0}}) == {0: [0, 3, 4, 5]}
    assert mine({0: {1: 1, 0: 0, 4: 0}}, margin=0.99) == {0: [0, 4]}, "no margin for what somebody looked at"


def test_what_the_run_did_not_find_is_no_negative():
    assert mine({0: {1: 1, 9: 0}}, docs=(0, 1, NO_DOC)) == {0: []}
    assert mine({0: {1: 1}}, docs=(NO_DOC, NO_DOC)) == {0: []}


def test_grades_below_the_smallest_relevant_one_are_negatives_unless_nobody_judged():
    assert mine({0: {1: 2, 0: 1, 5: -1}}, min_grade=2, first_rank=4) == {0: [0, 4]}


def test_a_judged_document_with_a_relevant_text_is_no_negative():
    assert mine({0: {1: 1, 0: 0}}, doc_groups=[1, 1, *range(2, DOCS)]) == {0: [4, 5]}


def test_queries_without_labels():
    assert mine({1: {1: 1, 5: 0}}, queries=(0, 1, 3)) == {0: [2, 3], 1: [3, 4, 5], 3: [2, 3]}
    assert mine({}, queries=(0,)) == {0: [2, 3]}


LABELS = {0: {0: 2, 1: 1, 2: 1, 3: 0}, 1: {4: 1}, 2: {5: 2, 6: 0}, 3: {7: 1}}
POOLS = {0: np.array([3, 8, 9, 10]), 1: np.array([8, 9, 10, 11, 0]), 2: np.array([6])}


def sampler(labels=LABELS, pools=POOLS, *, min_grade=1, seed=5, teacher=None, **shape):
    shape = GroupShape(**{"negatives": 3, **shape})
    return GroupSampler(qrels(labels), pools, shape, min_grade=min_grade, seed=seed, teacher=teacher)


def rows(groups):
    """Query and document -> label for each group."""
    return [
        (int(query), dict(zip(docs.tolist(), labels.tolist(), strict=True)))
        for query, docs, labels in zip(
            groups.queries,
            np.split(groups.docs, groups.offsets[1:-1]),
            np.split(groups.labels, groups.offsets[1:-1]),
            strict=True,
        )
    ]


def test_one_group_a_positive():
    drawn = sampler()
    groups = drawn.epoch(0)
    assert sorted(groups.queries.tolist()) == [0, 0, 0, 1, 2]
    assert drawn.left_out == 1, "query 3 has no negative"
    assert len(drawn) == len(groups) == 5
    seen = []
    for query, documents in rows(groups):
        positives = [doc for doc, label in documents.items() if label]
        assert len(positives) == 1
        assert positives[0] == next(iter(documents)), "the positive comes first"
        assert LABELS[query][positives[0]] > 0
        seen.append((query, positives[0]))
        negatives = set(documents) - set(positives)
        assert negatives <= set(POOLS[query].tolist())
        assert len(negatives) == min(3, len(POOLS[query]))
    assert sorted(seen) == [(0, 0), (0, 1), (0, 2), (1, 4), (2, 5)]
    assert groups.labels.dtype == np.float32
    assert groups.row_queries.tolist() == [query for query, documents in rows(groups) for _ in documents]
    assert groups.teacher is None


def test_epochs_differ_and_repeat():
    def flat(groups):
        return [groups.queries.tolist(), groups.offsets.tolist(), groups.docs.tolist(), groups.labels.tolist()]

    one = sampler()
    epochs = [flat(one.epoch(number)) for number in range(4)]
    assert epochs[2] == flat(sampler().epoch(2)), "whatever was drawn before"
    assert len({str(epoch) for epoch in epochs}) == 4
    assert flat(sampler(seed=6).epoch(0)) != epochs[0]
    turned = {query: pool[::-1] for query, pool in POOLS.items()}
    assert flat(sampler(pools=turned).epoch(1)) == epochs[1]
    assert len({tuple(epoch[0]) for epoch in epochs}) > 1, "groups are shuffled"


def test_another_process_draws_the_same():
    code = (
        "import numpy as np\n"
        "from searchtune.data.groups import GroupSampler, GroupShape\n"
        "from searchtune.types import Qrels\n"
        "labels = Qrels.from_triples(np.arange(40) % 8, np.arange(40), np.ones(40, np.int64))\n"
        "pools = {q: np.arange(100, 130) for q in range(8)}\n"
        "print(GroupSampler(labels, pools, GroupShape(), seed=3).epoch(7).docs.tolist())\n"
    )
    answers = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(answers) == 1
    assert len(answers.pop()) > 100


def test_graded_labels_are_those_of_every_judged_document():
    for query, documents in rows(sampler(graded=True, negatives=9).epoch(1)):
        for doc, label in documents.items():
            assert label == LABELS[query].get(doc, 0) / 2
    strict = [
        documents for query, documents in rows(sampler({0: {0: 4, 1: 1, 9: -1}}, {0: [1, 9]}, min_grade=2).epoch(0))
    ]
    assert strict == [{0: 1, 1: 0, 9: 0}]
    graded = sampler({0: {0: 4, 1: 1, 9: -1}}, {0: [1, 9]}, min_grade=2, graded=True)
    assert rows(graded.epoch(0)) == [(0, {0: 1, 1: 0.25, 9: 0})]


def test_several_positives_share_a_group():
    groups = rows(sampler(positives_per_group=2, negatives=2).epoch(0))
    sizes = sorted((query, sum(map(bool, documents.values())), len(documents)) for query, documents in groups)
    assert sizes == [(0, 1, 3), (0, 2, 4), (1, 1, 3), (2, 1, 2)]
    assert {doc for query, documents in groups if query == 0 for doc, y in documents.items() if y} == {0, 1, 2}


def test_positives_and_repeats_in_a_pool_are_left_out():
    drawn = sampler({0: {0: 1, 1: 1}}, {0: np.array([0, 1, 5, 5, 5])}, negatives=9).epoch(0)
    assert [set(documents) for _, documents in rows(drawn)] in ([{0, 5}, {1, 5}], [{1, 5}, {0, 5}])
    assert len(drawn.docs) == 4


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_every_draw_is_sound(data):
    labels = data.draw(
        st.dictionaries(
            st.integers(0, 3), st.dictionaries(st.integers(0, 11), st.integers(-1, 3), min_size=1), min_size=1
        )
    )
    pools = data.draw(st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 11), max_size=6)))
    most, together = data.draw(st.integers(1, 3)), 1
    together = data.draw(st.integers(1, most))
    shape = {"positives_per_query": most, "positives_per_group": together, "negatives": data.draw(st.integers(1, 4))}
    positives = {q: {d for d, grade in row.items() if grade >= 1} for q, row in labels.items()}
    useful = {q for q, docs in positives.items() if docs and set(pools.get(q, ())) - docs}
    as_arrays = {q: np.array(pool, dtype=np.int64) for q, pool in pools.items()}
    if not useful:
        with pytest.raises(DataError, match="no training group"):
            sampler(labels, as_arrays, **shape)
        return
    drawn = sampler(labels, as_arrays, **shape)
    groups = drawn.epoch(data.draw(st.integers(0, 3)))
    assert set(groups.queries.tolist()) == useful
    assert len(groups) == len(drawn)
    assert drawn.left_out == sum(bool(docs) for docs in positives.values()) - len(useful)
    found = {q: [] for q in useful}
    for query, documents in rows(groups):
        right = [doc for doc, y in documents.items() if y == 1]
        assert 1 <= len(right) <= together
        wrong = set(documents) - set(right)
        assert wrong <= set(pools[query]) - positives[query]
        assert len(wrong) == min(shape["negatives"], len(set(pools[query]) - positives[query]))
        found[query] += right
    for query, docs in found.items():
        assert len(docs) == len(set(docs)) == min(most, len(positives[query]))
        assert set(docs) <= positives[query]
    assert len(groups.docs) == sum(len(documents) for _, documents in rows(groups)), "no document twice in a group"


def test_batches_are_consecutive_groups():
    groups = sampler(teacher=teacher_for(LABELS, POOLS)).epoch(0)
    parts = list(batches(groups, 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [row for part in parts for row in rows(part)] == rows(groups)
    assert np.concatenate([part.teacher for part in parts]).tolist() == groups.teacher.tolist()
    assert all(part.offsets[0] == 0 and part.offsets[-1] == len(part.docs) for part in parts)
    assert len(list(batches(groups, 99))) == 1
    assert not list(batches(groups.part(0, 0), 2))
    with pytest.raises(ConfigError, match="batch_size 0"):
        list(batches(groups, 0))


def teacher_for(labels, pools, without=()):
    pairs = {(q, d) for q, row in labels.items() for d in row} | {
        (q, int(d)) for q, pool in pools.items() for d in pool
    }
    pairs = np.array(sorted(pairs - set(without)), dtype=np.int64).reshape(-1, 2)
    return PairScores(pairs[:, 0], pairs[:, 1], (pairs[:, 0] * 100 + pairs[:, 1]).astype(np.float32))


def test_teacher_scores_follow_their_pairs():
    drawn = sampler(teacher=teacher_for(LABELS, POOLS))
    groups = drawn.epoch(3)
    assert groups.teacher.dtype == np.float32
    assert groups.teacher.tolist() == (groups.row_queries * 100 + groups.docs).tolist()
    drawn.check_teacher([*"abcd"], [str(doc) for doc in range(DOCS)])


def test_a_pair_without_a_teacher_score_is_named():
    lacking = sampler(teacher=teacher_for(LABELS, POOLS, without={(0, 9), (2, 5)}))
    assert np.isnan(lacking.epoch(0).teacher).any()
    ids = [f"d{doc}" for doc in range(DOCS)]
    with pytest.raises(DataError, match=r"no score for 2 of 15 training pairs") as caught:
        lacking.check_teacher([*"abcd"], ids)
    assert caught.value.problems == ("query 'c' document 'd5'", "query 'a' document 'd9'")
    with pytest.raises(DataError, match=r"15 of 15 .*; \.\.\."):
        sampler().check_teacher([*"abcd"], ids)
    never_drawn = sampler(teacher=teacher_for(LABELS, POOLS, without={(3, 7)}))
    never_drawn.check_teacher([*"abcd"], ids)


def test_scores_of_pairs():
    queries, docs = np.array([5, 0, 5, 5, 0]), np.array([1, 2, 1, 0, 0])
    scores = PairScores(queries, docs, np.array([1.5, -1, 1.5, np.nan, np.inf], np.float32))
    found = scores.at(np.array([5, 0, 5, 0, 0, 4]), np.array([1, 2, 0, 0, 5, 4]))
    assert found.tolist()[:2] == [1.5, -1]
    assert np.isnan(found[2:]).all(), "a document beyond all known ones is not the next query's"
    nothing = PairScores(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert np.isnan(nothing.at(np.array([1]), np.array([2]))).all()
    with pytest.raises(DataError, match="query 5 and document 1 .* two scores, 1 and 2"):
        PairScores(np.array([5, 5]), np.array([1, 1]), np.array([1, 2], np.float32))


@pytest.mark.parametrize(
    ("labels", "pools", "message"),
    [
        ({}, {}, "none of 0 judged queries"),
        ({0: {1: 0}}, {0: [2]}, "none of 1 judged queries has a document of grade 1"),
        ({0: {1: 1}, 1: {1: 1}}, {0: []}, "none of 2 queries with a relevant document has a negative"),
        ({0: {1: 1}}, {0: [1]}, "mine deeper"),
    ],
)
def test_no_group_at_all(labels, pools, message):
    with pytest.raises(DataError, match=message):
        sampler(labels, pools)


@pytest.mark.parametrize(
    "shape",
    [{"negatives": 0}, {"positives_per_query": 0}, {"positives_per_group": 0}, {"positives_per_group": 5}],
)
def test_impossible_shapes(shape):
    with pytest.raises(ConfigError, match="each is at least 1"):
        GroupShape(**shape)
