"""Downloads are there whole or not at all; a stand-in takes the place of the package that downloads."""

import sys
import types
import zipfile
from pathlib import Path

import pytest

from searchtune.data.beir import read_beir
from searchtune.data.fetch import fetch
from searchtune.errors import ConfigError, DataError, MissingExtraError, OutputExistsError


@pytest.fixture
def downloads(monkeypatch):
    """Install a stand-in for `beir.util` whose download does what the test says."""

    def install(download):
        package = types.ModuleType("beir")
        package.util = types.SimpleNamespace(download_and_unzip=download)
        monkeypatch.setitem(sys.modules, "beir", package)

    return install


def copy(folder: Path, without: str = ""):
    def download(url, out):
        target = Path(out) / Path(url).stem
        for path in folder.rglob("*.*"):
            if path.name != without:
                (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                (target / path.relative_to(folder)).write_bytes(path.read_bytes())
        (Path(out) / Path(url).name).write_bytes(b"the archive")
        return str(target)

    return download


def test_fetched_set_is_read(make, downloads, tmp_path):
    downloads(copy(make()))
    folder = fetch("beir/scifact", tmp_path / "data")
    assert folder == tmp_path / "data" / "beir" / "scifact"
    assert read_beir(folder).fingerprint == read_beir(make()).fingerprint
    assert not list(folder.glob("*.zip"))
    with pytest.raises(OutputExistsError, match="already there"):
        fetch("scifact", tmp_path / "data")


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_incomplete_download_leaves_nothing(make, downloads, tmp_path, missing):
    downloads(copy(make(), without=missing))
    with pytest.raises(DataError, match=f"came incomplete: {missing}"):
        fetch("beir/scifact", tmp_path / "data")
    assert not any((tmp_path / "data" / "beir").iterdir())


@pytest.mark.parametrize("error", [ConnectionError("no route"), TimeoutError(), zipfile.BadZipFile("a web page")])
def test_no_network_is_explained(downloads, tmp_path, error):
    def download(url, out):
        raise error

    downloads(download)
    with pytest.raises(DataError, match=r"could not be downloaded \(\w+\): check the network"):
        fetch("beir/scifact", tmp_path)
    assert not any((tmp_path / "beir").iterdir())


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "beir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[fetch\]'"):
        fetch("beir/scifact", tmp_path)


@pytest.mark.parametrize("name", ["beir/scifcat", "../scifact", "http://x"])
def test_unknown_sets_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot fetch"):
        fetch(name, tmp_path)
