"""`opsin classify IMAGES…`: the most probable classes of each image, of a classifier or of one's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.cli.classify_options import ClassifyOptions
from opsin.cli.options import UsageError, parse
from opsin.cli.output import RowPrinter, note, note_unlike, print_json, print_skipped, write_csv
from opsin.counts import none_of

if TYPE_CHECKING:
    from opsin.classification.inference import Classification
    from opsin.clip.zero_shot import ZeroShotClassification
    from opsin.images.opening import ImageReader, StoredImage


def main(argv: list[str]) -> int:
    """Run `opsin classify`; returns the exit code."""
    options = parse(
        ClassifyOptions, argv, "opsin classify", "Label images with a trained classifier, or your own labels."
    )
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.labels is not None:
        from opsin.cli.zero_shot import classify_by_labels

        return classify_by_labels(options)
    return _classify(options, _classifier_reference(options))


def _classifier_reference(options: ClassifyOptions) -> str:
    """The model, when all that was asked for is for classifiers."""
    for name in ("template", "other", "logit_scale", "picture"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for labels of your own; give --labels as well")
    from opsin.checkpoint import IMAGENET, names_imagenet, read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder
    from opsin.systems import SYSTEMS

    if options.model is None or names_imagenet(options.model):
        if options.attention is not None:
            raise UsageError(f"--attention is for a classifier of `opsin train vit`, and {IMAGENET} has no attention")
        return IMAGENET
    if is_pretrained_encoder(options.model):
        raise UsageError(f"{options.model} is no classifier; with a model of images and texts, give --labels")
    if read_model_config(resolve_model(options.model))["kind"] == SYSTEMS["clip"].kind:
        raise UsageError(f"{options.model} is a model of images and texts; give --labels to classify with it")
    return options.model


def _classify(options: ClassifyOptions, model: str) -> int:
    from opsin.classification.inference import Classifier
    from opsin.errors import DataError
    from opsin.images.opening import ImageReader
    from opsin.progress import tracked
    from opsin.sources.opening import list_inputs

    files = list_inputs(options.images, options.exclude)
    classifier = Classifier.from_pretrained(model, device=options.device, precision=options.precision)
    reader = ImageReader(files, classifier.preprocessing.image_size)
    images = tracked(reader, options.progress, "classifying", len(reader.files))
    rows = RowPrinter(("image", "classes"), map(str, reader.files))
    results: list[Classification] = []
    for result in classifier.classify_each(images, top_k=options.top_k, batch_size=options.batch_size or 64):
        if not options.json:
            best = zip(result.labels, result.probabilities, strict=True)
            text = "  ".join(f"{label} {probability:.1%}" for label, probability in best)
            rows.print(str(reader.read[len(results)]), text)
        results.append(result)
    if not results:
        raise DataError(
            f"{none_of(len(reader.files), 'file')} is a readable image; the first: {reader.skipped[0].reason}"
        )
    if options.json:
        _print_json(model, reader, results)
    else:
        print_skipped(reader.skipped)
    note_unlike(classifier, model, "opsin classify without --model", options.quiet)
    if options.csv is not None:  # after the answers: a file that cannot be written does not cost them
        write_classes(options.csv, reader.read, results)
        note(f"table: {options.csv}", quiet=options.quiet)
    if options.attention is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.classification.pictures import save_attention_pictures

        save_attention_pictures(classifier, reader.read, results, options.attention)
        note(f"attention pictures: {options.attention}", quiet=options.quiet)
    if options.model is None:
        note(
            "these are classes of ImageNet, by the model imagenet; for classes of your own: --labels WORDS, or a model "
            "of `opsin train vit` and --model",
            quiet=options.quiet,
        )
    return 0


def write_classes(
    path: Path, files: Sequence[Path | StoredImage], results: Sequence[Classification | ZeroShotClassification]
) -> None:
    """A table of `--csv`: a row for each image and each of its classes, the most probable first."""
    rows = [
        (str(file), label, f"{probability:.6f}")
        for file, result in zip(files, results, strict=True)
        for label, probability in zip(result.labels, result.probabilities, strict=True)
    ]
    write_csv(path, ("file", "label", "probability"), rows)


def _print_json(model: str, reader: ImageReader, results: list[Classification]) -> None:
    images = [
        {
            "image": str(path),
            "labels": result.labels,
            "probabilities": result.probabilities,
        }
        for path, result in zip(reader.read, results, strict=True)
    ]
    skipped = [{"id": row.id, "reason": row.reason} for row in reader.skipped]
    print_json({"model": model, "images": images, "skipped": skipped})
