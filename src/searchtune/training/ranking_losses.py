"""Losses of a reranker, on padded groups: a group is one query with several documents, a row of the tensors.

Each takes scores, labels (or a teacher's scores) and a mask, all of shape (groups, width), and returns one number: the
mean over the groups that have something to say. What a group needs for that stands with each loss; the others add
neither to the loss nor to any gradient, and where no group is left the loss is 0 with a gradient of 0.

Labels are gains in [0, 1], above 0 where the document is relevant. The mask is true where there is a document; what
stands elsewhere is not looked at and may be NaN. No loss depends on the order of documents in a group. Scores in half
precision are taken to float32 first.

This module knows no model, no text and no query.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from searchtune.errors import ConfigError, did_you_mean

LambdaWeights = Literal["ndcg-loss2++", "lambdarank"]
"""What a pair weighs in `lambda_loss`."""


def pad_groups(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Groups that lie one behind the other, as padded rows and their mask; gradients pass through.

    Group `i` is `values[offsets[i]:offsets[i + 1]]`; the padding is 0.

    Shape: values (rows,), offsets (groups + 1,) -> (groups, width) twice, where width is the largest group's size.
    """
    sizes = offsets.diff().to(values.device)  # (groups,)
    width = int(sizes.max()) if len(sizes) else 0
    mask = torch.arange(width, device=values.device) < sizes[:, None]  # (groups, width)
    return values.new_zeros(mask.shape).masked_scatter(mask, values), mask


def pointwise_bce(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) against the label, averaged over each group's documents, then groups.

    A label between 0 and 1 is a soft target. A group needs a document. Shape: (groups, width) each -> ().
    """
    scores, labels = _clean(scores, labels, mask)
    losses = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return _mean(_row_mean(losses, mask), mask.any(dim=1))


def graded_regression(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Squared distance of sigmoid(score) from the label, averaged over each group's documents, then over groups.

    A group needs a document. Shape: (groups, width) each -> ().
    """
    scores, labels = _clean(scores, labels, mask)
    return _mean(_row_mean((scores.sigmoid() - labels) ** 2, mask), mask.any(dim=1))


def pairwise_margin(scores: Tensor, labels: Tensor, mask: Tensor, *, hinge: float | None = None) -> Tensor:
    """How far pairs with different labels stand in the wrong order, averaged over each group's pairs, then over groups.

    log(1 + exp(-d)) for a pair whose better document scores d more than the other (RankNet, Burges et al. 2005, ICML);
    with `hinge` max(0, hinge - d). A group needs two documents with different labels.

    Shape: (groups, width) each -> ().
    """
    scores, labels = _clean(scores, labels, mask)
    lead = _differences(scores)  # (groups, width, width)
    losses = functional.softplus(-lead) if hinge is None else (hinge - lead).clamp(min=0)
    pairs = _ordered_pairs(labels, mask)
    return _mean(_row_mean(losses.flatten(1), pairs.flatten(1)), pairs.any(dim=2).any(dim=1))


def listwise_softmax(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of finding each relevant document among the group's documents that are not relevant.

    A relevant document competes with those of label 0 alone: the group's other relevant ones are left out of its
    softmax. Over the relevant documents the mean is weighted by label. With one of them this is the localised
    contrastive loss (Gao et al. 2021, arXiv:2101.08751) and ListNet's top-one loss (Cao et al. 2007, ICML).
    A group needs a document of label 0 and one above. Shape: (groups, width) each -> ().
    """
    scores, labels = _clean(scores, labels, mask)
    wrong = mask & (labels <= 0)
    gains = labels.clamp(min=0)
    active = wrong.any(dim=1) & (gains > 0).any(dim=1)
    # A group without a negative would take the logarithm of an empty sum: let it have one, since it is left out.
    crowd = scores.masked_fill(~wrong & active[:, None], -math.inf).logsumexp(dim=1, keepdim=True)  # (groups, 1)
    losses = functional.softplus(crowd - scores)  # -log(exp(s) / (exp(s) + sum of exp over the negatives))
    total = torch.where(active, gains.sum(dim=1), 1.0)
    return _mean((gains * losses).sum(dim=1) / total, active)


def lambda_loss(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    weights: LambdaWeights = "ndcg-loss2++",
    k: int | None = None,
    mu: float = 10.0,
) -> Tensor:
    """The LambdaLoss bound on 1 - nDCG@k (Wang et al. 2018, CIKM, doi:10.1145/3269206.3271784), averaged over groups.

    Each pair with different labels costs log2(1 + exp(-d)), d being the lead of its better document, times a weight:

    - `lambdarank`: what swapping both changes in nDCG@k, |gain - gain'| x |1/D(rank) - 1/D(rank')| over the ideal DCG,
      where D(r) = log2(1 + r), and 1/D is 0 below rank `k` (Burges 2010, MSR-TR-2010-82);
    - `ndcg-loss2++`: that, plus `mu` times the same with |1/D(n) - 1/D(n + 1)| for ranks that lie n apart.

    Gains are the labels themselves, as in nDCG with linear gains. Ranks are those of the group under the scores, equal
    scores in the worst order. A pair with both ranks below `k` weighs nothing. A group needs two different labels.

    Shape: (groups, width) each -> ().

    Raises:
        ConfigError: unknown weights, `k` below 1, or `mu` below 0.
    """
    if weights not in get_args(LambdaWeights):
        raise ConfigError(f"unknown weights {weights!r} of lambda_loss{did_you_mean(weights, get_args(LambdaWeights))}")
    if (k is not None and k < 1) or not 0 <= mu < math.inf:
        raise ConfigError(f"lambda_loss has k = {k}, mu = {mu}: k is a rank from 1 on (or none), mu is at least 0")
    scores, labels = _clean(scores, labels, mask)
    pairs = _ordered_pairs(labels, mask)
    with torch.no_grad():
        weight = _swap_weights(scores, labels, mask, k=k, mu=mu if weights == "ndcg-loss2++" else 0.0)
    losses = functional.softplus(-_differences(scores)) / math.log(2)
    return _mean((weight * pairs * losses).flatten(1).sum(dim=1), pairs.any(dim=2).any(dim=1))


def margin_mse(scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared distance of score differences from the teacher's, over all pairs of a group, then averaged over groups.

    After Hofstätter et al. 2020 (arXiv:2010.02666), who take pairs of a positive and a negative. The mean over all
    pairs of (e - e')^2, with e = score - teacher, is twice the variance of e, which is how it is computed.
    A group needs two documents. Shape: (groups, width) each -> ().
    """
    scores, teacher = _clean(scores, teacher, mask)
    errors = scores - teacher
    counts = mask.sum(dim=1)
    spread = (errors - _row_mean(errors, mask)[:, None]) * mask
    return _mean(2 * (spread**2).sum(dim=1) / (counts - 1).clamp(min=1), counts > 1)


def kl_distillation(scores: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL divergence of the group's softmax from the teacher's, both at `temperature`, averaged over groups.

    Multiplied by temperature^2, so that gradients keep their size (Hinton et al. 2015, arXiv:1503.02531). A group needs
    two documents. Shape: (groups, width) each -> ().

    Raises:
        ConfigError: a temperature that is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature {temperature}: distillation needs a number above 0; 1 is usual")
    scores, teacher = _clean(scores, teacher, mask)
    empty = ~mask.any(dim=1, keepdim=True)
    absent = ~mask & ~empty  # an empty group keeps its zeros: a softmax over nothing is NaN
    own = (scores / temperature).masked_fill(absent, -math.inf).log_softmax(dim=1).masked_fill(absent, 0)
    wanted = (teacher / temperature).masked_fill(absent, -math.inf).log_softmax(dim=1).masked_fill(absent, 0)
    losses = (wanted.exp() * (wanted - own)).masked_fill(absent, 0).sum(dim=1) * temperature**2
    return _mean(losses, mask.sum(dim=1) > 1)


def _clean(scores: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and their targets, 0 where there is no document, in one dtype of at least 32 bits.

    Raises:
        ValueError: shapes that differ, or a mask that is not of booleans.
    """
    if not scores.shape == targets.shape == mask.shape or mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(
            f"scores {tuple(scores.shape)}, targets {tuple(targets.shape)} and mask {tuple(mask.shape)} of {mask.dtype}"
            " must share one shape (groups, width), the mask of booleans"
        )
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).masked_fill(~mask, 0), targets.to(dtype).masked_fill(~mask, 0)


def _mean(losses: Tensor, active: Tensor) -> Tensor:
    """Mean loss of the active groups, 0 where there is none. Shape: losses and active (groups,) -> ()."""
    return torch.where(active, losses, 0.0).sum() / active.sum().clamp(min=1)


def _row_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of each row's chosen values, 0 where there is none. Shape: (groups, any) -> (groups,)."""
    return torch.where(chosen, values, 0.0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def _differences(values: Tensor) -> Tensor:
    """`values[i] - values[j]` within each group. Shape: (groups, width) -> (groups, width, width)."""
    return values[:, :, None] - values[:, None, :]


def _ordered_pairs(labels: Tensor, mask: Tensor) -> Tensor:
    """True where document `i` has the greater label. Shape: (groups, width) -> (groups, width, width)."""
    return (_differences(labels) > 0) & mask[:, :, None] & mask[:, None, :]


def _swap_weights(scores: Tensor, labels: Tensor, mask: Tensor, *, k: int | None, mu: float) -> Tensor:
    """What pairs weigh in `lambda_loss`. Shape: (groups, width) -> (groups, width, width)."""
    width = scores.shape[1]
    cutoff = width if k is None else k
    places = torch.arange(1, width + 1, device=scores.device)
    discounts = torch.where(places <= cutoff, 1 / torch.log2(1 + places.to(scores.dtype)), 0.0)  # (width,)
    gains = labels.clamp(min=0)
    ideal = (gains.sort(dim=1, descending=True).values * discounts).sum(dim=1)  # (groups,)
    gaps = _differences(gains).abs() / torch.where(ideal > 0, ideal, 1.0)[:, None, None]
    ranks = _worst_ranks(scores, labels, mask)  # (groups, width), from 0
    swaps = _differences(discounts[ranks]).abs()
    apart = _differences(ranks).abs()
    steps = torch.zeros(width + 1, dtype=scores.dtype, device=scores.device)  # [n]: |1/D(n) - 1/D(n + 1)|, 0 for n = 0
    undiscounted = 1 / torch.log2(1 + torch.arange(1, width + 2, device=scores.device).to(scores.dtype))
    steps[1:] = undiscounted[:-1] - undiscounted[1:]
    seen = ranks < cutoff  # (groups, width)
    reach = seen[:, :, None] | seen[:, None, :]
    return gaps * (swaps + mu * steps[apart] * reach)


def _worst_ranks(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Each document's rank by falling score, from 0; of equal scores the lower label first, padding last."""
    by_label = labels.argsort(dim=1, stable=True)
    falling = (-scores).masked_fill(~mask, math.inf).gather(1, by_label)
    order = by_label.gather(1, falling.argsort(dim=1, stable=True))  # (groups, width): rank -> document
    return order.argsort(dim=1)
