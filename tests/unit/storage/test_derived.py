"""Values kept between processes: found again, made again where they are damaged, never in the way."""

import pytest

from searchtune.storage.derived import derived, recall, remember


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never():
    raise AssertionError("made again")


@pytest.mark.parametrize("value", [b"", b"one\ntwo\n", bytes(range(256))])
def test_a_value_is_made_once(value):
    assert derived("scripts", {"version": "1"}, lambda: value) == value
    assert derived("scripts", {"version": "1"}, never) == value


def test_another_key_or_kind_is_another_value():
    remember("scripts", {"version": "1", "snippet": None}, b"old")
    assert recall("scripts", {"snippet": None, "version": "1"}) == b"old"
    assert recall("scripts", {"version": "2", "snippet": None}) is None
    assert recall("scripts", {"version": 1, "snippet": None}) is None
    assert recall("bf16", {"version": "1", "snippet": None}) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"0" * 64 + b"\nvalue"])
def test_a_damaged_value_is_made_again(home, content):
    remember("scripts", {}, b"value")
    (file,) = (path for path in home.rglob("*") if path.is_file())
    assert file.read_bytes().endswith(b"\nvalue")
    file.write_bytes(content)
    assert recall("scripts", {}) is None
    assert derived("scripts", {}, lambda: b"anew") == b"anew"
    assert recall("scripts", {}) == b"anew"


def test_where_nothing_can_be_written_nothing_is_kept(home):
    home.write_text("a file, not a folder")
    assert derived("scripts", {}, lambda: b"value") == b"value"
    assert recall("scripts", {}) is None
