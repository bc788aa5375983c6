"""Hashes: known values, canonical JSON, array layout, and field boundaries."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.storage.fingerprint import Fingerprint, sha256_array, sha256_file, sha256_json, sha256_text


def test_known_values(tmp_path):
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_is_canonical():
    assert sha256_json({"a": [1, "ü"], "b": None}) == sha256_json({"b": None, "a": [1, "ü"]})
    assert sha256_json([1, 2]) != sha256_json([2, 1])
    with pytest.raises(ValueError):
        sha256_json(float("nan"))


def test_array_layout_does_not_matter_but_shape_and_type_do():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert sha256_array(a) == sha256_array(np.asfortranarray(a)) == sha256_array(a.astype(">f4"))
    assert sha256_array(a) == sha256_array(np.repeat(a, 2, axis=1)[:, ::2])
    different = [a.reshape(4, 3), a.reshape(-1), a.astype(np.float64), a.astype(np.int32), a + 1, a[:0]]
    assert len({sha256_array(x) for x in [a, *different]}) == 7
    assert sha256_array(np.float32(3).reshape(())) != sha256_array(np.full(1, 3, np.float32))
    with pytest.raises(TypeError, match="object"):
        sha256_array(np.array(["a", None], dtype=object))


texts = st.lists(st.text(max_size=5), max_size=5)


@given(texts, texts)
def test_field_boundaries_are_unambiguous(first, second):
    same = Fingerprint().add(*first).hexdigest() == Fingerprint().add(*second).hexdigest()
    assert same == (first == second)


@given(texts, texts, texts, texts)
def test_list_boundaries_are_unambiguous(a, b, c, d):
    one = Fingerprint().add_texts(a).add_texts(b).hexdigest()
    other = Fingerprint().add_texts(c).add_texts(d).hexdigest()
    assert (one == other) == ((a, b) == (c, d))


def test_kinds_differ():
    values = ["1", b"1", 1, 1.0, True, None, "None"]
    assert len({Fingerprint().add(value).hexdigest() for value in values}) == len(values)
