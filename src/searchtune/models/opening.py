"""What a library is let open: looked at before any library does, and its complaints as errors that a user can mend.

Weights are taken from safetensors (and GGUF) alone. A pickle runs code when it is opened, and so do Python files that a
model's configuration names; a folder that has only those is refused before transformers, peft or sentence-transformers
hear of it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from searchtune.errors import ArtifactError, ModelError
from searchtune.reading import Refusal, read_json_object, shown, user_path

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scheduler.bin"}
"""Pickles that training scripts leave behind; nobody opens them."""
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"
_MISMATCH = "look at the above report"
"""How transformers ends a complaint about weights of other shapes, after a report that `quiet` leaves out."""
_COMPLAINTS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, AssertionError, EOFError,
    ArithmeticError, MemoryError, SafetensorError,
)  # fmt: skip


class opening:  # noqa: N801
    """Within this block a library opens a folder; what it raises becomes an error that names the folder.

    Libraries raise nearly everything for a file that is not what they expect, tokenizers even a bare `Exception` and
    the panic of another language.
    """

    def __init__(self, folder: Path, what: str, error: Refusal = ModelError) -> None:
        self.folder, self.what, self.error = folder, what, error

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> None:
        bare = kind is Exception or (kind is not None and kind.__name__ == "PanicException")
        if problem is not None and (bare or isinstance(problem, _COMPLAINTS)):
            reason = next(iter(str(problem).strip().splitlines()), "") or type(problem).__name__
            if _MISMATCH in reason:
                reason = "its weights have other shapes than its config.json says"
            raise self.error(
                f"{shown(self.folder)}: {self.what}: {shown(reason)}; fetch it again, or name another"
            ) from problem


def check_weights(folder: Path) -> None:
    """Raise a `ModelError` where a base's weights are pickled, or a list of them names such files or other folders."""
    safe = any(folder.glob("*.safetensors"))
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())):
        pickled = _pickles(place)
        if pickled and not any(place.glob("*.safetensors")) and (place != folder or not safe):
            raise ModelError(
                f"{shown(folder)}: its weights are pickled ({shown(pickled[0].relative_to(folder))}), and pickles are "
                "not opened, since they run code; convert them to safetensors (save_pretrained does it), or take a "
                "model that has them"
            )
    index = folder / _INDEX
    if index.exists():
        parts = read_json_object(index, ModelError).get("weight_map")
        for name in parts.values() if isinstance(parts, dict) else [None]:
            if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
                raise ModelError(
                    f"{shown(index)}: names {shown(repr(name))} as a part of the weights, and only *.safetensors "
                    "beside it are opened; fetch the model again"
                )


def check_code(folder: Path) -> None:
    """Raise a `ModelError` where the configuration asks for Python files of the model's own."""
    file = folder / "config.json"
    config = read_json_object(file, ModelError)
    kind = config.get("model_type")
    if config.get("auto_map") is None or not (isinstance(kind, str) and kind):
        return
    from transformers.models.auto import configuration_auto

    if kind not in vars(configuration_auto)["CONFIG_MAPPING_NAMES"]:
        raise ModelError(
            f"{shown(file)}: the model {shown(kind)!r} is code of its own (auto_map), and such code is not run; take a "
            "model that transformers knows"
        )


def check_adapter(folder: Path) -> None:
    """Raise an `ArtifactError` where an adapter's weights are not safetensors, or it names a base that is pickled."""
    pickled = _pickles(folder)
    if not (folder / _ADAPTER).is_file():
        found = f"its weights are pickled ({shown(pickled[0].name)})" if pickled else f"no {_ADAPTER} in it"
        raise ArtifactError(
            f"{shown(folder)}: {found}; adapters are read from safetensors alone: save it with "
            "safe_serialization=True, or train it again"
        )
    settings = read_json_object(folder / "adapter_config.json", ArtifactError)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise ArtifactError(
            f"{shown(folder / 'adapter_config.json')}: base_model_name_or_path is {shown(repr(base))}, and no name; "
            "copy the folder again from where it came"
        )
    if base and user_path(base, ArtifactError).is_dir():  # which sentence-transformers opens by itself
        check_weights(user_path(base, ArtifactError))


def _pickles(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _PICKLED and path.name not in _NOT_WEIGHTS
    )
