"""Segments of the embedding cache: what is written is found, and nothing damaged is handed out."""

import numpy as np
import pytest

from searchtune.retrieval.cache import text_hashes
from searchtune.retrieval.segments import DamagedSegment, count_rows, open_segment, write_segment

TEXTS = [f"text {number}" for number in range(200)]
VECTORS = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    write_segment(tmp_path / "a.vectors", text_hashes(TEXTS), VECTORS)
    return tmp_path / "a.vectors"


def test_every_text_finds_its_vector_to_the_bit(path):
    segment = open_segment(path)
    rows = segment.find(text_hashes(TEXTS))
    assert (segment.dim, count_rows(path)) == (5, 200)
    assert np.array_equal(segment.read(rows), VECTORS)
    assert sorted(rows.tolist()) == list(range(200))


def test_absent_texts_have_no_row(path):
    assert open_segment(path).find(text_hashes(["text 1", "", "text 200"])).tolist()[1:] == [-1, -1]


def test_hashes_that_end_in_zeros_stay_apart(tmp_path):
    hashes = np.frombuffer(bytes(16) + b"a" + bytes(15) + b"a" * 16, dtype="S16")
    write_segment(tmp_path / "z.vectors", hashes, np.eye(3, dtype=np.float32))
    segment = open_segment(tmp_path / "z.vectors")
    assert np.array_equal(segment.read(segment.find(hashes)), np.eye(3))


@pytest.mark.parametrize("rows", [1, 63, 64, 65])
def test_sizes_around_a_block(tmp_path, rows):
    write_segment(tmp_path / "b.vectors", text_hashes(TEXTS[:rows]), VECTORS[:rows])
    segment = open_segment(tmp_path / "b.vectors")
    assert np.array_equal(segment.read(segment.find(text_hashes(TEXTS[:rows]))), VECTORS[:rows])


@pytest.mark.parametrize("size", [0, 10, 63, 64, 1000, 4031, -1])
def test_a_segment_cut_short_is_not_opened(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(DamagedSegment, match=r"a\.vectors"):
        open_segment(path)


def test_a_segment_with_more_bytes_is_not_opened(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedSegment, match="bytes where its header says"):
        open_segment(path)


@pytest.mark.parametrize("place", [0, 8, 20, 28, 64, 64 + 3199, 64 + 3200 + 1])
def test_a_changed_byte_before_the_vectors_is_noticed_at_opening(path, place):
    flip(path, place)
    with pytest.raises(DamagedSegment):
        open_segment(path)


def test_a_changed_vector_is_noticed_when_its_block_is_read(path):
    flip(path, -1)  # the last block
    segment = open_segment(path)
    assert np.isfinite(segment.read(np.arange(128))).all()
    with pytest.raises(DamagedSegment, match="vectors from row 192 on"):
        segment.read(np.array([5, 199]))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
