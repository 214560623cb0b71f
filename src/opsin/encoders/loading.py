"""From a reference to an encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from opsin.checkpoint import comes_with_opsin, names_imagenet
from opsin.encoders.base import ImageTextEncoder, NetworkEncoder
from opsin.errors import ConfigError, MissingExtraError
from opsin.hub import hub_has
from opsin.runtime import resolve_device, resolve_precision

LIBRARIES = ("timm", "open_clip")
"""What may stand before the colon of LIBRARY:NAME and LIBRARY:NAME@FILE."""


def load(ref: str, device: str = "auto", precision: str = "auto") -> NetworkEncoder:
    """The encoder that a reference names; it has the protocols of `opsin.encoders.base` that its network supports.

    `imagenet`, which is installed with opsin, `timm:NAME`, `open_clip:ARCHITECTURE/TAG`, with `@FILE` behind either for
    weights from a file, `hf-hub:ORG/NAME` (a model of open_clip or of opsin), a directory with a model of open_clip,
    a file with a CLIP state dict in OpenAI's format, or a model of opsin: a zoo name, a run or model directory.
    `precision` is what features are computed in: auto, 32, bf16 or 16.

    Raises ConfigError, CheckpointError, OfflineError when weights are not here and cannot be downloaded, and
    MissingExtraError when the library that has the model is not installed.
    """
    target = resolve_device(device)
    resolve_precision(precision, target)  # refuses here what encoding would refuse later
    try:
        encoder = _load(absolute_reference(ref), target)
    except ModuleNotFoundError as error:
        library = (error.name or str(error)).partition(".")[0]
        package = {"open_clip": "open-clip-torch"}.get(library, library)
        raise MissingExtraError(f"{ref} needs {library}, which is not installed: pip install {package}") from error
    encoder.precision = precision
    return encoder


def absolute_reference(ref: str) -> str:
    """The same reference from any working directory: a path that exists is made absolute, unless it is a folder that
    happens to have the name of a model that ships with opsin."""
    kind, _, name = ref.partition(":")
    if kind in LIBRARIES and "@" in name:
        name, _, file = name.partition("@")
        return f"{kind}:{name}@{Path(file).expanduser().absolute()}" if file else ref
    path = Path(ref).expanduser()
    is_path = bool(ref) and path.exists() and not comes_with_opsin(ref)
    return str(path.absolute()) if is_path else ref


def is_pretrained_encoder(ref: str) -> bool:
    """Whether a reference leads to an encoder of another library, and thus to no classifier or captioner of opsin.

    Says nothing about repositories of the Hub, which would have to be asked.
    """
    path = Path(ref).expanduser()
    if names_imagenet(ref) or ref.partition(":")[0] in LIBRARIES and ":" in ref:
        return True
    return (path / "open_clip_config.json").is_file() or path.is_file()


def _load(ref: str, target: torch.device) -> NetworkEncoder:
    if names_imagenet(ref):
        from opsin.encoders.imagenet import load_imagenet

        return load_imagenet(target)
    kind, _, name = ref.partition(":")
    if kind in LIBRARIES and name:
        name, _, file = name.partition("@")
        if kind == "timm":
            from opsin.encoders.timm import load_timm

            return load_timm(name, target, Path(file) if file else None)
        from opsin.encoders.open_clip import load_open_clip

        return load_open_clip(name, target, Path(file) if file else None)
    if kind == "hf-hub" and hub_has(name, "open_clip_config.json"):
        from opsin.encoders.open_clip import load_open_clip_hub

        return load_open_clip_hub(name, target)
    path = Path(ref).expanduser()
    if (path / "open_clip_config.json").is_file():
        from opsin.encoders.open_clip import load_open_clip_directory

        return load_open_clip_directory(path, target)
    if path.is_file():
        from opsin.encoders.openai import load_openai_file

        return load_openai_file(path, target)
    from opsin.encoders.local import load_local

    return load_local(ref, target)


def load_image_text(ref: str, device: str = "auto", precision: str = "auto") -> ImageTextEncoder:
    """`load`, for an encoder of both images and texts. Raises ConfigError for one without a text half, besides."""
    encoder = load(ref, device, precision)
    if not isinstance(encoder, ImageTextEncoder):
        raise ConfigError(
            f"{ref} encodes images only, and this needs a model that encodes texts as well, such as emoji-clip, which "
            "ships with opsin, or open_clip:ViT-B-32/openai"
        )
    return encoder
