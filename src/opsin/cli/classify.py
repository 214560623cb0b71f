"""`opsin classify IMAGES…`: the most probable classes of each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opsin.cli.options import SharedOptions, UsageError, parse
from opsin.cli.output import note, print_json, print_table


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(SharedOptions):
    """Options of `opsin classify`."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files and directories of images."""
    model: str
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME."""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 3
    """How many classes to show for each image."""
    attention: Path | None = None
    """Also draw, for each image, where the model looked, into this directory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Run `opsin classify`; returns the exit code."""
    options = parse(ClassifyOptions, argv, "opsin classify", "Label images with a trained classifier.")
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {options.top_k}")
    from opsin.classification.inference import Classifier
    from opsin.data.images import load_images
    from opsin.errors import DataError

    classifier = Classifier.from_pretrained(options.model, device=options.device)
    loaded = load_images(options.images)
    if not loaded.images:
        raise DataError(
            f"none of the {len(loaded.skipped)} files is a readable image; the first: {loaded.skipped[0].reason}"
        )
    results = classifier.classify(loaded.images, top_k=options.top_k)
    if options.attention is not None:
        from opsin.classification.pictures import save_attention_pictures

        save_attention_pictures(classifier, loaded.images, loaded.ids, results, options.attention)
    if options.json:
        print_json(
            {
                "model": options.model,
                "images": [
                    {
                        "image": name,
                        "labels": result.labels,
                        "probabilities": [round(p, 6) for p in result.probabilities],
                    }
                    for name, result in zip(loaded.ids, results, strict=True)
                ],
                "skipped": [{"id": row.id, "reason": row.reason} for row in loaded.skipped],
            }
        )
    else:
        rows = [
            (
                name,
                "  ".join(f"{label} {p:.1%}" for label, p in zip(result.labels, result.probabilities, strict=True)),
            )
            for name, result in zip(loaded.ids, results, strict=True)
        ]
        print_table(("image", "classes"), rows)
    for row in loaded.skipped:
        note(f"left out: {row.id}: {row.reason}")
    if options.attention is not None:
        note(f"attention pictures: {options.attention}", quiet=options.quiet)
    return 0
