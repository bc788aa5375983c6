"""Metrics as pure functions on arrays: ranking quality, and how far a figure can be trusted. No models, no files."""

from searchtune.metrics.ranking import Metric, parse_metric, score
from searchtune.metrics.significance import (
    Estimate,
    Tally,
    bootstrap,
    minimum_detectable_effect,
    paired_randomisation,
    win_tie_loss,
)

__all__ = [
    "Estimate",
    "Metric",
    "Tally",
    "bootstrap",
    "minimum_detectable_effect",
    "paired_randomisation",
    "parse_metric",
    "score",
    "win_tie_loss",
]
