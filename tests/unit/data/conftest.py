"""Writing small collections for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unit.data.sound import SOUND

Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Write the sound collection with some files replaced (bytes) or left out (None)."""

    def write(changes: dict[str, bytes | None] | None = None, name: str = "set") -> Path:
        folder = tmp_path / name
        for file, content in {**SOUND, **(changes or {})}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (folder / file).write_bytes(content)
        return folder

    return write
