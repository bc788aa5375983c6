"""Keeping the libraries' own talk about loading off the terminal, where the command line has its own progress."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

_BARS: Any = logging
_NO_USE_TO_USERS = (
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers by the old name
    "`broadcast_buffers` is deprecated",  # accelerate hands torch the old name
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within this, transformers draws no bars and the libraries' warnings about each other are left out.

    Every other warning still comes, and what was set before is set again afterwards. Also serves as a decorator.
    """
    shown = _BARS.is_progress_bar_enabled()
    _BARS.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in _NO_USE_TO_USERS:
                warnings.filterwarnings("ignore", message=message, category=FutureWarning)
            yield
    finally:
        if shown:
            _BARS.enable_progress_bar()
