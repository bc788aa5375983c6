"""Files and folders are there whole or not at all: after exceptions, kills at any point, and a full disk."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from searchtune.errors import OutputExistsError, StorageError
from searchtune.storage import atomic
from searchtune.storage.atomic import atomic_write, new_folder, temporary_beside, write_bytes, write_json, write_text
from searchtune.storage.marker import check_complete, is_complete


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".tmp-" in path.name)


def run_killed(code: str, folder: Path) -> None:
    """Run code in a process that ends by `os._exit(9)`, as by kill -9."""
    prelude = (
        f"import os\nfrom pathlib import Path\nfrom searchtune.storage import atomic\nhere = Path({str(folder)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", prelude + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_write_replaces_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "eins\r\n")
    write_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    assert leftovers(path.parent) == []


def test_json_keeps_order_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ü"\n}\n'
    with pytest.raises(ValueError):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_exception_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_full_disk_names_path_and_remedy(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(StorageError, match=r"x\.bin: the disk is full: free some space"):
        write_bytes(path, b"new")
    with pytest.raises(StorageError, match="the disk is full"), new_folder(tmp_path / "folder") as temp:
        (temp / "f").write_text("f")
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin"]


def test_native_writers_that_meet_a_full_disk(tmp_path):
    with pytest.raises(StorageError, match="the disk is full"), new_folder(tmp_path / "f"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_other_errors_of_the_block_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "f"):
        Path("/no/such/file").read_text()
    with pytest.raises(PermissionError), atomic_write(tmp_path / "g"):
        raise PermissionError(errno.EACCES, "denied", "/somewhere/else")


def test_a_file_among_the_parents_is_explained(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a part of this path is a file"):
        write_text(tmp_path / "file" / "below.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a folder of this name is in the way"):
        write_text(tmp_path / "folder", "x")


@pytest.mark.parametrize(
    "moment", ["file.write(b'half')", "file.write(b'new'); file.flush(); atomic.os.fsync(file.fileno())"]
)
def test_kill_while_writing_a_file(tmp_path, moment):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    run_killed(f"with atomic.atomic_write(here / 'x.bin') as file:\n    {moment}\n    os._exit(9)\n", tmp_path)
    assert path.read_bytes() == b"old"
    assert len(leftovers(tmp_path)) == 1
    write_bytes(path, b"next")
    assert path.read_bytes() == b"next"
    assert leftovers(tmp_path) == []


KILL_POINTS = {
    "in the block": "with atomic.new_folder(here / 'f') as t:\n    (t / 'a').write_text('new')\n    os._exit(9)\n",
    "before the marker": "atomic.mark_complete = lambda folder: os._exit(9)\n",
    "before the sync": "atomic._sync_tree = lambda folder: os._exit(9)\n",
    "before the rename": "atomic._swap = lambda temp, path: os._exit(9)\n",
}
WRITE_FOLDER = "with atomic.new_folder(here / 'f') as t:\n    (t / 'a').write_text('new')\n"


@pytest.mark.parametrize("point", KILL_POINTS)
def test_kill_while_making_a_folder(tmp_path, point):
    run_killed(KILL_POINTS[point] + WRITE_FOLDER, tmp_path)
    assert not (tmp_path / "f").exists()
    assert len(leftovers(tmp_path)) == 1
    with new_folder(tmp_path / "f") as temp:
        (temp / "a").write_text("next")
    assert (tmp_path / "f" / "a").read_text() == "next"
    assert leftovers(tmp_path) == []


def test_kill_between_the_two_renames_of_a_replacement(tmp_path):
    with new_folder(tmp_path / "f") as temp:
        (temp / "a").write_text("old")
    kill_second_rename = """
        plain, count = Path.rename, iter(range(9))
        Path.rename = lambda self, other: plain(self, other) if next(count) == 0 else os._exit(9)
    """
    run_killed(textwrap.dedent(kill_second_rename) + WRITE_FOLDER, tmp_path)
    assert not (tmp_path / "f").exists()
    atomic.sweep(tmp_path / "f")
    assert (tmp_path / "f" / "a").read_text() == "old"
    check_complete(tmp_path / "f")
    assert leftovers(tmp_path) == []


def test_new_folder_is_complete_and_replaces_a_complete_one(tmp_path):
    path = tmp_path / "deep" / "f"
    for text in ("one", "two"):
        with new_folder(path) as temp:
            (temp / "sub").mkdir()
            (temp / "sub" / "a.txt").write_text(text)
            assert not is_complete(temp)
        check_complete(path)
        assert (path / "sub" / "a.txt").read_text() == text
    assert leftovers(path.parent) == []


def test_new_folder_on_exception_leaves_nothing_or_the_old_one(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(ZeroDivisionError), new_folder(path) as temp:
        (temp / "a").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as temp:
        (temp / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(path) as temp:
        (temp / "a").write_text(str(1 / 0))
    assert (path / "a").read_text() == "old"


def test_new_folder_does_not_replace_what_it_did_not_finish(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match="remove it or choose another path"), new_folder(tmp_path / "f"):
        pytest.fail("the block must not run")
    assert (tmp_path / "f" / "mine.txt").read_text() == "keep"


def test_sweep_spares_the_living_and_other_machines(tmp_path):
    path = tmp_path / "x"
    alive = temporary_beside(path)
    host = alive.name.split("-")[2]
    elsewhere = tmp_path / alive.name.replace(host, "00000000" if host != "00000000" else "11111111")
    long_ago = tmp_path / f"{elsewhere.name}b"
    other_name = tmp_path / ".xy.tmp-999999999-a"
    for file in (alive, elsewhere, long_ago, other_name):
        file.write_text("")
    os.utime(long_ago, (0, 0))
    write_text(path, "new")
    assert leftovers(tmp_path) == sorted([alive.name, elsewhere.name, other_name.name])


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_of_a_new_folder_have_the_permissions_of_new_files(tmp_path, umask, expected):
    """Some libraries write weights through a private temporary file."""
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "adapter") as temp:
            (temp / "inner").mkdir()
            for name in ("weights.safetensors", "inner/weights.safetensors"):
                os.close(os.open(temp / name, os.O_CREAT | os.O_WRONLY, 0o600))
            (temp / "config.json").write_text("{}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").rglob("*") if path.is_file()}
    assert set(modes.values()) == {expected} and len(modes) == 3


def test_a_folder_that_is_removed_is_whole_or_gone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("a")
    run_killed(
        """
        atomic._remove = lambda path: os._exit(9)
        atomic.remove_folder(here / "run")
        """,
        tmp_path,
    )
    assert not (tmp_path / "run").exists() and len(leftovers(tmp_path)) == 1
    atomic.sweep(tmp_path / "run")
    assert leftovers(tmp_path) == []
    atomic.remove_folder(tmp_path / "run")
