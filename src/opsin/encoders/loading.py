"""From a reference to an encoder."""

from __future__ import annotations

from opsin.encoders.base import NetworkEncoder
from opsin.runtime import resolve_device


def load(ref: str, device: str = "auto") -> NetworkEncoder:
    """The encoder that a reference names; it has the protocols of `opsin.encoders.base` that its network supports.

    `timm:NAME`, `open_clip:ARCHITECTURE/TAG`, or a classifier of opsin: a zoo name, a run or model directory, or
    `hf-hub:ORG/NAME`. Raises ConfigError, CheckpointError, and OfflineError when weights are not here and cannot be
    downloaded.
    """
    target = resolve_device(device)
    kind, _, name = ref.partition(":")
    if kind == "timm" and name:
        from opsin.encoders.timm import load_timm

        return load_timm(name, target)
    if kind == "open_clip" and name:
        from opsin.encoders.open_clip import load_open_clip

        return load_open_clip(name, target)
    from opsin.encoders.local import load_local

    return load_local(ref, target)
