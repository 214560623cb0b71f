"""`opsin profile`: parameters and operations of a model, in total and part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import note, show

DESCRIPTION = (
    "Count the parameters of a model and its operations for one image: multiply-accumulates (MACs), and floating-point "
    "operations (FLOPs), of which a MAC is two. Matrix products, convolutions and attention are counted; element-wise "
    "work is not."
)


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(SharedOptions):
    """Options of `opsin profile`."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run or model directory, the name of a model that ships with opsin, imagenet, or hf-hub:ORG/NAME."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    options = parse(ProfileOptions, argv, "opsin profile", DESCRIPTION)
    from opsin.pretrained import load_model
    from opsin.profile import profile_pretrained

    profile = profile_pretrained(load_model(options.model, "cpu"), options.model)
    show(profile, options.json)
    note(profile.summary, options.quiet or options.json)
    return 0
