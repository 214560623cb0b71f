"""`opsin export MODEL --out DIR`: a model in a directory of its own, to be passed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from opsin.cli.options import Flag, SharedOptions, UsageError, parse
from opsin.cli.output import note, print_json


@dataclass(frozen=True, kw_only=True)
class ExportOptions(SharedOptions):
    """Options of `opsin export`."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME."""
    out: Path
    """The directory to write; a model that is there already is replaced."""
    half: Flag = False
    """Round the weights to float16, which halves the size."""
    encoder_only: Flag = False
    """Leave out the projection that a model of `opsin train simclr` was trained with: its features stay the same."""
    weights: Literal["best", "last"] | None = None
    """Of a run directory: the best weights by validation, or the last ones (EMA weights where the run has them). By
    default those that the run chose for its model."""
    card: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A model card in Markdown that takes the place of the one that training wrote."""


def main(argv: list[str]) -> int:
    """Run `opsin export`; returns the exit code."""
    options = parse(ExportOptions, argv, "opsin export", "Write a model into a directory of its own.")
    card = None if options.card is None else _read_card(options.card)
    from opsin.training.run_directory import export_model

    exported = export_model(
        options.model,
        options.out,
        half=options.half,
        encoder_only=options.encoder_only,
        weights=options.weights,
        card=card,
    )
    if options.json:
        print_json(exported.document())
    else:
        print(exported.summary)
    note(f"next: opsin profile {exported.directory}", quiet=options.quiet)
    return 0


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the model card {path} cannot be read as text: {error}") from error
