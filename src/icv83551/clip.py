"""Stands in for the package `clip` where that is not installed: `from icv83551 import clip`.

Networks and tokenizer are open_clip's, with OpenAI's weights. Their `encode_image` and `encode_text` are the same;
calling a network gives features and the logit scale, where OpenAI's gives logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from opsin.encoders.open_clip import load_open_clip
from opsin.encoders.openai import load_openai_file
from opsin.errors import ConfigError
from opsin.runtime import resolve_device

ARCHITECTURES = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}


def available_models() -> list[str]:
    """Names that `load` takes."""
    return list(ARCHITECTURES)


def load(name: str, device: str | torch.device = "auto") -> tuple[Any, Callable[[Image.Image], Tensor]]:
    """The network and what makes its input (3, H, W) of an RGB image; `name` is one of `available_models()`, or a file
    with a state dict in OpenAI's format.

    Raises OfflineError when the weights are not here and cannot be downloaded, CheckpointError for a file that cannot
    be used, ConfigError for an unknown name.
    """
    target = resolve_device(str(device))
    if name in ARCHITECTURES:
        encoder = load_open_clip(f"{ARCHITECTURES[name]}/openai", target)
    elif Path(name).is_file():
        encoder = load_openai_file(Path(name), target)
    else:
        raise ConfigError(f"there is no model {name!r}, and no such file; there are {', '.join(ARCHITECTURES)}")
    return encoder.model, encoder.preprocess


def tokenize(texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """Token numbers int32 (N, context_length), zeros after the end of a text.

    Raises RuntimeError for a text that is longer, unless `truncate` is set: then its end is cut off.
    """
    tokenizer = _tokenizer()
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not truncate and len(tokenizer.encode(text)) + 2 > context_length:
            raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return tokenizer(texts, context_length=context_length).int()


@cache
def _tokenizer() -> Any:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()
