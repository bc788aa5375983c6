"""A folder with a marker is proved whole file by file; every kind of damage is named."""

import json

import pytest

from searchtune.errors import ArtifactError
from searchtune.storage.marker import MARKER_FILE, check_complete, is_complete, mark_complete


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"0123456789")
    (tmp_path / "sub" / "card.json").write_text("{}")
    mark_complete(tmp_path)
    return tmp_path


def test_whole_folder_passes(folder):
    check_complete(folder)
    assert is_complete(folder)
    listed = json.loads((folder / MARKER_FILE).read_text())["files"]
    assert list(listed) == ["sub/card.json", "weights.bin"]
    assert listed["weights.bin"]["bytes"] == 10


def test_no_marker(tmp_path):
    assert not is_complete(tmp_path)
    with pytest.raises(ArtifactError, match="no COMPLETE.json: the folder is missing or was never finished"):
        check_complete(tmp_path / "nowhere")


def test_a_marker_of_no_files_proves_nothing(folder):
    (folder / MARKER_FILE).write_text('{"files": {}}')
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match="lists no file, so nothing says that the folder is whole"):
        check_complete(folder)


def test_missing_file_is_named(folder):
    (folder / "sub" / "card.json").unlink()
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match=r"sub/card\.json: missing.*; copy the folder again"):
        check_complete(folder)


def test_truncated_file_is_named(folder):
    (folder / "weights.bin").write_bytes(b"01234")
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match=r"weights\.bin: 5 bytes where COMPLETE.json says 10"):
        check_complete(folder, hashes=False)


def test_one_flipped_bit_is_found_by_its_hash(folder):
    (folder / "weights.bin").write_bytes(b"0123456788")
    check_complete(folder, hashes=False)
    with pytest.raises(ArtifactError, match=r"weights\.bin: its sha256 is not the one"):
        check_complete(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"files": 3}',
        '{"files": {"a": 1}}',
        '{"files": {"a": {}}}',
        '{"files": {"../a": {"bytes": 0, "sha256": ""}}}',
    ],
)
def test_marker_that_is_no_marker(folder, text):
    (folder / MARKER_FILE).write_text(text)
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match="COMPLETE.json: "):
        check_complete(folder)


def test_marking_again_takes_changes_in_and_ignores_temporary_files(folder):
    (folder / "weights.bin").write_bytes(b"new")
    (folder / ".x.tmp-1-2-3").write_text("half")
    mark_complete(folder)
    (folder / ".x.tmp-1-2-3").unlink()
    check_complete(folder)
