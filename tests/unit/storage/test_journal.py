"""A journal loses nothing that was appended: cut at every byte, killed at any moment, with a full disk."""

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ConfigError, DataError, OutputExistsError, StorageError
from searchtune.storage import journal
from searchtune.storage.journal import Journal, JournalView, journal_file
from searchtune.storage.shards import merge_journals, shard

HEADER = {"model": "abc", "prompt": {"name": "umbrela", "version": 1}}


def written(place, results, header=HEADER):
    with Journal(place, header) as one:
        for key, value in results.items():
            one.append(key, value)
    return journal_file(place)


def contents(place):
    return dict(JournalView(place).items())


def test_results_are_read_back_in_order_with_the_header(tmp_path):
    results = {"b": {"grade": 2, "p": (0.1, 0.9)}, "a": {"grade": None, "reason": "ünlesbar\n\u2028\ud800"}, "": {}}
    path = written(tmp_path / "job", results)
    assert path == tmp_path / "job" / "journal.jsonl"
    view = JournalView(path)
    assert (view.header, len(view), list(view.keys())) == (HEADER, 3, ["b", "a", ""])
    assert dict(view.items()) == {**results, "b": {"grade": 2, "p": [0.1, 0.9]}}
    assert view.get("a") == results["a"]
    assert view.get("c") is None
    assert "b" in view
    assert "c" not in view
    for line in path.read_text(encoding="ascii").splitlines():
        assert {"sum"} < json.loads(line).keys()


def test_going_on_knows_what_is_there(tmp_path):
    written(tmp_path / "j.jsonl", {"a": {"grade": 1}})
    with Journal(tmp_path / "j.jsonl", json.loads(json.dumps(HEADER))) as one:
        assert "a" in one
        assert one.append("a", {"grade": 1}) is False
        assert one.append("b", {"grade": 0}) is True
        assert one.append("b", {"grade": 0}) is False
        with pytest.raises(DataError, match=r"key 'a' has the value {'grade': 1}, and now {'grade': 2} is given"):
            one.append("a", {"grade": 2})
        assert dict(one.items()) == {"a": {"grade": 1}, "b": {"grade": 0}}
    assert list(JournalView(tmp_path / "j.jsonl").keys()) == ["a", "b"]
    assert dict(one.items()) == {"a": {"grade": 1}, "b": {"grade": 0}}
    one.close()
    with pytest.raises(StorageError, match="closed; open it again"):
        one.append("c", {})


@pytest.mark.parametrize("value", [{"p": float("nan")}, {"p": float("-inf")}, {"p": b"x"}, {"p": object()}])
def test_values_that_are_no_json(tmp_path, value):
    with Journal(tmp_path, HEADER) as one:
        with pytest.raises(DataError, match=r"value of 'a' cannot be written as JSON"):
            one.append("a", value)
        one.append("b", {})
    assert contents(tmp_path) == {"b": {}}
    with pytest.raises(DataError, match="the header cannot be written"):
        Journal(tmp_path / "other", value)


def test_another_job_is_refused_and_changes_nothing(tmp_path):
    path = written(tmp_path, {"a": {}})
    path.write_bytes(path.read_bytes() + b'{"sum":"torn')
    before = path.read_bytes()
    other = {"model": "abd", "prompt": {"name": "umbrela", "version": 2}, "seed": 3}
    with pytest.raises(ConfigError) as error:
        Journal(tmp_path, other)
    for part in ('model is "abc" there and "abd" here', "prompt.version is 1 there and 2 here", "seed is absent there"):
        assert part in str(error.value)
    assert "prompt.name" not in str(error.value)
    assert path.read_bytes() == before


def test_cut_at_every_byte_nothing_is_lost_and_nothing_is_there_twice(tmp_path):
    results = {f"q{i} d{i}": {"grade": i % 4, "text": "ü" * i} for i in range(6)}
    whole = written(tmp_path / "whole", results).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole) + 1):
        path = tmp_path / f"{size}.jsonl"
        path.write_bytes(whole[:size])
        survived = max(0, sum(end <= size for end in ends) - 1)
        if size >= ends[0]:
            assert list(contents(path).items()) == list(results.items())[:survived]
        assert path.stat().st_size == size, "reading changes nothing"
        with Journal(path, HEADER) as one:
            assert len(one) == survived
            assert [one.append(key, value) for key, value in results.items()] == [False] * survived + [True] * (
                6 - survived
            )
        assert path.read_bytes() == whole


@settings(deadline=None, max_examples=15)
@given(
    st.dictionaries(
        st.text(max_size=8), st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=9) | st.none())
    ),
    st.lists(st.floats(0, 1), max_size=4),
)
def test_any_results_survive_any_cuts(tmp_path_factory, results, cuts):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    for share in [*cuts, 1.0]:
        written(path, results)
        if share < 1:
            os.truncate(path, int(share * path.stat().st_size))
    assert contents(path) == results
    assert path.read_bytes().count(b"\n") == 1 + len(results)


@pytest.mark.parametrize("tail", [b"\0" * 4096, b'{"sum":"', b"{", b"garbage without an end"])
def test_a_torn_tail_is_cut_off(tmp_path, tail):
    path = written(tmp_path, {"a": {}})
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert contents(path) == {"a": {}}
    Journal(path, HEADER).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [1, 2, 3])
def test_damage_elsewhere_is_refused_with_file_line_and_remedy(tmp_path, line):
    path = written(tmp_path, {"a": {"grade": 1}, "b": {"grade": 1}})
    whole = path.read_bytes()
    ends = [0, *(i + 1 for i, byte in enumerate(whole) if byte == 10)]
    for place in range(ends[line - 1], ends[line] - 1):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes(damaged)
        for read in (JournalView, lambda p: Journal(p, HEADER)):
            with pytest.raises(DataError, match=rf"journal\.jsonl:{line}: (damaged|not a journal)|not a journal"):
                read(path)
        assert path.read_bytes() == damaged
    path.write_bytes(whole[: ends[1]] + b"\n" + whole[ends[1] :])
    with pytest.raises(DataError, match=r":2: damaged or edited.*head -n 1 "):
        JournalView(path)


def test_windows_line_ends_are_damage(tmp_path):
    path = written(tmp_path, {"a": {}})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(DataError, match="first line is damaged"):
        JournalView(path)


def test_files_that_are_no_journal_stay_as_they_are(tmp_path):
    for content in (b"weights", b'{"_id": "d1"}\n', b'{"_id": "no line end"}', b"\xff\n"):
        path = tmp_path / "x.jsonl"
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a journal of searchtune"):
            Journal(path, HEADER)
        assert path.read_bytes() == content
    with pytest.raises(DataError, match="cannot be read as a journal"):
        JournalView(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="nobody has written"):
        JournalView(tmp_path / "empty.jsonl")


def test_two_journals_in_one_file_and_repeated_lines(tmp_path):
    first = written(tmp_path / "a", {"a": {"grade": 1}}).read_bytes()
    second = written(tmp_path / "b", {"a": {"grade": 2}}).read_bytes()
    path = tmp_path / "both.jsonl"
    path.write_bytes(first + second)
    with pytest.raises(DataError, match=r":3: a second header"):
        JournalView(path)
    path.write_bytes(first + first.splitlines(keepends=True)[1])
    assert list(JournalView(path).items()) == [("a", {"grade": 1})]
    path.write_bytes(first + second.splitlines(keepends=True)[1])
    with pytest.raises(DataError, match=r":3: key 'a' has another value than before"):
        JournalView(path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "FORMAT", 2)
    path = written(tmp_path, {})
    monkeypatch.undo()
    with pytest.raises(DataError, match="format 2, and this version reads 1"):
        JournalView(path)


def test_one_writer_and_readers_at_any_time(tmp_path):
    with Journal(tmp_path, HEADER) as one:
        one.append("a", {})
        with pytest.raises(StorageError, match="another process is writing to this journal"):
            Journal(tmp_path, HEADER)
        view = JournalView(tmp_path)
        one.append("b", {})
        assert (list(view.items()), len(JournalView(tmp_path))) == ([("a", {})], 2)
    Journal(tmp_path, HEADER).close()


def test_a_disk_that_knows_no_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(journal.fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match=r"cannot be locked \(No locks available\); choose a place on a local disk"):
        Journal(tmp_path, HEADER)


def test_threads_share_a_journal(tmp_path):
    with Journal(tmp_path, HEADER, sync_every=7) as one:
        threads = [
            threading.Thread(target=lambda t=t: [one.append(f"{i}", {"i": i}) for i in range(t, 200)]) for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(int, contents(tmp_path))) == list(range(200))


def test_syncs_are_bounded_in_number_and_time(tmp_path, monkeypatch):
    syncs = []
    monkeypatch.setattr(journal.os, "fsync", syncs.append)
    clock = [0.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: clock[0])
    with Journal(tmp_path, HEADER, sync_every=10, sync_seconds=5) as one:
        at_start = len(syncs)
        for i in range(25):
            one.append(f"{i}", {})
        assert len(syncs) - at_start == 2
        clock[0] = 5.0
        one.append("late", {})
        assert len(syncs) - at_start == 3
        one.flush()
        assert len(syncs) - at_start == 4


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = written(tmp_path, {"a": {}})
    whole = path.read_bytes()
    one = Journal(path, HEADER)
    real = os.write

    def full(handle, data):
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data[:-10])

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(StorageError, match=r"journal\.jsonl: the disk is full: free some space"):
        one.append("b", {})
    monkeypatch.undo()
    assert path.read_bytes() == whole
    assert "b" not in one
    with pytest.raises(StorageError, match="closed"):
        one.append("b", {})
    assert contents(written(path, {"b": {}})) == {"a": {}, "b": {}}


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(journal.os, "write", lambda handle, data: real(handle, data[:7]))
    written(tmp_path, {"a": {"text": "x" * 100}})
    assert contents(tmp_path) == {"a": {"text": "x" * 100}}


def test_a_failed_sync_is_told_and_nothing_more_is_taken(tmp_path, monkeypatch):
    one = Journal(tmp_path, HEADER)
    one.append("a", {})

    def broken(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal.os, "fsync", broken)
    with pytest.raises(StorageError, match="Input/output error; what was there before is still valid"):
        one.flush()
    monkeypatch.undo()
    with pytest.raises(StorageError, match="closed"):
        one.flush()


def test_an_interruption_between_write_and_note_leaves_both_as_before(tmp_path, monkeypatch):
    one = Journal(tmp_path, HEADER)
    one.append("a", {})
    real = os.write

    def interrupted(handle, data):
        real(handle, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.append("b", {"seconds": 1})
    monkeypatch.undo()
    assert "b" not in one
    one.append("b", {"seconds": 2})
    one.close()
    assert contents(tmp_path) == {"a": {}, "b": {"seconds": 2}}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="a part of this path is a file"):
        Journal(tmp_path / "file" / "job", HEADER)


WRITER = """
import sys, pathlib
from searchtune.storage.journal import Journal
with Journal(pathlib.Path(sys.argv[1]), {"model": "abc"}, sync_every=50) as one:
    for i in range(int(sys.argv[2])):
        if one.append(f"k{i}", {"grade": i % 4, "text": "x" * (i % 97)}):
            sys.stdout.write(f"k{i}\\n"); sys.stdout.flush()
"""


@pytest.mark.slow
def test_killed_at_twenty_moments_every_result_is_there_once(tmp_path):
    rng, count, printed = random.Random(7), 30_000, []
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(tmp_path), str(count)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        rest = process.stdout.read().splitlines(keepends=True)
        process.wait()
        acknowledged = [line.strip() for line in [first, *rest] if line.endswith("\n")]
        printed += acknowledged
        there = JournalView(tmp_path)
        assert set(printed) <= set(there.keys())
    assert len(printed) == len(set(printed)), "no result was appended twice"
    assert len(printed) < count, "the process was killed before its end"
    with Journal(tmp_path, {"model": "abc"}) as one:
        for i in range(count):
            one.append(f"k{i}", {"grade": i % 4, "text": "x" * (i % 97)})
    keys = [json.loads(line)["key"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
    assert sorted(keys) == sorted(f"k{i}" for i in range(count))


@given(st.sets(st.text(max_size=12)), st.integers(1, 7))
def test_every_key_is_in_one_shard_whatever_stands_beside_it(keys, count):
    ordered = sorted(keys)
    parts = [shard(ordered, i, count) for i in range(count)]
    assert sorted(i for part in parts for i in part) == list(range(len(ordered)))
    for i, part in enumerate(parts):
        for place in part:
            assert shard([ordered[place]], i, count) == [0]


def test_shards_are_even_and_stay_the_same_for_ever():
    keys = [f"q{i} d{i}" for i in range(10_000)]
    assert all(abs(len(shard(keys, i, 4)) - 2500) < 150 for i in range(4))
    assert shard(["a", "b", "c", "d"], 0, 2) == [0, 1, 2]
    for index, count in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(ConfigError, match="counted from 0"):
            shard(keys, index, count)


def test_journals_of_shards_are_joined(tmp_path):
    a = written(tmp_path / "a.jsonl", {"x": {"grade": 1}, "y": {"grade": 2}})
    b = written(tmp_path / "b", {"y": {"grade": 2}, "z": {"grade": 0}})
    b.write_bytes(b.read_bytes() + b'{"sum":"torn')
    empty = written(tmp_path / "empty", {})
    assert merge_journals([a, b.parent, empty], tmp_path / "all") == 3
    assert contents(tmp_path / "all") == {"x": {"grade": 1}, "y": {"grade": 2}, "z": {"grade": 0}}
    with Journal(tmp_path / "all", HEADER) as one:
        assert len(one) == 3
    with pytest.raises(OutputExistsError, match="already there"):
        merge_journals([a, b], tmp_path / "all")
    with pytest.raises(ConfigError, match="no journal to join"):
        merge_journals([], tmp_path / "none")


def test_journals_that_do_not_belong_together(tmp_path):
    a = written(tmp_path / "a", {"x": {"grade": 1}})
    clash = written(tmp_path / "b", {"x": {"grade": 2}})
    other = written(tmp_path / "c", {}, {**HEADER, "model": "other"})
    with pytest.raises(DataError, match=r"key 'x' has another value than in .*a/journal\.jsonl"):
        merge_journals([a, clash], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"written by another job than .*a/journal\.jsonl: model is"):
        merge_journals([a, other], tmp_path / "out")
    assert not (tmp_path / "out" / "journal.jsonl").exists()
