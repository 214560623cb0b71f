"""Files that hold models: pretrained directories and training states.

A pretrained directory is `config.json`, `model.safetensors` and `README.md`. A training state is one `.pt` file.
Nothing here ever unpickles code: tensors come from safetensors or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsin import config as config_files
from opsin.errors import CheckpointError, CheckpointNotFoundError, ConfigError, OfflineError
from opsin.files import atomic_write, chain_of, sync_directory, temporary_directory, write_json
from opsin.hub import hub_files
from opsin.runtime import is_offline
from opsin.state_dicts import (
    read_safetensors,
    read_torch_file,
    refuse_changed_archive,
    refuse_non_finite,
    write_safetensors,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
DOMAIN_FILE = "domain.json"
"""What the training images looked like; see `opsin.domain`. Not every model directory has it."""
MODEL_FILES = ("config.json", "model.safetensors", "README.md", DOMAIN_FILE)
ZOO_DIRECTORY = Path(__file__).parent / "zoo"
IMAGENET = "imagenet"
"""The encoder and classifier of photographs whose weights are in another package; see `opsin.encoders.imagenet`."""


# ---------------------------------------------------------------------------------------- training states


def save_training_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them to one file, atomically, with the format's version."""
    save_tensors(path, {"format_version": FORMAT_VERSION, **state})


def save_tensors(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a file of torch, atomically, that holds `content` and nothing else; CheckpointError when that fails."""
    import torch

    with atomic_write(path) as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # torch puts one in the place of the OSError of a failing write (a full disk)
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise OSError(None, str(error).splitlines()[0]) from error


def load_training_state(path: Path | str) -> dict[str, Any]:
    """Read what `save_training_state` wrote, onto the CPU, without unpickling code.

    Raises CheckpointError when the file is absent, damaged, holds anything but plain data, or is newer than this
    version of opsin.
    """
    if not Path(path).exists():
        raise CheckpointNotFoundError(f"there is no training state at {path}; nothing to resume")
    refuse_changed_archive(path)
    state = read_torch_file(path)
    if not isinstance(state, dict) or "format_version" not in state:
        raise CheckpointError(f"{path} is not a training state of opsin")
    _refuse_newer(state.pop("format_version"), path)
    return state


# ---------------------------------------------------------------------------------- pretrained directories


def save_pretrained(
    directory: Path | str,
    *,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    card: str,
    domain: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model directory and put it in place in one step; returns its path.

    `kind` says which system can load it (`vit-classifier`), `config` everything needed to build it (JSON types),
    `tensors` is its state dict, `card` the text of README.md, `domain` what its training images looked like (see
    `opsin.domain`), where that is known. An older model in `directory` is replaced. Raises
    CheckpointError when it cannot be written, or when `directory` holds anything but a model: that would be lost.
    """
    directory = Path(directory)
    target = directory.resolve()  # replace what a link leads to, not the link
    content = {"format_version": FORMAT_VERSION, "kind": kind, **config}
    _refuse_other_files(directory)
    try:
        # Copies, because safetensors refuses names that share memory (tied weights).
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        with temporary_directory(target) as staging:
            with atomic_write(staging / "model.safetensors") as file:
                write_safetensors(file, copies)
            write_json(staging / "config.json", content)
            with atomic_write(staging / "README.md") as file:
                file.write(card.encode("utf-8", "backslashreplace"))
            if domain is not None:
                write_json(staging / DOMAIN_FILE, domain)
            _swap_directory(staging, target)
    except (OSError, CheckpointError) as error:  # the latter names a file in the temporary directory
        reason = next((link.strerror for link in chain_of(error) if isinstance(link, OSError)), None)
        raise CheckpointError(f"{directory} could not be written: {reason or error}") from error
    return directory


def load_pretrained(ref: Path | str, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of the model directory that `ref` names (see `resolve_model`).

    Raises CheckpointError when it is absent, damaged, of another kind of model, or newer than this opsin.
    """
    directory = resolve_model(ref)
    content = read_model_config(directory)
    found = content.pop("kind")
    if found != kind:
        raise CheckpointError(f"{directory} holds a model of kind {found!r}; this command needs {kind!r}")
    return content, read_safetensors(directory / "model.safetensors")


def export_pretrained(ref: Path | str, directory: Path | str, *, half: bool = False, card: str | None = None) -> Path:
    """Write the model that `ref` names (see `resolve_model`) into a directory of its own; returns its path.

    With `half` its float32 weights are rounded to float16: half the size, and what loads them computes in its own
    precision all the same. `card` takes the place of the model's README.md. Raises CheckpointError when a weight does
    not fit into float16, and what `load_pretrained` and `save_pretrained` raise.
    """
    import torch

    source = resolve_model(ref)
    kind = str(read_model_config(source)["kind"])
    content, tensors = load_pretrained(source, kind=kind)
    refuse_non_finite(tensors, str(ref))
    if half:
        rounded = {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}
        for name, value in rounded.items():
            if value.is_floating_point() and not torch.equal(value.isfinite(), tensors[name].isfinite()):
                raise CheckpointError(f"{name} of {ref} does not fit into float16; export it without --half")
        tensors = rounded
    readme = source / "README.md"
    if card is None:
        card = readme.read_text(encoding="utf-8") if readme.exists() else ""
    domain = read_domain(source)
    return save_pretrained(directory, kind=kind, config=content, tensors=tensors, card=card, domain=domain)


def read_domain(directory: Path) -> dict[str, Any] | None:
    """The content of `DOMAIN_FILE` in a model directory, if there is one. Raises CheckpointError when it is damaged."""
    path = directory / DOMAIN_FILE
    try:
        return config_files.load_json(path) if path.is_file() else None
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def write_domain(directory: Path, content: Mapping[str, Any]) -> None:
    """Add `DOMAIN_FILE` to a model directory, or replace it."""
    write_json(directory / DOMAIN_FILE, content)


def read_model_config(directory: Path) -> dict[str, Any]:
    """The checked `config.json` of a model directory, with its `kind` but without its format version."""
    try:
        content = config_files.load_json(directory / "config.json")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if "kind" not in content or "format_version" not in content:
        raise CheckpointError(
            f"{directory / 'config.json'} does not describe a model of opsin (no kind, no format_version)"
        )
    _refuse_newer(content.pop("format_version"), directory / "config.json")
    return content


def resolve_model(ref: Path | str) -> Path:
    """The model directory behind a reference: a zoo name, a run or model directory, or `hf-hub:ORG/NAME`."""
    text = str(ref)
    if names_imagenet(text):
        raise CheckpointError(
            f"{IMAGENET} is an encoder and a classifier of photographs, which this cannot use: its weights come from "
            "an installed package and not from a model directory"
        )
    if not text:  # as a path it would be the working directory
        raise CheckpointError(f"the name of the model is empty; models that ship with opsin: {', '.join(zoo_names())}")
    if text.startswith("hf-hub:"):
        return hub_files(text, text.removeprefix("hf-hub:"), MODEL_FILES)
    path = Path(ref)
    if (found := _model_directory(path)) or (found := _model_directory(ZOO_DIRECTORY / text)):
        return found
    if (path / "checkpoints").is_dir():
        raise CheckpointError(f"the run {path} has not written a model yet; continue it with --resume")
    if path.exists():
        raise CheckpointError(
            f"{path} is not a model directory: it has no config.json with a model.safetensors beside it"
        )
    zoo = [*zoo_names(), IMAGENET]
    near = config_files.nearest_name(text, zoo)
    hint = f"did you mean {near!r}?" if near else f"models that ship with opsin: {', '.join(zoo)}"
    raise CheckpointNotFoundError(f"there is no model {text!r}, neither as a directory nor by that name; {hint}")


def names_imagenet(ref: Path | str) -> bool:
    """Whether a reference means `IMAGENET`, and no model directory of that name."""
    return str(ref) == IMAGENET and comes_with_opsin(ref)


def comes_with_opsin(ref: Path | str) -> bool:
    """Whether a reference names a model that is installed along with opsin. A model directory of the same name comes
    first; a folder of anything else does not."""
    return str(ref) in (*zoo_names(), IMAGENET) and _model_directory(Path(ref)) is None


def absolute_reference(ref: Path | str) -> str:
    """The same reference from any working directory: a path that exists is made absolute, unless it is a folder that
    happens to have the name of a model that ships with opsin."""
    path = Path(ref).expanduser()
    is_path = bool(str(ref)) and path.exists() and not comes_with_opsin(ref)
    return str(path.absolute()) if is_path else str(ref)


def zoo_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in ZOO_DIRECTORY.glob("*/config.json"))


def push_to_hub(directory: Path | str, repo_id: str, *, private: bool = False) -> str:
    """Upload a model directory to the Hugging Face Hub; returns the address of the repository."""
    from huggingface_hub import HfApi

    if is_offline():
        raise OfflineError(
            f"{repo_id} cannot be uploaded: this run is offline (OPSIN_OFFLINE or HF_HUB_OFFLINE is set)"
        )
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=str(directory))
    return str(url)


def _model_directory(path: Path) -> Path | None:
    """The model in a run or model directory, if there is one."""
    run_model = path / "model"
    for candidate in (run_model, _replaced(run_model), path, _replaced(path)):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    return None


def _refuse_newer(version: Any, path: Path | str) -> None:
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this opsin reads up to {FORMAT_VERSION}. Update opsin to use it."
        )


def _refuse_other_files(directory: Path) -> None:
    """A model directory is replaced as a whole; refuse to do that to a directory that is in use for something else."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; give the directory that the model is to be written to")
    if directory.samefile(os.curdir):
        raise CheckpointError(f"{directory} is the working directory, which cannot be replaced; name one inside it")
    if others := sorted({path.name for path in directory.iterdir()} - set(MODEL_FILES)):
        raise CheckpointError(
            f"{directory} holds other files than a model ({', '.join(others[:3])}), which would be lost; "
            "move them away, or choose another directory"
        )


def _replaced(directory: Path) -> Path:
    """Where the old content of a model directory lies for the instant in which a new one takes its place."""
    return directory.with_name(f".{directory.name}.replaced") if directory.name else directory


def _swap_directory(new: Path, target: Path) -> None:
    """Rename `new` to `target`. After a crash between the two renames, readers find the old content (`_replaced`)."""
    old = _replaced(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
    os.rename(new, target)
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)
