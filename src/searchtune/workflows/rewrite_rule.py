"""The rule of a rewriter's card by which rewrites are used, and the retriever and mode that it was fitted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from searchtune.errors import ArtifactError, ConfigError
from searchtune.metrics.gain_prediction import GainPredictor
from searchtune.specs.reward import Mode

if TYPE_CHECKING:
    from searchtune.workflows.rewrite_abstain import Looked, RewriteWatch

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Abstention:
    """A fitted decision, and the retriever and mode that it is for."""

    predictor: GainPredictor
    made_for: Mapping[str, Any]
    """See `RewriteWatch.identity`."""

    @property
    def mode(self) -> Mode:
        """How the rewrite is searched."""
        mode: Mode = self.made_for["mode"]
        return mode

    def decide(self, watch: RewriteWatch, looked: Looked) -> BoolArray:
        """For which queries the rewrite is used; never where it is the utterance. Shape: (queries,).

        Raises:
            ConfigError: it was fitted for another retriever or mode.
        """
        here = watch.identity
        differs = [name for name, value in self.made_for.items() if here.get(name) != value]
        if differs:
            raise ConfigError(
                f"abstention was fitted for another {' and another '.join(differs)} than the search here has: fit it "
                "again on dev with this one"
            )
        return self.predictor.decide(looked.features) & looked.changed

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; for cards."""
        return {"predictor": self.predictor.to_json(), "made_for": dict(self.made_for)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Abstention:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: something is missing or no number.
        """
        try:
            made_for = {name: data["made_for"][name] for name in ("retriever", "other", "mode")}
            predictor = GainPredictor.from_json(data["predictor"])
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"no abstention: {str(data)[:200]} lacks or mistakes {error}; fit it again") from error
        if made_for["mode"] not in get_args(Mode):
            raise ArtifactError(f"abstention for mode {made_for['mode']!r}: known are {', '.join(get_args(Mode))}")
        return cls(predictor, made_for)
