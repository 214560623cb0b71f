"""`opsin export MODEL --out DIR`: a model in a directory of its own, to be passed on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opsin.cli.options import Flag, SharedOptions, UsageError, parse
from opsin.cli.output import human_bytes, note, print_json


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
    card: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A model card in Markdown that takes the place of the one that training wrote."""


def main(argv: list[str]) -> int:
    """Run `opsin export`; returns the exit code."""
    options = parse(ExportOptions, argv, "opsin export", "Write a model into a directory of its own.")
    card = None if options.card is None else _read_card(options.card)
    from opsin.checkpoint import MODEL_FILES, export_pretrained

    with tempfile.TemporaryDirectory() as folder:
        model = _encoder_alone(options.model, Path(folder) / "model") if options.encoder_only else options.model
        directory = export_pretrained(model, options.out, half=options.half, card=card)
    size = sum((directory / name).stat().st_size for name in MODEL_FILES)
    if options.json:
        print_json({"model": str(directory), "bytes": size})
    else:
        print(f"model: {directory}  ({human_bytes(size)})")
    note(f"next: opsin profile {directory}", quiet=options.quiet)
    return 0


def _encoder_alone(model: str, directory: Path) -> Path:
    from opsin import SimclrEncoder

    return SimclrEncoder.from_pretrained(model, device="cpu").without_projection().save_pretrained(directory)


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the model card {path} cannot be read as text: {error}") from error
