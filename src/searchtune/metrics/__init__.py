"""Metrics as pure functions on arrays: ranking quality, and how far a figure can be trusted. No models, no files."""

from searchtune.metrics.power import minimum_detectable_effect
from searchtune.metrics.ranking import Metric, parse_metric, score
from searchtune.metrics.significance import (
    Estimate,
    Tally,
    bootstrap,
    effect_size,
    holm,
    paired_randomisation,
    paired_t,
    win_tie_loss,
)

__all__ = [
    "Estimate",
    "Metric",
    "Tally",
    "bootstrap",
    "effect_size",
    "holm",
    "minimum_detectable_effect",
    "paired_randomisation",
    "paired_t",
    "parse_metric",
    "score",
    "win_tie_loss",
]
