"""`opsin classify IMAGES…`: the most probable classes of each image, of a classifier or of one's own labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opsin.cli.options import Flag, ModelOptions, UsageError, parse
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
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME: a classifier, or, with
    --labels, a model of images and texts, which may also be open_clip:ARCHITECTURE/TAG, a directory with a model of
    open_clip, or a file with a CLIP state dict, and by default is emoji-clip."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="LABELS")] = None
    """Classify by labels of your own, without training: "a person,an animal,food", or @FILE with one label a line,
    which may then have commas."""
    other: Flag = False
    """With --labels: images that no label fits better than a text which says nothing are "other"."""
    template: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """With --labels: a text that is made of each label, which stands at {}. Can be given several times; by default
    several texts such as "a photo of {}"."""
    logit_scale: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """With --labels: the factor on cosines from which probabilities come; `opsin evaluate --zero-shot` says which one
    fits labelled images. By default the model's own."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """With --labels: also draw the first images with their labels into this PNG file."""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 3
    """How many classes to show for each image."""
    attention: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Of a classifier: also draw, for each image, where the model looked, into this directory."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Of a classifier: images that go through the model together, by default 64; fewer need less memory."""


def main(argv: list[str]) -> int:
    """Run `opsin classify`; returns the exit code."""
    options = parse(
        ClassifyOptions, argv, "opsin classify", "Label images with a trained classifier, or your own labels."
    )
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {options.top_k}")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {options.batch_size}")
    if options.labels is not None:
        from opsin.cli.zero_shot import classify_by_labels

        return classify_by_labels(options)
    return _classify(options, _classifier_reference(options))


def _classifier_reference(options: ClassifyOptions) -> str:
    """The model, when all that was asked for is for classifiers."""
    for name in ("template", "other", "logit_scale", "picture"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for labels of your own; give --labels as well")
    if options.model is None:
        raise UsageError("name a trained classifier with --model, or labels of your own with --labels")
    from opsin.checkpoint import read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder
    from opsin.encoders.local_clip import KIND

    if is_pretrained_encoder(options.model):
        raise UsageError(f"{options.model} is no classifier; with a model of images and texts, give --labels")
    if read_model_config(resolve_model(options.model))["kind"] == KIND:
        raise UsageError(f"{options.model} is a model of images and texts; give --labels to classify with it")
    return options.model


def _classify(options: ClassifyOptions, model: str) -> int:
    from opsin.classification.inference import Classifier
    from opsin.data.images import ImageReader, list_images
    from opsin.errors import DataError

    reader = ImageReader(list_images(options.images))
    classifier = Classifier.from_pretrained(model, device=options.device, precision=options.precision)
    results = classifier.classify(reader, top_k=options.top_k, batch_size=options.batch_size or 64)
    if not results:
        raise DataError(
            f"none of the {len(reader.files)} files is a readable image; the first: {reader.skipped[0].reason}"
        )
    if options.json:
        _print_json(model, reader, results)
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
