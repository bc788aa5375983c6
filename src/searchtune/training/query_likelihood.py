"""Learning to tell relevant passages by what they make of the query's likelihood.

The loss is that of proportional odds: for each grade but the lowest, the cross-entropy of "this grade or a higher one"
under the logistic function of the share of the query that the passage tells (see `metrics/query_likelihood.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.errors import DataError
from searchtune.metrics.query_likelihood import SLOPE, grade_cuts
from searchtune.models.chat import CompletionStore
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM
from searchtune.training.distributed import gather_rows, own_share
from searchtune.training.generation import check_completions, read_texts
from searchtune.training.labels import check_batch, shuffled_batches
from searchtune.types import IntArray


@dataclass(frozen=True, eq=False)
class LikelihoodExamples:
    """Pairs of query and passage, the query being the reply, and the grades that people gave.

    The first texts of `store` are the pairs; then come the queries after no passage.

    Shape: queries (pairs,), each pair's query as a row of those after the pairs; grades (pairs,), from 0 to below
    `grade_count`.

    Raises:
        DataError: shapes that do not fit, a grade out of range, or an empty prompt or query.
    """

    store: CompletionStore
    queries: IntArray
    grades: IntArray
    grade_count: int
    min_grade: int

    def __post_init__(self) -> None:
        pairs, texts = len(self.grades), len(self.store.prompts)
        bare = texts - pairs
        if self.queries.shape != (pairs,) or (pairs and not 0 <= self.queries.min() <= self.queries.max() < bare):
            raise DataError(f"{pairs} pairs of {len(self.queries)} queries, and {bare} queries without a passage")
        if pairs and not 0 <= self.grades.min() <= self.grades.max() < self.grade_count:
            raise DataError(f"grades from {self.grades.min()} to {self.grades.max()} on a scale of {self.grade_count}")
        check_completions(self.store)


class QueryLikelihood:
    """Cross-entropy of grades under proportional odds in the share of the query that a passage tells.

    Both likelihoods, after the passage and after none, come from the model as it is trained.
    """

    def __init__(
        self,
        model: CausalLM,
        examples: LikelihoodExamples,
        *,
        batch_size: int,
        tokens_per_chunk: int,
        seed: int,
        recompute: bool | None = None,
    ) -> None:
        """`recompute` None reads again in the backward pass where a batch is longer than one chunk."""
        check_batch(batch_size)
        self.trainable: nn.Module = CompletionReader(model)
        self.examples, self.device = examples, model.device
        self.batch_size, self.tokens_per_chunk, self.recompute = batch_size, tokens_per_chunk, recompute
        self.seed = seed
        self._cuts = torch.from_numpy(grade_cuts(examples.grade_count, examples.min_grade)).float()

    def steps_per_epoch(self) -> int:
        return -(-len(self.examples.grades) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[IntArray]:
        """Positions of pairs, drawn anew in each epoch."""
        return shuffled_batches(len(self.examples.grades), self.batch_size, (self.seed, epoch))

    def loss(self, batch: IntArray) -> Tensor:
        told = gather_rows(self.told(own_share(batch))[:, None], len(batch))  # (pairs, 1)
        logits = SLOPE * (told - self._cuts.to(told.device))  # (pairs, grades - 1)
        reached = self.examples.grades[batch][:, None] >= np.arange(1, self.examples.grade_count)
        target = torch.from_numpy(reached).to(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()

    def told(self, pairs: IntArray) -> Tensor:
        """The share of each pair's query that its passage tells. Shape: (pairs,)."""
        asked, place = np.unique(self.examples.queries[pairs], return_inverse=True)
        found = read_texts(
            self.trainable,
            self.examples.store,
            np.concatenate([pairs, len(self.examples.grades) + asked]),
            tokens_per_chunk=self.tokens_per_chunk,
            recompute=self.recompute,
        )
        given, bare = found[: len(pairs)], found[len(pairs) :]
        return 1.0 - given / bare[torch.from_numpy(place).to(bare.device)]
