"""Whether a judge would judge itself: its model among those that made what it judges.

A ranking that was made, or learned, with the judge's own opinion agrees with the judge for that reason alone, and its
figures say nothing about relevance (Clarke and Dietz 2024, LLM-based relevance assessment still can't replace human
relevance assessment, arXiv:2412.17156).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchtune.errors import ConfigError

_SHOWN = 12


@dataclass(frozen=True)
class ModelFacts:
    """Which model it is, whatever it is called."""

    name: str
    """For messages."""
    base_sha256: str
    """Hash of the base's weights, as in a card; for a model behind an endpoint, whatever names it there."""
    adapter_sha256: str | None = None
    """Hash of the adapter; None for the plain base."""


def refuse_circular(
    judge: ModelFacts, used: Mapping[str, Sequence[ModelFacts]], *, allow: bool = False
) -> tuple[str, ...]:
    """Raise a `ConfigError` where the judge took part in what it is to judge; return what should be told beside.

    `used` says by role, such as `reranker` or `teacher of the bi-encoder`, which models made or taught the systems that
    are judged. The same base under the same adapter is the same model and is refused; with `allow` it is told instead.
    The same base under another adapter is told in any case: such a model may prefer its like.
    """
    same, related = [], []
    for role, models in used.items():
        for model in models:
            if model.base_sha256 != judge.base_sha256:
                continue
            if model.adapter_sha256 == judge.adapter_sha256:
                same.append(f"the judge {judge.name!r} is also the {role} {model.name!r}: it would agree with itself")
            else:
                related.append(
                    f"the judge {judge.name!r} and the {role} {model.name!r} share a base and may share taste"
                )
    if same and not allow:
        weights = judge.base_sha256[:_SHOWN] + (f" + {judge.adapter_sha256[:_SHOWN]}" if judge.adapter_sha256 else "")
        raise ConfigError(
            f"{'; '.join(same)} ({weights}): figures from it are no evidence. Judge with another model, leave that "
            "system out, or allow it explicitly"
        )
    return tuple(same + related)
