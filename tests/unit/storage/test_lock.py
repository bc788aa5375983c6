"""Two processes never write one output: the second is refused by name, a killed holder leaves no lock behind."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from searchtune.errors import OutputBusyError, OutputExistsError, StorageError
from searchtune.storage import lock
from searchtune.storage.lock import INNER_LOCK, lock_file, sole_writer
from searchtune.storage.output import RUN_FILE, is_finished, output_folder, prepare_output

_HOLD = """
import sys, time
from pathlib import Path
from searchtune.storage.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path / "run"` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_by_host_and_process(holder, tmp_path):
    for policy in ("fail", "overwrite", "resume"):
        named = f"process {holder.pid} on host {socket.gethostname()}.*--out"
        with pytest.raises(OutputBusyError, match=named), output_folder(tmp_path / "run", policy):
            pytest.fail("both are in")
    with output_folder(tmp_path / "other"):
        assert os.listdir(tmp_path / "other") == [RUN_FILE]
    holder.stdin.close()
    holder.wait()
    assert os.listdir(tmp_path) == ["other"], "no lock is left"


def test_a_killed_holder_leaves_nothing_that_refuses(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert lock_file(tmp_path / "run").is_file()
    with output_folder(tmp_path / "run"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == ["run"]


def test_a_link_to_a_folder_is_the_folder(holder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(OutputBusyError), sole_writer(tmp_path / "link"):
        pytest.fail("both are in")


def test_threads_of_one_process_are_told_apart_and_blocks_of_one_may_nest(tmp_path):
    refused = []

    def second():
        try:
            with sole_writer(tmp_path / "run"):
                pass
        except OutputBusyError as error:
            refused.append(str(error))

    with sole_writer(tmp_path / "run"), sole_writer(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in refused[0]
    second()
    assert len(refused) == 1 and not os.listdir(tmp_path)


def test_a_lock_whose_name_is_gone_is_not_taken(tmp_path, monkeypatch):
    """Between opening and locking, its holder may have ended and removed the file."""
    file, real, lost = lock_file(tmp_path / "run"), lock._lock, []

    def late(handle, folder):
        real(handle, folder)
        if not lost:
            lost.append(file.unlink())

    monkeypatch.setattr(lock, "_lock", late)
    with sole_writer(tmp_path / "run"):
        assert json.loads(file.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("host", "pid", "refused"),
    [(None, os.getpid(), True), (None, 2**22 + 1, False), ("elsewhere", 2**22 + 1, True)],
    ids=["a process that runs", "one that does not", "another host"],
)
def test_without_locks_of_the_file_system_the_file_decides(tmp_path, monkeypatch, host, pid, refused):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    file = lock_file(tmp_path / "run")
    file.write_text(json.dumps({"host": host or socket.gethostname(), "pid": pid}))
    if refused:
        advice = r"if that process is gone, remove .*\.run\.lock"
        with pytest.raises(OutputBusyError, match=advice), sole_writer(tmp_path / "run"):
            pass
    else:
        with sole_writer(tmp_path / "run"):
            pass
        assert not file.exists()


def test_where_only_the_folder_itself_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    allowed = os.access
    monkeypatch.setattr(lock.os, "access", lambda path, mode: path != tmp_path and allowed(path, mode))
    with output_folder(tmp_path / "run") as folder:
        assert sorted(os.listdir(folder)) == sorted([INNER_LOCK, RUN_FILE])
    assert os.listdir(tmp_path / "run") == [RUN_FILE]


def test_a_run_that_came_to_its_end_is_called_finished(tmp_path):
    with pytest.raises(RuntimeError), output_folder(tmp_path / "run"):
        raise RuntimeError("stopped")
    assert not is_finished(tmp_path / "run")
    with pytest.raises(OutputExistsError, match="an unfinished run: add --resume .* --overwrite"):
        prepare_output(tmp_path / "run")
    with output_folder(tmp_path / "run", "resume"):
        pass
    with pytest.raises(OutputExistsError, match="a finished run: add --overwrite") as refused:
        prepare_output(tmp_path / "run")
    assert "--resume" not in str(refused.value)
    prepare_output(tmp_path / "run", "resume")
    assert not is_finished(tmp_path / "run"), "it is under way again"


def test_a_place_where_no_lock_can_be_made_is_told(tmp_path):
    (tmp_path / ".run.lock").symlink_to(tmp_path / "nowhere" / "lock")
    with pytest.raises(StorageError, match="cannot be written"), sole_writer(tmp_path / "run"):
        pass
    assert lock_file(Path("/")) == Path("/") / INNER_LOCK
