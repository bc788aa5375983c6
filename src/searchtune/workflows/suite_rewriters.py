"""The rewriters of a suite, here or behind an address, and what is known of the searches that they stand before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from searchtune.specs.suite import (
    Bm25System,
    DenseSystem,
    FusionSystem,
    RewriteSystem,
    SuiteSpec,
    System,
    made_of,
)
from searchtune.workflows.encode import BiEncoder
from searchtune.workflows.open_rewriter import OpenRewriter, open_remote_rewriter, open_rewriter
from searchtune.workflows.retriever_identity import dense_identity, fused_identity, words_identity
from searchtune.workflows.rewrite_settle import Kind, Searched


def open_suite_rewriter(system: RewriteSystem) -> OpenRewriter:
    """The rewriter of a system.

    Raises:
        SearchtuneError: it cannot be opened, or its address or key is none.
    """
    if system.endpoint is None:
        return open_rewriter(system.model, precision=system.precision)
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.remote import Budget

    endpoint = Endpoint(system.endpoint, system.model, system.key_variable)
    return open_remote_rewriter(endpoint, Budget(max_tokens=system.max_tokens))


def searched_by(suite: SuiteSpec, name: str, encoder: Callable[[str], BiEncoder]) -> Searched:
    """The search of a system that stands behind a rewriter; `encoder` gives that of a dense system by name."""
    parts = [suite.systems[part] for part in made_of(suite.systems, name)]
    dense = any(isinstance(part, DenseSystem) for part in parts)
    mixed = any(isinstance(part, FusionSystem) for part in parts)
    kind: Kind = "mixed" if mixed else "dense" if dense else "bm25"
    return Searched(kind, _identity(suite.systems, name, encoder), suite.depth)


def _identity(systems: Mapping[str, System], name: str, encoder: Callable[[str], BiEncoder]) -> dict[str, Any] | None:
    """As of an `OpenRetrieval`; None for what none of them is."""
    match systems[name]:
        case Bm25System():
            return words_identity()
        case DenseSystem():
            return dense_identity(encoder(name))
        case FusionSystem(method="rrf", weights=None, of=of):
            parts = [_identity(systems, part, encoder) for part in of]
            known = [part for part in parts if part is not None]
            return fused_identity(known) if len(known) == len(parts) else None
    return None
