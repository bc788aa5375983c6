"""Downloading public BEIR sets through the `beir` package: there whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from searchtune.data.check import check_folder
from searchtune.data.tasks import PUBLIC_BEIR
from searchtune.errors import ConfigError, DataError, MissingExtraError, OutputExistsError, did_you_mean
from searchtune.storage.atomic import new_folder

_URL = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{name}.zip"


def fetch(name: str, out: Path) -> Path:
    """Download `beir/NAME` to `out/beir/NAME` and return that folder. Licences are those of the sets' owners.

    The set is downloaded beside its place, checked to be complete and then renamed. Broken single rows do not stop it:
    `searchtune data check` lists them. Without a network, and for an unknown name, it raises what to do instead.
    """
    short = name.removeprefix("beir/")
    if short not in PUBLIC_BEIR:
        raise ConfigError(f"cannot fetch {name!r}{did_you_mean(name, [f'beir/{known}' for known in PUBLIC_BEIR])}")
    target = out / "beir" / short
    if target.exists():
        raise OutputExistsError(f"{target} is already there: use it, or remove it to fetch it anew")
    util = _beir_util()
    with new_folder(target) as temp:
        unpacked = _download(util, short, temp)
        missing = [p for p in check_folder(unpacked).problems if p.kind in ("missing-file", "empty-file")]
        if missing:
            raise DataError(f"{name} came incomplete: {missing[0]}; try again later", tuple(map(str, missing)))
        for path in list(unpacked.iterdir()):
            path.rename(temp / path.name)
        unpacked.rmdir()
        (temp / f"{short}.zip").unlink(missing_ok=True)
    return target


def _beir_util() -> Any:
    try:
        from beir import util
    except ImportError as error:
        message = "fetching needs the package beir: pip install 'searchtune[fetch]'"
        raise MissingExtraError(message) from error
    return util


def _download(util: Any, short: str, folder: Path) -> Path:
    url = _URL.format(name=short)
    try:
        unpacked = Path(util.download_and_unzip(url, str(folder)))
    except (OSError, zipfile.BadZipFile) as error:  # every error of requests is an OSError
        raise DataError(
            f"{url} could not be downloaded ({type(error).__name__}): check the network and try again, "
            f"or unpack it elsewhere and copy the folder to datasets/beir/{short}"
        ) from error
    if not unpacked.is_dir():
        raise DataError(f"{url} did not unpack to a folder {short!r}: try again, or unpack it by hand")
    return unpacked
