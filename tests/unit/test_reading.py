"""The guard: paths, text, JSON, YAML and arrays that are not what they should be, each named with its remedy."""

import os

import numpy as np
import pytest

from bad_input import ARRAY_FAULTS, JSON_FAULTS, PATHS, YAML_FAULTS
from searchtune.errors import ConfigError, DataError, ModelError
from searchtune.reading import opened, read_array, read_json, read_json_object, read_text, shown, strict_json, user_path
from searchtune.specs.base import read_yaml
from searchtune.specs.yaml_text import parse_yaml

JSON_VALUES = {"list", "list of objects", "number", "null", "text", "true"}
READ_AS_MEANT = {"other object", "no object"}
YAML_MEANT = {
    "sixties",
    "null tag",
    "octal",
    "value",
    "merge",
    "unknown keys",
    "numbers as keys",
    "null as key",
    "json",
    "many digits",
}


@pytest.mark.parametrize("fault", PATHS)
def test_paths(fault, tmp_path):
    with pytest.raises(ModelError, match=";") as caught:
        read_text(user_path(PATHS[fault](tmp_path), ModelError), ModelError)
        raise ModelError("taken; empty") if fault == "an empty file" else AssertionError(fault)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def test_a_pipe_of_the_shell_is_read():
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    with opened(user_path(f"/dev/fd/{read}")) as file:
        assert file.read() == b"text"
    os.close(read)


@pytest.mark.parametrize("fault", sorted(JSON_FAULTS.keys() - READ_AS_MEANT))
def test_json(fault, tmp_path):
    (tmp_path / "x.json").write_bytes(JSON_FAULTS[fault])
    with pytest.raises(ConfigError, match=r"x\.json: .*;"):
        read_json_object(tmp_path / "x.json", ConfigError)
    if fault in JSON_VALUES:
        read_json(tmp_path / "x.json")


def test_pairs_of_surrogates_are_one_character():
    assert strict_json('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert read_json_object(tmp_path / "x.json") == {}


@pytest.mark.parametrize("fault", sorted(YAML_FAULTS.keys() - YAML_MEANT))
def test_yaml(fault, tmp_path):
    (tmp_path / "x.yaml").write_bytes(YAML_FAULTS[fault])
    with pytest.raises(ConfigError, match=r"x\.yaml: [\s\S]*;"):
        read_yaml(tmp_path / "x.yaml")


def test_aliases_may_stand_for_a_few_values():
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {d: *a}\n", "x") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}


def test_a_file_that_is_no_recipe_by_its_size(tmp_path):
    with pytest.raises(ConfigError, match="no recipe is as long"):
        parse_yaml("a: 1\n" * (1 << 20), "x")


@pytest.mark.parametrize("fault", sorted(ARRAY_FAULTS.keys() - {"another shape"}))
def test_arrays(fault, tmp_path):
    (tmp_path / "x.npy").write_bytes(ARRAY_FAULTS[fault])
    with pytest.raises(DataError, match=r"x\.npy: .*;"):
        read_array(tmp_path / "x.npy")


def test_arrays_of_numbers_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3.0))
    assert read_array(tmp_path / "x.npy").tolist() == [0, 1, 2]


def test_what_is_shown_fits_a_line():
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert shown("y" * 900) == "y" * 120 + "... (900 characters)"
