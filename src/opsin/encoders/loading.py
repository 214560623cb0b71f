"""From a reference to an encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from opsin import checkpoint
from opsin.checkpoint import names_imagenet
from opsin.encoders.base import ImageTextEncoder, NetworkEncoder
from opsin.encoders.fingerprint import refuse_other_encoder
from opsin.encoders.timm import interpolate_any_size
from opsin.errors import CheckpointError, ConfigError, MissingExtraError
from opsin.hub import hub_has
from opsin.pretrained import model_class
from opsin.runtime import random_state_kept, resolve_device, resolve_precision

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
        with random_state_kept():  # libraries draw random weights, and then replace them
            encoder = _load(absolute_reference(ref), target)
    except ModuleNotFoundError as error:
        library = (error.name or str(error)).partition(".")[0]
        package = {"open_clip": "open-clip-torch"}.get(library, library)
        raise MissingExtraError(f"{ref} needs {library}, which is not installed: pip install {package}") from error
    encoder.precision = precision
    return encoder


def network_outline(ref: str) -> nn.Module:
    """The network that `imagenet` or `timm:NAME` names, with any weights, for weights that are kept elsewhere.

    Raises ConfigError for other references.
    """
    import timm

    if names_imagenet(ref):
        from opsin.encoders.imagenet import ARCHITECTURE

        network: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False)
        return network
    kind, _, name = ref.partition(":")
    if kind != "timm" or not name:
        raise ConfigError(
            f"the network of {ref} cannot be kept in a classifier of its own; that takes imagenet or timm:NAME as the "
            "--backbone"
        )
    network = timm.create_model(name.partition("@")[0], pretrained=False, num_classes=0)
    interpolate_any_size(network)
    return network


def encoder_of_network(ref: str, network: nn.Module, device: torch.device) -> NetworkEncoder:
    """The encoder that a reference of `network_outline` names, with this network."""
    if names_imagenet(ref):
        from opsin.encoders.imagenet import ImagenetEncoder

        return ImagenetEncoder(network, device)
    from opsin.encoders.timm import TimmEncoder

    return TimmEncoder(ref, network, device)


def load_unchanged(ref: str, fingerprint: str | None, device: str, precision: str) -> NetworkEncoder:
    """`load`, for a model that was trained with the encoder of this fingerprint; None fits any. Raises CheckpointError
    when another one is there now, besides."""
    encoder = load(ref, device, precision)
    refuse_other_encoder(encoder, fingerprint)
    return encoder


def absolute_reference(ref: str) -> str:
    """The same reference from any working directory; see `opsin.checkpoint.absolute_reference`."""
    kind, _, name = ref.partition(":")
    if kind in LIBRARIES and "@" in name:
        name, _, file = name.partition("@")
        return f"{kind}:{name}@{Path(file).expanduser().absolute()}" if file else ref
    return checkpoint.absolute_reference(ref)


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
    return _load_own(ref, target)


def _load_own(ref: str, device: torch.device) -> NetworkEncoder:
    """A model of opsin that encodes images: a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

    Raises CheckpointError when there is no model, or when it is of another kind.
    """
    found = model_class(ref)
    if not issubclass(found, NetworkEncoder):
        raise CheckpointError(
            f"{ref} holds a model of kind {found.kind!r}, which is no encoder; give a classifier (`opsin train vit`), "
            "a model that learned without labels (`opsin train simclr`), a model of images and texts (`opsin train "
            "clip`, or emoji-clip), imagenet, timm:NAME, or open_clip:ARCHITECTURE/TAG"
        )
    encoder: NetworkEncoder = found.from_pretrained(ref, str(device))
    return encoder


def load_image_text(ref: str, device: str = "auto", precision: str = "auto") -> ImageTextEncoder:
    """`load`, for an encoder of both images and texts. Raises ConfigError for one without a text half, besides."""
    encoder = load(ref, device, precision)
    if not isinstance(encoder, ImageTextEncoder):
        raise ConfigError(
            f"{ref} encodes images only, and this needs a model that encodes texts as well, such as photo-clip, which "
            "ships with opsin, or open_clip:ViT-B-32/openai"
        )
    return encoder
