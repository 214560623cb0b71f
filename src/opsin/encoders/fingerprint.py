"""Telling whether two encoders have the same weights."""

from __future__ import annotations

from torch import nn

from opsin.encoders.base import ImageEncoder, TextEncoder
from opsin.errors import CheckpointError, ConfigError
from opsin.state_dicts import digest_in_order


def fingerprint(encoder: object) -> str:
    """A text that tells an encoder's vectors from those of other weights: its own attribute `fingerprint`, which every
    `NetworkEncoder` has, else SHA-256, in hexadecimal, of the networks that the encoder is or holds as attributes.

    Raises ConfigError when it has neither.
    """
    own = getattr(encoder, "fingerprint", None)
    if isinstance(own, str):
        return own
    parts = [encoder, *(value for _, value in sorted(vars(encoder).items()))]
    networks = [part for part in parts if isinstance(part, nn.Module)]
    if not networks:
        raise ConfigError(
            f"{type(encoder).__name__} holds no network that would tell its vectors from those of other weights; give "
            "it an attribute `fingerprint`, a text that says what it is"
        )
    return digest_in_order(item for network in networks for item in network.state_dict().items())


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
