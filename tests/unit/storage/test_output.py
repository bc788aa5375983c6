"""An output folder is made, refused, kept or replaced; nothing that searchtune did not make is ever removed."""

import os
from pathlib import Path

import pytest

from searchtune.errors import OutputExistsError, StorageError
from searchtune.storage.atomic import new_folder, write_text
from searchtune.storage.output import RUN_FILE, output_file, prepare_output

POLICIES = ["fail", "overwrite", "resume"]


@pytest.fixture
def run(tmp_path):
    folder = prepare_output(tmp_path / "run")
    (folder / "result.txt").write_text("old")
    return folder


@pytest.mark.parametrize("policy", POLICIES)
def test_new_and_empty_folders_serve_under_every_policy(tmp_path, policy):
    assert prepare_output(tmp_path / "a" / "b", policy) == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == [RUN_FILE]
    (tmp_path / "empty").mkdir()
    assert prepare_output(tmp_path / "empty", policy).is_dir()


def test_fail_names_the_ways_out(run):
    with pytest.raises(OutputExistsError, match=r"run already holds an unfinished run: add --resume .* --overwrite"):
        prepare_output(run)


def test_fail_tells_a_finished_run(tmp_path):
    with new_folder(tmp_path / "done") as temp:
        (temp / "a").write_text("a")
    with pytest.raises(OutputExistsError, match="a finished run"):
        prepare_output(tmp_path / "done", "fail")


def test_resume_keeps(run):
    prepare_output(run, "resume")
    assert (run / "result.txt").read_text() == "old"


def test_overwrite_removes(run):
    prepare_output(run, "overwrite")
    assert os.listdir(run) == [RUN_FILE]
    assert os.listdir(run.parent) == ["run"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_foreign_folder_stays(tmp_path, policy):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputExistsError, match="searchtune did not make"):
        prepare_output(tmp_path, policy)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("below", [".", "inner"])
def test_the_working_directory_and_home_stay_even_when_marked(run, monkeypatch, below):
    (run / below).mkdir(exist_ok=True)
    monkeypatch.chdir(run / below)
    with pytest.raises(OutputExistsError, match="contains the working directory"):
        prepare_output(run, "overwrite")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(run / below))
    with pytest.raises(OutputExistsError, match="contains the home folder"):
        prepare_output(Path("~"), "overwrite") if below == "." else prepare_output(run, "overwrite")
    assert (run / "result.txt").read_text() == "old"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_file_in_the_way(tmp_path, policy):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputExistsError, match="is a file, and the output needs a folder"):
        prepare_output(tmp_path / "f", policy)
    with pytest.raises(StorageError, match="cannot be made: Not a directory"):
        prepare_output(tmp_path / "f" / "below", policy)


def test_a_link_is_followed_and_stays(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    prepare_output(tmp_path / "link", "overwrite")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(run) == [RUN_FILE]


def test_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr("searchtune.storage.output.os.access", lambda *_: False)
    with pytest.raises(StorageError, match="is not writable for this user"):
        prepare_output(tmp_path / "run")


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_where_a_file_is_written_is_refused_at_once(tmp_path, name):
    place = Path(name) if name else tmp_path
    with pytest.raises(OutputExistsError, match="is a folder, and the output is a file"):
        output_file(place)
    if name:
        with pytest.raises(StorageError, match="a folder, where the name"):
            write_text(place, "x")
    assert output_file(tmp_path / "new.txt") == tmp_path / "new.txt"
