"""`opsin classify IMAGES…`: the most probable classes of each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opsin.cli.options import ModelOptions, UsageError, parse
from opsin.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from opsin.classification.inference import Classification
    from opsin.data.images import ImageReader


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(ModelOptions):
    """Options of `opsin classify`."""

    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(at least one)")
    ]
    """Image files and directories of images."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME."""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 3
    """How many classes to show for each image."""
    attention: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also draw, for each image, where the model looked, into this directory."""
    batch_size: int = 64
    """Images that go through the model together; fewer need less memory."""


def main(argv: list[str]) -> int:
    """Run `opsin classify`; returns the exit code."""
    options = parse(ClassifyOptions, argv, "opsin classify", "Label images with a trained classifier.")
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {options.top_k}")
    if options.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {options.batch_size}")
    from opsin.classification.inference import Classifier
    from opsin.data.images import ImageReader, list_images
    from opsin.errors import DataError

    reader = ImageReader(list_images(options.images))
    classifier = Classifier.from_pretrained(options.model, device=options.device, precision=options.precision)
    results = classifier.classify(reader, top_k=options.top_k, batch_size=options.batch_size)
    if not results:
        raise DataError(
            f"none of the {len(reader.files)} files is a readable image; the first: {reader.skipped[0].reason}"
        )
    if options.json:
        _print_json(options.model, reader, results)
    else:
        _print_table(reader, results)
    if options.attention is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.classification.pictures import save_attention_pictures

        save_attention_pictures(classifier, reader.read, results, options.attention)
        note(f"attention pictures: {options.attention}", quiet=options.quiet)
    return 0


def _print_json(model: str, reader: ImageReader, results: list[Classification]) -> None:
    images = [
        {
            "image": str(path),
            "labels": result.labels,
            "probabilities": [round(probability, 6) for probability in result.probabilities],
        }
        for path, result in zip(reader.read, results, strict=True)
    ]
    skipped = [{"id": row.id, "reason": row.reason} for row in reader.skipped]
    print_json({"model": model, "images": images, "skipped": skipped})


def _print_table(reader: ImageReader, results: list[Classification]) -> None:
    rows = []
    for path, result in zip(reader.read, results, strict=True):
        best = zip(result.labels, result.probabilities, strict=True)
        rows.append((str(path), "  ".join(f"{label} {probability:.1%}" for label, probability in best)))
    print_table(("image", "classes"), rows)
    for row in reader.skipped:
        print(f"left out  {row.reason}")
