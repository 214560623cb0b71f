"""CLIP models from files in OpenAI's format: one state dict, from whose shapes the architecture follows."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsin.encoders.open_clip import OpenClipEncoder, wrap
from opsin.errors import CheckpointError
from opsin.state_dicts import read_safetensors, read_torch_file

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
NEEDED = ("text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight", "logit_scale")


def load_openai_file(path: Path, device: torch.device) -> OpenClipEncoder:
    """The model (a ViT or a ResNet of "Learning Transferable Visual Models From Natural Language Supervision",
    Radford et al. 2021) of a file of tensors: `.safetensors`, or what `torch.save` wrote of a state dict.

    The networks use QuickGELU, as OpenAI's do. Nothing is ever unpickled but tensors. Raises CheckpointError for a
    TorchScript archive, which is code, for a damaged file and for tensors of another network.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import build_model_from_openai_state_dict, set_model_preprocess_cfg

    tensors = {name: tensor for name, tensor in _read(path).items() if name not in NOT_WEIGHTS}
    missing = [name for name in NEEDED if name not in tensors]
    if not any(name.startswith("visual.") for name in tensors):
        missing.append("visual.*")
    if missing:
        raise CheckpointError(f"{path} is no state dict in OpenAI's format: it has no {', '.join(missing)}")
    try:
        model = build_model_from_openai_state_dict(tensors, cast_dtype=None).float()
    except (RuntimeError, KeyError, IndexError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the tensors in {path} do not make a CLIP model of OpenAI's: {reason}") from error
    size: Any = model.visual.image_size
    preprocessing = {"size": size, "mode": "RGB", "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    preprocessing |= {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    set_model_preprocess_cfg(model, preprocessing)
    return wrap(str(path), model, device)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    if _is_torchscript(path):
        target = path.with_suffix(".state.pt").name
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is code and is not run here. If you trust it, write its tensors "
            f"to a file of their own once, by `python -c \"import torch; torch.save(torch.jit.load('{path.name}', "
            f"map_location='cpu').state_dict(), '{target}')\"`, and give that file"
        )
    content = read_torch_file(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is no state dict: it holds something else than named tensors")
    return content


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
