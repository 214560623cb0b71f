"""Telling whether two encoders have the same weights."""

from __future__ import annotations

import hashlib

from torch import nn

from opsin.encoders.base import ImageEncoder, TextEncoder
from opsin.errors import CheckpointError, ConfigError
from opsin.state_dicts import add_to_digest


def fingerprint(encoder: object) -> str:
    """SHA-256, in hexadecimal, of every weight of the networks that an encoder is or holds as attributes.

    An encoder without such networks says what it is by its own attribute `fingerprint`. Raises ConfigError when it has
    neither, for then its vectors could not be told from those of other weights.
    """
    own = getattr(encoder, "fingerprint", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256()
    seen: set[int] = set()
    parts = [encoder, *(value for _, value in sorted(vars(encoder).items()))]
    networks = [part for part in parts if isinstance(part, nn.Module)]
    if not networks:
        raise ConfigError(
            f"{type(encoder).__name__} holds no network that would tell its vectors from those of other weights; give "
            "it an attribute `fingerprint`, a text that says what it is"
        )
    for network in networks:
        for name, tensor in network.state_dict().items():
            if tensor.data_ptr() in seen and tensor.numel() > 0:
                continue  # the image half of a network that is an attribute as a whole as well
            seen.add(tensor.data_ptr())
            add_to_digest(digest, name, tensor)
    return digest.hexdigest()


def refuse_other_encoder(encoder: ImageEncoder | TextEncoder, expected: str | None, option: str | None = None) -> None:
    """Raise CheckpointError unless the encoder has this fingerprint; None fits any.

    Vectors of another encoder may have the right width all the same, and a model would make anything of them. `option`
    is the one by which commands take the encoder from another place.
    """
    if expected is not None and (found := fingerprint(encoder)) != expected:
        elsewhere = f", name where it is now with {option}" if option else ""
        raise CheckpointError(
            f"the encoder {encoder.name} is not the one that the model was trained with: its fingerprint is "
            f"{found[:12]} and was {expected[:12]}. Put the earlier one back{elsewhere}, or train the model again "
            "with this one"
        )
