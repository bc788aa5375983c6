"""Named YAML and data that come with searchtune, or that a project keeps in folders of the same names.

A name is looked up as a file, then under `./FOLDER/`, then among what is packaged: `searchtune/_assets/` in a wheel,
the repository's root in an editable install.
"""

from __future__ import annotations

from pathlib import Path

from searchtune.errors import ConfigError, did_you_mean
from searchtune.reading import user_path

_PACKAGE = Path(__file__).resolve().parents[1]


def find_asset(folder: str, name: str) -> Path:
    """The file (or data folder) that `name` means; `folder` is `tasks`, `configs`, `eval` or `data`.

    `name` is a path, or a name below `folder` with or without `.yaml`, or only its last part where that is unique:
    `configs/embed/x.yaml` in the packaged root is found as `embed/x` and as `x`. A folder in the working directory that
    merely bears the name of an asset does not hide it.
    """
    path = user_path(name)
    if path.is_file():
        return path
    for root in _roots(folder):
        found = _find_below(root, name)
        if found is not None:
            return found
    if name and path.is_dir():
        return path
    known = {alias for asset in list_assets(folder) for alias in (asset, asset.rpartition("/")[2])}
    raise ConfigError(f"{name!r} is neither a file nor a name under {folder}/{did_you_mean(name, known)}")


def list_assets(folder: str) -> list[str]:
    """The names of all YAML files below `folder`, working directory and packaged, without `.yaml`, sorted."""
    names = {_name(path, root) for root in _roots(folder) for path in root.rglob("*.yaml")}
    return sorted(names)


def _roots(folder: str) -> list[Path]:
    """The folders that are searched, nearest first."""
    packaged = _PACKAGE / "_assets"
    repository = _PACKAGE.parents[1]
    if not packaged.is_dir() and (repository / "pyproject.toml").is_file():
        packaged = repository
    candidates = [Path.cwd() / folder, packaged / folder]
    return [root for root in dict.fromkeys(candidates) if root.is_dir()]


def _find_below(root: Path, name: str) -> Path | None:
    if Path(name).is_absolute() or ".." in Path(name).parts or name in ("", "."):
        return None
    for exact in (root / f"{name}.yaml", root / name):
        if exact.exists():
            return exact
    stem = name.removesuffix(".yaml")
    matches = sorted(path for path in root.rglob("*.yaml") if f"/{_name(path, root)}".endswith(f"/{stem}"))
    if len(matches) > 1:
        choices = ", ".join(_name(path, root) for path in matches)
        raise ConfigError(f"{name!r} could be any of {choices}; write one of these")
    return matches[0] if matches else None


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().removesuffix(".yaml")
