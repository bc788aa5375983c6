"""Where the cache is, and taking turns at it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from searchtune.errors import StorageError
from searchtune.storage.places import cache_root, one_at_a_time


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEARCHTUNE_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("SEARCHTUNE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "searchtune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / ".cache" / "searchtune"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_root() == tmp_path / "Library" / "Caches" / "searchtune"


def test_the_second_waits_for_the_first(tmp_path):
    inside, order = threading.Event(), []

    def second():
        inside.wait()
        with one_at_a_time(tmp_path / "new" / "thing"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with one_at_a_time(tmp_path / "new" / "thing"):
        inside.set()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_holder_leaves_no_lock(tmp_path):
    source = (
        "import os, sys; from pathlib import Path; from searchtune.storage.places import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", source, str(tmp_path / "thing")], check=False)
    assert died.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]
    with one_at_a_time(tmp_path / "thing"):
        pass


def test_an_error_inside_is_handed_on_and_the_lock_is_free(tmp_path):
    with pytest.raises(ValueError, match="inside"), one_at_a_time(tmp_path / "thing"):
        raise ValueError("inside")
    with one_at_a_time(tmp_path / "thing"):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    Path(tmp_path, "file").write_text("in the way")
    with pytest.raises(StorageError, match="set SEARCHTUNE_CACHE"), one_at_a_time(tmp_path / "file" / "thing"):
        pass
