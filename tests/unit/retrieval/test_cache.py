"""The embedding cache: hits and misses, several processes, damage, kills, full disks, pruning."""

import errno
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from searchtune.errors import ModelError
from searchtune.retrieval import cache as cache_module
from searchtune.retrieval.cache import KEY_FILE, CacheWarning, EmbeddingCache, EncoderKey, default_folder, text_hashes
from searchtune.storage import atomic

KEY = EncoderKey({"base_sha256": "ab", "adapter_sha256": None, "max_tokens": 64}, label="tiny")
OTHER = EncoderKey({"base_sha256": "ab", "adapter_sha256": "cd", "max_tokens": 64}, label="tuned")


class Encoder:
    """Counts what it is asked for; a text's vector is made of its hash."""

    def __init__(self, scale=1.0, dim=4):
        self.scale, self.dim, self.calls = scale, dim, []

    def __call__(self, texts):
        self.calls.append(list(texts))
        return vectors_of(texts, self.dim) * np.float32(self.scale)


def vectors_of(texts, dim=4):
    numbers = np.frombuffer(b"".join(bytes(hash_) for hash_ in padded(texts)), dtype=np.uint8).reshape(-1, 16)
    return numbers[:, :dim].astype(np.float32) / 255


def padded(texts):
    return [bytes(one).ljust(16, b"\0") for one in text_hashes(list(texts))]


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        yield


def segments(cache, key=KEY):
    return sorted((cache.folder / key.name).glob("*.vectors"))


def test_only_what_is_missing_is_encoded(cache):
    encode = Encoder()
    assert np.array_equal(cache.encode_through(KEY, ["a", "b"], encode), vectors_of(["a", "b"]))
    again = cache.encode_through(KEY, ["c", "b", "d", "a"], encode)
    assert np.array_equal(again, vectors_of(["c", "b", "d", "a"]))
    cache.encode_through(KEY, ["d", "a"], encode)
    assert encode.calls == [["a", "b"], ["c", "d"]]


def test_another_process_finds_them(cache):
    cache.encode_through(KEY, ["a", "b"], Encoder())
    vectors, missing = EmbeddingCache(cache.folder).get(KEY, ["b", "x", "a"])
    assert missing.tolist() == [1]
    assert np.array_equal(vectors[[0, 2]], vectors_of(["b", "a"]))
    assert np.isnan(vectors[1]).all()


def test_duplicates_are_encoded_once_and_in_order(cache):
    encode = Encoder()
    texts = ["z", "a", "z", "", "a", "é", "z"]
    assert np.array_equal(cache.encode_through(KEY, texts, encode), vectors_of(texts))
    assert encode.calls == [["z", "a", "", "é"]]


def test_no_texts(cache):
    assert cache.encode_through(KEY, [], Encoder()).shape == (0, 0)
    cache.put(KEY, ["a"], vectors_of(["a"]))
    assert cache.encode_through(KEY, [], Encoder()).shape == (0, 4)
    assert len(segments(cache)) == 1


def test_a_folder_that_is_not_there_is_empty_and_not_made(cache):
    vectors, missing = cache.get(KEY, ["a", "b"])
    assert (vectors.shape, missing.tolist()) == ((2, 0), [0, 1])
    assert cache.info() == cache.prune(max_bytes=0) == []
    assert not cache.folder.exists()


def test_the_same_text_under_two_keys(cache):
    cache.encode_through(KEY, ["a"], Encoder())
    tuned = cache.encode_through(OTHER, ["a"], Encoder(scale=2))
    assert np.array_equal(tuned, 2 * vectors_of(["a"]))
    assert np.array_equal(cache.encode_through(KEY, ["a"], Encoder(scale=9)), vectors_of(["a"]))


@pytest.mark.parametrize("change", [{"max_tokens": 65}, {"base_sha256": "ac"}, {"adapter_sha256": ""}, {"prompt": ""}])
def test_every_field_tells_keys_apart(change):
    assert EncoderKey({**KEY.fields, **change}).name != KEY.name


def test_labels_and_the_order_of_fields_do_not():
    assert EncoderKey(dict(reversed(KEY.fields.items())), label="x").name == KEY.name


def test_lone_surrogates_are_texts_too(cache):
    cache.put(KEY, ["\ud800"], vectors_of(["\ud800"]))
    assert cache.get(KEY, ["\ud800"])[1].tolist() == []


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 4)), "shape \\(1, 4\\) for 2 texts"),
        (np.zeros(2), "shape \\(2,\\)"),
        (np.zeros((2, 0)), "shape \\(2, 0\\)"),
        (np.array([[0, 1], [np.nan, 1]]), "NaN or infinity for 1 of 2 texts, the first of them 'b'"),
        (np.array([[np.inf, 1], [np.nan, 1]]), "for 2 of 2 texts"),
    ],
)
def test_vectors_that_are_none(cache, vectors, message):
    with pytest.raises(ModelError, match=message):
        cache.encode_through(KEY, ["a", "b"], lambda texts: vectors)
    with pytest.raises(ModelError, match=message):
        cache.put(KEY, ["a", "b"], vectors)
    assert cache.info() == []


def test_a_key_that_takes_two_encoders_for_one(cache):
    cache.encode_through(KEY, ["a"], Encoder())
    with pytest.raises(ModelError, match="holds vectors of 4 numbers, and 5 came under the same key \\(tiny\\)"):
        cache.encode_through(KEY, ["a", "b"], Encoder(dim=5))


def test_many_texts_are_looked_up_at_once(cache):
    texts = [f"text {number}" for number in range(20_000)]
    vectors = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32)
    for start in range(0, 20_000, 5_000):
        cache.put(KEY, texts[start : start + 5_000], vectors[start : start + 5_000])
    order = np.random.default_rng(1).permutation(20_000)
    found, missing = EmbeddingCache(cache.folder).get(KEY, [texts[i] for i in order])
    assert len(missing) == 0
    assert np.array_equal(found, vectors[order])


IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from searchtune.retrieval.cache import EmbeddingCache, EncoderKey
cache, me = EmbeddingCache(sys.argv[1]), int(sys.argv[2])
key = EncoderKey({"base_sha256": "ab", "adapter_sha256": None, "max_tokens": 64}, label="tiny")
def encode(texts):
    return np.array([[float(text), 1.0] for text in texts], dtype=np.float32)
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, 60, 2):
    texts = [str(number) for number in range(start + me, start + me + 6)]
    assert np.array_equal(cache.encode_through(key, texts, encode), encode(texts)), start
"""


def test_two_processes_write_at_once(cache):
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(cache.folder)]
    processes = [
        subprocess.Popen([*command, str(me)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for me in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    vectors, missing = cache.get(KEY, [str(number) for number in range(65)])
    assert missing.tolist() == []
    assert vectors[:, 0].tolist() == list(range(65))


def test_many_small_segments_are_merged(cache):
    other = EmbeddingCache(cache.folder)
    for number in range(40):
        cache.put(KEY, [f"{number}", "shared"], vectors_of([f"{number}", "shared"]))
        other.get(KEY, ["0"])  # holds segments open that are merged away
    assert len(segments(cache)) < 20
    texts = [f"{number}" for number in range(40)]
    for one in (cache, other, EmbeddingCache(cache.folder)):
        vectors, missing = one.get(KEY, texts)
        assert missing.tolist() == []
        assert np.array_equal(vectors, vectors_of(texts))


@pytest.mark.parametrize("place", [0, 30, 70, -1])
def test_a_damaged_segment_is_passed_over_removed_and_encoded_again(cache, place):
    cache.put(KEY, ["a", "b"], vectors_of(["a", "b"]))
    (path,) = segments(cache)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    fresh, encode = EmbeddingCache(cache.folder), Encoder()
    with pytest.warns(CacheWarning, match="passed over, its texts are encoded again"):
        assert np.array_equal(fresh.encode_through(KEY, ["a", "b"], encode), vectors_of(["a", "b"]))
    assert encode.calls == [["a", "b"]]
    assert path not in segments(cache)
    assert EmbeddingCache(cache.folder).get(KEY, ["a", "b"])[1].tolist() == []


def test_a_truncated_segment_leaves_the_others(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    cache.put(KEY, ["b"], vectors_of(["b"]))
    path = segments(cache)[0]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(CacheWarning, match="bytes where its header says"):
        _, missing = EmbeddingCache(cache.folder).get(KEY, ["a", "b"])
    assert missing.tolist() == [0]


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from searchtune.retrieval.cache import EmbeddingCache, EncoderKey
key = EncoderKey({"base_sha256": "ab", "adapter_sha256": None, "max_tokens": 64}, label="tiny")
Path.replace = lambda self, target: os._exit(9)
EmbeddingCache(sys.argv[1]).put(key, ["a"], np.ones((1, 4), dtype=np.float32))
"""


def test_a_kill_between_write_and_rename(cache):
    done = subprocess.run([sys.executable, "-c", KILLED, str(cache.folder)])
    assert done.returncode == 9
    assert len(list((cache.folder / KEY.name).iterdir())) == 1, "the temporary file is left"
    assert cache.get(KEY, ["a"])[1].tolist() == [0]
    cache.put(KEY, ["b"], vectors_of(["b"]))
    assert sorted(path.suffix for path in (cache.folder / KEY.name).iterdir()) == [".json", ".vectors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_costs_a_warning_and_no_vector(cache, monkeypatch, number):
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    encode = Encoder()
    with pytest.warns(CacheWarning, match="going on without keeping vectors") as caught:
        for _ in range(2):
            assert np.array_equal(cache.encode_through(KEY, ["a"], encode), vectors_of(["a"]))
    assert len(caught) == 1
    assert len(encode.calls) == 2
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    with pytest.warns(CacheWarning, match="a part of this path is a file"):
        assert np.array_equal(cache.encode_through(KEY, ["a"], Encoder()), vectors_of(["a"]))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_still_read(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    (cache.folder / KEY.name).chmod(0o500)
    encode = Encoder()
    with pytest.warns(CacheWarning, match="no permission"):
        EmbeddingCache(cache.folder).encode_through(KEY, ["a", "b"], encode)
    (cache.folder / KEY.name).chmod(0o700)
    assert encode.calls == [["b"]]


def used(cache, key, days_ago):
    moment = time.time() - days_ago * 86400
    os.utime(cache.folder / key.name / KEY_FILE, (moment, moment))


def test_info(cache):
    cache.put(KEY, ["a", "b"], vectors_of(["a", "b"]))
    cache.put(KEY, ["c"], vectors_of(["c"]))
    cache.put(OTHER, ["a"], vectors_of(["a"]))
    used(cache, KEY, 3)
    first, second = cache.info()
    assert (first.label, first.texts, first.fields) == ("tuned", 1, dict(OTHER.fields))
    assert (second.name, second.texts) == (KEY.name, 3)
    assert second.bytes == sum(path.stat().st_size for path in (cache.folder / KEY.name).iterdir())
    assert second.last_used == pytest.approx(time.time() - 3 * 86400, abs=60)


def test_a_hit_counts_as_use_and_a_miss_does_not(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    used(cache, KEY, 3)
    cache.get(KEY, ["x"])
    assert time.time() - cache.info()[0].last_used > 2 * 86400
    cache.get(KEY, ["a"])
    assert time.time() - cache.info()[0].last_used < 60


@pytest.mark.parametrize("content", ["", "{", "[]", '{"label": "x"}'])
def test_a_key_file_that_cannot_be_read_is_no_obstacle(cache, content):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    (cache.folder / KEY.name / KEY_FILE).write_text(content)
    assert [(one.label, one.texts) for one in cache.info()] == [("", 1)]
    assert cache.get(KEY, ["a"])[1].tolist() == []
    assert len(cache.prune(keys=[KEY.name])) == 1


ONE_KEY = -1
"""Stands for a byte more than one key takes."""


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        ({}, []),
        ({"older_than_days": 5}, ["old"]),
        ({"older_than_days": 1}, ["old", "middle"]),
        ({"max_bytes": 10**9}, []),
        ({"max_bytes": 0}, ["old", "middle", "new"]),
        ({"max_bytes": ONE_KEY}, ["old", "middle"]),
        ({"keys": ["middle", "unheard of"]}, ["middle"]),
        ({"keys": []}, []),
        ({"keys": ["new", "middle"], "older_than_days": 1}, ["middle"]),
        ({"older_than_days": 5, "max_bytes": ONE_KEY}, ["old", "middle"]),
    ],
)
def test_pruning_takes_whole_keys_oldest_use_first(cache, arguments, gone):
    keys = {label: EncoderKey({"base_sha256": label}, label=label) for label in ("old", "middle", "new")}
    for key, days in zip(keys.values(), (10, 3, 0), strict=True):
        cache.put(key, ["a"], np.ones((1, 4), dtype=np.float32))
        used(cache, key, days)
    if "keys" in arguments:
        arguments = {**arguments, "keys": [keys[one].name if one in keys else one for one in arguments["keys"]]}
    if arguments.get("max_bytes") == ONE_KEY:
        arguments = {**arguments, "max_bytes": cache.info()[0].bytes + 1}
    assert [one.label for one in cache.candidates(**arguments)] == gone
    assert [one.label for one in cache.prune(**arguments)] == gone
    assert [one.label for one in cache.info()] == [label for label in ("new", "middle", "old") if label not in gone]


def test_pruning_leaves_what_is_not_ours(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    (cache.folder / "notes.txt").write_text("mine")
    (cache.folder / "photos").mkdir()
    (cache.folder / ".draft.tmp-1-elsewhere").write_text("mine")
    os.utime(cache.folder / ".draft.tmp-1-elsewhere", (0, 0))
    cache.prune(max_bytes=0)
    assert sorted(path.name for path in cache.folder.iterdir()) == [".draft.tmp-1-elsewhere", "notes.txt", "photos"]


def test_what_a_killed_prune_left_goes_with_the_next(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = atomic.temporary_beside(cache.folder / KEY.name).name.replace(f"-{os.getpid()}-", f"-{done.stdout.strip()}-")
    (cache.folder / KEY.name).rename(cache.folder / dead)
    assert cache.info() == []
    cache.prune(max_bytes=10**9)
    assert list(cache.folder.iterdir()) == []


def test_vectors_stay_readable_and_writable_while_another_process_prunes(cache):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    cache.get(KEY, ["a"])
    EmbeddingCache(cache.folder).prune(max_bytes=0)
    assert cache.get(KEY, ["a"])[1].tolist() == [0]
    cache.put(KEY, ["a"], vectors_of(["a"]))
    assert cache.get(KEY, ["a"])[1].tolist() == []


def test_a_key_pruned_in_the_middle_of_a_write_is_written_again(cache, monkeypatch):
    cache.put(KEY, ["a"], vectors_of(["a"]))
    write, pruned = cache_module.write_segment, []

    def prune_first(path: Path, hashes, vectors):
        if not pruned:
            pruned.append(True)
            EmbeddingCache(cache.folder).prune(max_bytes=0)
            raise FileNotFoundError(path)
        write(path, hashes, vectors)

    monkeypatch.setattr(cache_module, "write_segment", prune_first)
    cache.put(KEY, ["b"], vectors_of(["b"]))
    assert cache.get(KEY, ["a", "b"])[1].tolist() == [0]
    assert json.loads((cache.folder / KEY.name / KEY_FILE).read_text())["label"] == "tiny"


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path))
    assert EmbeddingCache().folder == default_folder() == tmp_path / "embeddings"
