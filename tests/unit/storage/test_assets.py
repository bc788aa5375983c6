"""Names resolve to paths: as a file, in the working directory, packaged; a miss suggests what was meant."""

from pathlib import Path

import pytest

from searchtune.errors import ConfigError
from searchtune.storage import assets
from searchtune.storage.assets import find_asset, list_assets


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A working directory and a packaged root, each with recipes."""
    here, package = tmp_path / "here", tmp_path / "searchtune"
    for path in [
        here / "configs" / "embed" / "mine.yaml",
        here / "configs" / "embed" / "twice.yaml",
        package / "_assets" / "configs" / "embed" / "small.yaml",
        package / "_assets" / "configs" / "embed" / "mine.yaml",
        package / "_assets" / "configs" / "rerank" / "same.yaml",
        package / "_assets" / "configs" / "embed" / "same.yaml",
        package / "_assets" / "data" / "sample" / "corpus.jsonl",
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kind: embed\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(assets, "_PACKAGE", package)
    return here, package / "_assets"


def test_a_path_comes_first(roots):
    Path("other.yaml").write_text("")
    assert find_asset("configs", "other.yaml") == Path("other.yaml")
    assert find_asset("configs", "configs/embed/mine.yaml") == Path("configs/embed/mine.yaml")


@pytest.mark.parametrize("name", ["embed/mine", "embed/mine.yaml", "mine", "mine.yaml"])
def test_the_working_directory_hides_what_is_packaged(roots, name):
    assert find_asset("configs", name) == roots[0] / "configs" / "embed" / "mine.yaml"


@pytest.mark.parametrize("name", ["embed/small", "small"])
def test_packaged(roots, name):
    assert find_asset("configs", name) == roots[1] / "configs" / "embed" / "small.yaml"


def test_ambiguous_short_name(roots):
    with pytest.raises(ConfigError, match="'same' could be any of embed/same, rerank/same"):
        find_asset("configs", "same")
    assert find_asset("configs", "rerank/same").parent.name == "rerank"


def test_a_folder_is_found_but_hides_no_asset(roots):
    Path("small").mkdir()
    Path("corpus").mkdir()
    assert find_asset("configs", "small").name == "small.yaml"
    assert find_asset("tasks", "corpus") == Path("corpus")
    assert find_asset("data", "sample") == roots[1] / "data" / "sample"


@pytest.mark.parametrize("name", ["smal", "embed/smal", "", "../configs/nope", "/nope/x.yaml"])
def test_not_found(roots, name):
    with pytest.raises(ConfigError, match="neither a file nor a name under configs/") as caught:
        find_asset("configs", name)
    assert "small" in str(caught.value)


def test_list(roots):
    assert list_assets("configs") == ["embed/mine", "embed/same", "embed/small", "embed/twice", "rerank/same"]
    assert list_assets("nothing") == []


def test_an_editable_install_reads_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = Path(__file__).parents[3]
    if (repository / "src").is_dir():
        assert list_assets("configs") == sorted(
            path.relative_to(repository / "configs").as_posix().removesuffix(".yaml")
            for path in (repository / "configs").rglob("*.yaml")
        )
