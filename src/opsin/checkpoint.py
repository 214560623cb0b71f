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
from opsin.files import atomic_write, sync_directory, temporary_directory, write_json
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
    refuse_changed_archive(path)
