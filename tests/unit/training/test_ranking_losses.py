"""The losses on padded groups against loops over plain numbers, and what padding, order and odd groups may not change."""

import math
import warnings
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ConfigError
from searchtune.training.ranking_losses import (
    graded_regression,
    kl_distillation,
    lambda_loss,
    listwise_softmax,
    margin_mse,
    pad_groups,
    pairwise_margin,
    pointwise_bce,
)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce_by_hand(scores, labels):
    return mean(
        -y * math.log(sigmoid(s)) - (1 - y) * math.log(1 - sigmoid(s)) for s, y in zip(scores, labels, strict=True)
    )


def regression_by_hand(scores, labels):
    return mean((sigmoid(s) - y) ** 2 for s, y in zip(scores, labels, strict=True))


def pairs_by_hand(scores, labels, hinge=None):
    leads = [scores[i] - scores[j] for i, j in permutations(range(len(scores)), 2) if labels[i] > labels[j]]
    return mean(math.log(1 + math.exp(-d)) if hinge is None else max(0, hinge - d) for d in leads)


def listwise_by_hand(scores, labels):
    wrong = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    right = [(s, y) for s, y in zip(scores, labels, strict=True) if y > 0]
    if not wrong or not right:
        return None
    costs = [-y * math.log(math.exp(s) / (math.exp(s) + sum(map(math.exp, wrong)))) for s, y in right]
    return sum(costs) / sum(y for _, y in right)


def dcg(labels, k):
    return sum(y / math.log2(1 + rank) for rank, y in enumerate(labels[:k], start=1))


def lambda_by_hand(scores, labels, k=None, mu=10.0):
    """The weights from nDCG itself: rank, swap two documents, rank again."""
    if len(set(labels)) < 2:
        return None
    k = k or len(labels)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], labels[i]))
    ideal = dcg(sorted(labels, reverse=True), k)
    total = 0.0
    for a, b in combinations(range(len(order)), 2):  # ranks, from 0
        i, j = order[a], order[b]
        swapped = list(order)
        swapped[a], swapped[b] = j, i
        weight = abs(dcg([labels[x] for x in swapped], k) - dcg([labels[x] for x in order], k)) / ideal
        if min(a, b) < k:
            step = 1 / math.log2(1 + b - a) - 1 / math.log2(2 + b - a)
            weight += mu * step * abs(labels[i] - labels[j]) / ideal
        lead = (scores[i] - scores[j]) * (1 if labels[i] > labels[j] else -1)
        total += weight * math.log2(1 + math.exp(-lead))
    return total


def margin_mse_by_hand(scores, teacher):
    return mean(
        ((scores[i] - scores[j]) - (teacher[i] - teacher[j])) ** 2 for i, j in combinations(range(len(scores)), 2)
    )


def softmax(values, temperature):
    weights = [math.exp(v / temperature) for v in values]
    return [w / sum(weights) for w in weights]


def kl_by_hand(scores, teacher, temperature=1.0):
    if len(scores) < 2:
        return None
    own, wanted = softmax(scores, temperature), softmax(teacher, temperature)
    return temperature**2 * sum(p * math.log(p / q) for p, q in zip(wanted, own, strict=True))


LOSSES = {
    "pointwise_bce": (pointwise_bce, bce_by_hand),
    "graded_regression": (graded_regression, regression_by_hand),
    "ranknet": (pairwise_margin, pairs_by_hand),
    "hinge": (partial(pairwise_margin, hinge=0.7), partial(pairs_by_hand, hinge=0.7)),
    "listwise_softmax": (listwise_softmax, listwise_by_hand),
    "ndcg-loss2++": (lambda_loss, lambda_by_hand),
    "ndcg-loss2++@2": (partial(lambda_loss, k=2, mu=3.0), partial(lambda_by_hand, k=2, mu=3.0)),
    "lambdarank": (partial(lambda_loss, weights="lambdarank"), partial(lambda_by_hand, mu=0.0)),
    "lambdarank@1": (partial(lambda_loss, weights="lambdarank", k=1), partial(lambda_by_hand, mu=0.0, k=1)),
    "lambdarank@50": (partial(lambda_loss, weights="lambdarank", k=50), partial(lambda_by_hand, mu=0.0)),
    "margin_mse": (margin_mse, margin_mse_by_hand),
    "kl_distillation": (kl_distillation, kl_by_hand),
    "kl_distillation 2.5": (partial(kl_distillation, temperature=2.5), partial(kl_by_hand, temperature=2.5)),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
TARGETS = [0.0, 0.0, 0.5, 1.0]
DOCUMENT = st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), st.sampled_from(TARGETS))
GROUPS = st.lists(st.lists(DOCUMENT, max_size=6), min_size=1, max_size=4)


def padded(groups, fill=math.nan, spare=0):
    """Groups of (score, target), with anything at all in the padding."""
    width = max(map(len, groups), default=0) + spare
    rows = [[*group, *[(fill, fill)] * (width - len(group))] for group in groups]
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(groups), width, 2)
    mask = torch.tensor([[i < len(group) for i in range(width)] for group in groups], dtype=torch.bool)
    return values[..., 0].clone(), values[..., 1].clone(), mask.reshape(len(groups), width)


def with_gradient(loss, scores, targets, mask):
    scores = scores.clone().requires_grad_()
    value = loss(scores, targets, mask)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.item(), gradient


@every_loss
@settings(deadline=None, max_examples=12)
@given(groups=GROUPS, fill=st.sampled_from([math.nan, math.inf, 7.0]), spare=st.integers(0, 2))
def test_every_loss_is_its_loop(name, groups, fill, spare):
    loss, by_hand = LOSSES[name]
    found, gradient = with_gradient(loss, *padded(groups, fill, spare))
    costs = [by_hand(*zip(*group, strict=True)) if group else None for group in groups]
    active = [cost for cost in costs if cost is not None]
    assert found == pytest.approx(mean(active) or 0.0, rel=1e-6, abs=1e-8)
    assert gradient.isfinite().all()
    for row, group, cost in zip(gradient, groups, costs, strict=True):
        assert not row[len(group) :].any(), "padding moves nothing"
        assert cost is not None or not row.any(), "a group with nothing to say moves nothing"


def example(seed=0, groups=3, width=6):
    """Groups of 6, 5 and 4 documents, scores all different and off the kinks; each with its own grades."""
    random = np.random.default_rng(seed)
    labels = [0.0, 1.0, 0.0, 0.5, 0.0, 1.0]
    return padded([[(float(random.normal()), labels[(i + j) % 6]) for j in range(width - i)] for i in range(groups)])


@every_loss
def test_gradients_are_those_of_small_steps(name):
    scores, targets, mask = example()
    scores = scores.nan_to_num(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name][0](s, targets, mask), (scores,))


@every_loss
def test_the_order_of_documents_and_of_groups_does_not_matter(name):
    scores, targets, mask = example()
    scores[0, :3] = 0.5  # equal scores with different labels
    value, gradient = with_gradient(LOSSES[name][0], scores, targets, mask)
    columns, rows = torch.tensor([4, 0, 5, 2, 1, 3]), torch.tensor([2, 0, 1])
    moved = [x[rows][:, columns] for x in (scores, targets, mask)]
    again, moved_gradient = with_gradient(LOSSES[name][0], *moved)
    assert again == pytest.approx(value, rel=1e-12)
    if "++" not in name and "lambda" not in name:
        assert torch.allclose(moved_gradient, gradient[rows][:, columns], atol=1e-12)


@every_loss
def test_following_the_gradient_brings_scores_into_order(name):
    _, targets, mask = padded([[(0.0, y) for y in (0.0, 1.0, 0.5, 0.0)], [(0.0, 1.0), (0.0, 0.0)]])
    scores = torch.zeros(targets.shape, dtype=torch.float64, requires_grad=True)
    before = LOSSES[name][0](scores, targets, mask).item()
    optimiser = torch.optim.SGD([scores], lr=0.5)
    for _ in range(20):
        optimiser.zero_grad()
        LOSSES[name][0](scores, targets, mask).backward()
        optimiser.step()
    assert LOSSES[name][0](scores, targets, mask).item() < before
    first, second = scores.detach().tolist()
    assert first[1] > max(first[0], first[3])
    assert first[2] > max(first[0], first[3])
    assert second[0] > second[1]
    if "listwise" not in name and "@1" not in name:
        assert first[1] > first[2], "the better grade comes first"


@every_loss
def test_nothing_to_say_is_a_loss_of_zero_that_can_be_followed(name):
    for groups in ([[]], [[], []], [[(3.0, 0.5)]]):
        if groups[0] and name in ("pointwise_bce", "graded_regression"):
            continue
        value, gradient = with_gradient(LOSSES[name][0], *padded(groups, spare=2))
        assert value == 0
        assert not gradient.any()
    empty = torch.zeros(0, 3)
    assert LOSSES[name][0](empty, empty, empty.bool()).item() == 0


@pytest.mark.parametrize("name", ["ranknet", "hinge", "listwise_softmax", "ndcg-loss2++", "lambdarank"])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_groups_of_one_label_leave_the_others_as_they_are(name, label):
    useful = [(0.2, 1.0), (0.9, 0.0), (-1.0, 0.0)]
    alone, gradient = with_gradient(LOSSES[name][0], *padded([useful]))
    with warnings.catch_warnings(action="ignore"), torch.autograd.detect_anomaly():  # no NaN on the way either
        joined, both = with_gradient(LOSSES[name][0], *padded([[(5.0, label), (-5.0, label)], useful]))
    assert joined == pytest.approx(alone)
    assert torch.allclose(both[1], gradient[0])
    assert not both[0].any()


@every_loss
def test_scores_far_apart_give_finite_losses(name):
    scores, targets, mask = padded([[(-3e4, 1.0), (3e4, 0.0), (0.0, 0.5)]])
    value, gradient = with_gradient(LOSSES[name][0], scores.float(), targets.float(), mask)
    assert math.isfinite(value)
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(name, dtype):
    scores, targets, mask = example()
    scores = scores.to(dtype)
    loss = LOSSES[name][0](scores, targets.float(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSSES[name][0](scores.double(), targets, mask).item(), rel=1e-4)


def test_other_relevant_documents_are_no_competition():
    scores, labels, mask = padded([[(0.0, 1.0), (9.0, 1.0), (0.0, 0.0)]])
    expected = (math.log(2) + math.log(1 + math.exp(-9))) / 2
    assert listwise_softmax(scores, labels, mask).item() == pytest.approx(expected)


def test_a_teacher_moved_by_a_constant_teaches_the_same():
    scores, teacher, mask = example()
    for loss in (margin_mse, kl_distillation):
        assert loss(scores, teacher + 40, mask).item() == pytest.approx(loss(scores, teacher, mask).item())
        assert loss(teacher - 3, teacher, mask).item() == pytest.approx(0, abs=1e-12)


def test_wrong_options():
    scores, labels, mask = example()
    for options, message in (
        ({"weights": "lambdamart"}, "unknown weights 'lambdamart' of lambda_loss; did you mean 'lambdarank'"),
        ({"k": 0}, "k = 0"),
        ({"mu": -1.0}, "mu = -1.0"),
        ({"mu": math.nan}, "mu = nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            lambda_loss(scores, labels, mask, **options)
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="temperature"):
            kl_distillation(scores, labels, mask, temperature=temperature)
    with pytest.raises(ValueError, match=r"scores \(3, 6\), targets \(3, 5\)"):
        pointwise_bce(scores, labels[:, :5], mask)
    with pytest.raises(ValueError, match=r"torch.float64"):
        pointwise_bce(scores, labels, mask.double())


def test_padding_groups():
    values = torch.arange(1.0, 6, requires_grad=True)
    rows, mask = pad_groups(values, torch.tensor([0, 2, 2, 5]))
    assert rows.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert mask.sum(dim=1).tolist() == [2, 0, 3]
    (rows * torch.tensor([[1, 2, 3]])).sum().backward()
    assert values.grad.tolist() == [1, 2, 1, 2, 3]
    for offsets in ([0], [0, 0]):
        rows, mask = pad_groups(torch.zeros(0), torch.tensor(offsets))
        assert rows.shape == mask.shape == (len(offsets) - 1, 0)
