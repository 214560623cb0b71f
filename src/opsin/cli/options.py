"""Options that mean the same in every verb, and the one way in which verbs parse their arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import tyro

from opsin.cli.usage import UsageError as UsageError  # verbs find all that they need for their options here

if TYPE_CHECKING:
    import torch

OptionsT = TypeVar("OptionsT", bound="SharedOptions")
Flag = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is off unless it is given. A plain `bool` of a config also gets its opposite (`--no-flip`), whatever
its default is in a recipe."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Base of the options of every verb."""

    json: Flag = False
    """Print the result as one JSON document."""
    quiet: Flag = False
    """Print the result and errors only: no progress, no hints."""
    offline: Flag = False
    """Open no network connection; what is missing is an error that says where to put it."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SharedOptions):
    """Base of the options of a verb that runs a trained model."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto is bf16 where the hardware has it natively, else 32."""


def parse(options_class: type[OptionsT], argv: Sequence[str], prog: str, description: str) -> OptionsT:
    """Read `argv` into `options_class`; nested dataclasses become options without a prefix.

    `--offline` takes effect here, by setting `OPSIN_OFFLINE` and `HF_HUB_OFFLINE` for this process, so call
    it before importing anything that may use the network. Raises SystemExit: 0 after `--help`, 2 for wrong
    usage.
    """
    config = (tyro.conf.OmitArgPrefixes,)
    options = tyro.cli(options_class, args=list(argv), prog=prog, description=description, config=config)
    if options.offline:
        os.environ.update(OPSIN_OFFLINE="1", HF_HUB_OFFLINE="1")
    return options


def seeded_generator(seed: int) -> torch.Generator:
    """The random numbers that `--seed` asks for; UsageError when torch has no such seed."""
    import torch

    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"--seed must be from -2^63 to 2^64 - 1, not {seed}")
    return torch.Generator().manual_seed(seed)
