"""How a rewriter is used before a search: by which mode, and by which rule of its card a rewrite is used at all.

A rule (see `rewrite_abstain`) was fitted for one retriever and one mode. It is taken by default where it is for the
search at hand. Before another search nobody knows of a gain, so no rewrite is used, unless somebody wants every one. A
rewriter without a rule, such as one of conversations, is always used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Literal, NamedTuple, Protocol

from searchtune.errors import ConfigError
from searchtune.metrics.gain_features import TOP
from searchtune.retrieval.gain_rule import GainRule
from searchtune.specs.card import LlmCard
from searchtune.specs.reward import Mode
from searchtune.storage.fingerprint import sha256_json
from searchtune.workflows.rewrite_rule import Abstention

Kind = Literal["bm25", "dense", "mixed"]
_PRECISIONS = ("bfloat16", "float32")


class CardedRewriter(Protocol):
    """What is known of a rewriter before it writes."""

    @property
    def name(self) -> str:
        """What it was opened by."""

    @property
    def card(self) -> LlmCard | None:
        """None for a model without an adapter."""

    def mode(self, retriever: str) -> Mode:
        """How its rewrites serve a retriever (`bm25`, `dense`) best; `replace` where nobody knows."""


class Searched(NamedTuple):
    """What stands behind a rewriter."""

    kind: Kind
    identity: Mapping[str, Any] | None
    """As of an `OpenRetrieval`; None for a search that no rule can be fitted for, such as a reranked one."""
    depth: int = 100
    """Documents that it ranks."""


class Wishes(NamedTuple):
    """What a suite or a pipeline says; None leaves it to the card."""

    mode: Mode | None = None
    abstain: bool | None = None
    """True insists on the card's rule, False uses every rewrite."""


class Settled(NamedTuple):
    """How a rewriter is used before one search."""

    mode: Mode
    abstention: Abstention | None
    """None uses every rewrite."""
    note: str
    """What a user should know; empty where there is nothing."""

    @property
    def never(self) -> bool:
        """Whether no rewrite is ever used."""
        return self.abstention is not None and self.abstention.predictor.use == "never"

    def rule(self, documents: Sequence[str]) -> GainRule | None:
        """The rule over a corpus."""
        return None if self.abstention is None else GainRule.over(self.abstention.predictor, documents)


def settle_use(rewriter: CardedRewriter, searched: Searched, wishes: Wishes, *, where: str) -> Settled:
    """The mode and the rule for a rewriter before a search. `where` names the place of the wishes in errors.

    Raises:
        ConfigError: a rule is insisted on, and the card has none, or one for another search.
        ArtifactError: the card's rule is damaged.
    """
    mode: Mode = wishes.mode or ("replace" if searched.kind == "mixed" else rewriter.mode(searched.kind))
    if wishes.abstain is False:
        return Settled(mode, None, "")
    held = None if rewriter.card is None else rewriter.card.abstention
    if held is None:
        if wishes.abstain:
            raise ConfigError(
                f"{where}: abstain is true, and {rewriter.name} has no rule for it: one is fitted where a rewriter is "
                "trained by reward on a task with a dev split; leave abstain out to use every rewrite"
            )
        return Settled(mode, None, "")
    found = Abstention.from_json(held)
    differs = _misfit(found, rewriter, searched, wishes.mode)
    if not differs:
        return Settled(found.mode, found, f"{where}: {found.predictor.reading}")
    said = f"{where}: when to use a rewrite of {rewriter.name} was learned for {differs}"
    if wishes.abstain:
        raise ConfigError(f"{said}; train it by reward in front of this one, or use every rewrite with abstain: false")
    unknown = replace(found.predictor, use="never", reading="nothing is known of a gain here")
    return Settled(
        mode,
        Abstention(unknown, found.made_for),
        f"{said}: no rewrite is used; train it in front of this one, or use every rewrite with abstain: false",
    )


def _misfit(found: Abstention, rewriter: CardedRewriter, searched: Searched, mode: Mode | None) -> str:
    """What a rule was fitted for, where that is not the search at hand; empty where it is."""
    if found.made_for["other"] is not None:
        return "a search beside a second retriever, which is not here"
    if searched.identity is None or found.made_for["retriever"] not in set(_hashes(searched.identity)):
        use = None if rewriter.card is None else rewriter.card.rewriting
        kinds = "" if use is None else " and ".join(use.modes)
        if kinds in ("", searched.kind):
            return f"another {kinds and f'{kinds} '}retriever than the one here"
        return f"a search by {kinds}, not by {searched.kind}"
    if mode not in (None, found.mode):
        return f"the mode {found.mode}, not {mode}"
    if searched.depth < TOP:
        return f"rankings of {TOP} documents or more, not {searched.depth}"
    return ""


def _hashes(identity: Mapping[str, Any]) -> Iterator[str]:
    """Of a retriever and of those that rank alike but for rounding: in any precision, fused in any order."""
    for precision in _PRECISIONS:
        same = _computed_in(precision, identity)
        for parts in permutations(same.get("of", ())):
            yield sha256_json({**same, "of": list(parts)} if parts else same)


def _computed_in(precision: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, value in identity.items():
        match value:
            case Mapping():
                changed[name] = _computed_in(precision, value)
            case list():
                changed[name] = [_computed_in(precision, part) for part in value]
            case _:
                changed[name] = precision if name == "dtype" else value
    return changed
