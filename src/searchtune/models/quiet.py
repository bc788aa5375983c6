"""Keeping the libraries' own talk about loading off the terminal, where the command line has its own progress.

transformers' load report ("MISSING ... consider training") is left out too: the functions that open a base look at what
it lacks, and make it (a new head) or refuse the base.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

_BARS: Any = transformers_logging
_LOADING = logging.getLogger("transformers.modeling_utils")
_NO_USE_TO_USERS = (
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers by the old name
    "`broadcast_buffers` is deprecated",  # accelerate hands torch the old name
)


def _no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Within this, transformers draws no bars and no load report, and warnings about each other are left out.

    Every other warning still comes, and what was set before is set again afterwards. Also serves as a decorator.
    """
    shown, silenced = _BARS.is_progress_bar_enabled(), _no_load_report in _LOADING.filters
    _LOADING.addFilter(_no_load_report)
    _BARS.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in _NO_USE_TO_USERS:
                warnings.filterwarnings("ignore", message=message, category=FutureWarning)
            yield
    finally:
        if not silenced:
            _LOADING.removeFilter(_no_load_report)
        if shown:
            _BARS.enable_progress_bar()
