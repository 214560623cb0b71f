"""`opsin classify IMAGES…`: the most probable classes of each image, of a classifier or of one's own labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opsin.checkpoint import names_imagenet
from opsin.cli.options import Bounds, Flag, ModelOptions, UsageError, parse
from opsin.cli.output import AnswerPrinter, note, note_unlike, show, write_csv
from opsin.sources.exclusion import Patterns

OTHER = "other"
PHOTOGRAPHS = "--model photo-clip, or opsin classify without --labels"


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(ModelOptions):
    """Options of `opsin classify`."""

    FIRST = ("model", "labels", "top_k", "csv", "json")

    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(at least one)")
    ]
    """Image files, directories of images, and other data sources: emoji, cifar10, coco:DIR, tables, parquet files and
    archives."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME: a classifier, by
    default imagenet, which names 1,000 kinds of things in photographs. With --labels a model of images and texts, which
    may also be open_clip:ARCHITECTURE/TAG, a directory with a model of open_clip, or a file with a CLIP state dict, and
    by default is photo-clip, for images that look like emoji emoji-clip; or imagenet, for labels that name its classes
    or groups of them."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="LABELS")] = None
    """Classify by labels of your own, without training: "a person,an animal,food", or @FILE with one label a line,
    which may then have commas."""
    other: Flag = False
    """With --labels: images that no label fits better than a text which says nothing are "other"."""
    template: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """With --labels: a text that is made of each label, which stands at {}. Can be given several times; by default
    several texts such as "a photo of {}"."""
    logit_scale: Annotated[float | None, Bounds(above=0), tyro.conf.arg(metavar="FLOAT")] = None
    """With --labels: the factor on cosines from which probabilities come; `opsin evaluate --zero-shot` says which one
    fits labelled images. By default the model's own."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """With --labels: also draw the first images with their labels into this PNG file."""
    top_k: Annotated[int, Bounds(), tyro.conf.arg(aliases=["-k"])] = 3
    """How many classes to show for each image."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Also write a table with the columns file, label and probability: a row for each class that is shown."""
    attention: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Of a classifier: also draw, for each image, where the model looked, into this directory."""
    batch_size: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="INT")] = None
    """Of a classifier: images that go through the model together, by default 64; fewer need less memory."""


def main(argv: list[str]) -> int:
    """Run `opsin classify`; returns the exit code."""
    options = parse(
        ClassifyOptions, argv, "opsin classify", "Label images with a trained classifier, or your own labels."
    )
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.labels is not None and not names_imagenet(options.model or ""):
        return _classify_by_labels(options)
    return _classify(options, _classifier_reference(options))


def _classifier_reference(options: ClassifyOptions) -> str:
    """The model, when all that was asked for is for classifiers."""
    for name in ("template", "other", "logit_scale", "picture"):
        if getattr(options, name) and options.labels is None:
            raise UsageError(f"--{name.replace('_', '-')} is for labels of your own; give --labels as well")
        if getattr(options, name) and name != "other":
            raise UsageError(f"--{name.replace('_', '-')} is for models of images and texts, and imagenet is none")
    from opsin.checkpoint import IMAGENET, read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder
    from opsin.systems import SYSTEMS

    if options.model is None or names_imagenet(options.model):
        if options.attention is not None:
            raise UsageError(f"--attention is for a classifier of `opsin train vit`, and {IMAGENET} has no attention")
        return IMAGENET
    if is_pretrained_encoder(options.model):
        raise UsageError(f"{options.model} is no classifier; with a model of images and texts, give --labels")
    kind = read_model_config(resolve_model(options.model))["kind"]
    if options.attention is not None and kind == SYSTEMS["classifier"].kind:
        raise UsageError(
            f"--attention is for a classifier of `opsin train vit`; {options.model} is a head on another encoder"
        )
    if kind == SYSTEMS["clip"].kind:
        raise UsageError(f"{options.model} is a model of images and texts; give --labels to classify with it")
    return options.model


def _classify(options: ClassifyOptions, model: str) -> int:
    from opsin.classification.inference import Classifier
    from opsin.sources.opening import list_inputs

    files = list_inputs(options.images, options.exclude)
    classifier = Classifier.from_pretrained(model, device=options.device, precision=options.precision)
    if options.labels is not None:
        from opsin.classification.imagenet import ImagenetClassifier

        assert isinstance(classifier, ImagenetClassifier)
        other = OTHER if options.other else None
        classifier.use_labels(read_labels(options.labels, other), other)
    printer = AnswerPrinter("classes", files, as_json=options.json)
    found = classifier.classify_files(
        files,
        model=model,
        top_k=options.top_k,
        batch_size=options.batch_size or 64,
        progress=options.progress,
        each=printer.each,
    )
    printer.end(found)
    note_unlike(classifier, model, "opsin classify without --model", options.quiet)
    if options.csv is not None:  # after the answers: a file that cannot be written does not cost them
        write_csv(options.csv, found.spreadsheet(), options.quiet)
    if options.attention is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.classification.pictures import save_attention_pictures

        save_attention_pictures(classifier, found.files, found.answers, options.attention)
        note(f"attention pictures: {options.attention}", quiet=options.quiet)
    if options.model is None:
        note(
            "these are classes of ImageNet, by the model imagenet; for classes of your own: --labels WORDS, or a model "
            "of `opsin train classifier` and --model",
            quiet=options.quiet,
        )
    return 0


def _classify_by_labels(options: ClassifyOptions) -> int:
    _refuse_for_classifiers(options)
    labels = read_labels(options.labels or "", OTHER if options.other else None)
    from opsin.clip.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier
    from opsin.domain import SIDE
    from opsin.encoders.default import default_image_text
    from opsin.encoders.loading import load_image_text
    from opsin.images.opening import open_image
    from opsin.sources.opening import list_inputs

    files = list_inputs(options.images, options.exclude)
    model = options.model
    if model is None:
        model = default_image_text(len(files), lambda row: open_image(files[row], size=SIDE))
    classifier = ZeroShotClassifier(
        load_image_text(model, options.device, options.precision),
        labels,
        templates=options.template or DEFAULT_TEMPLATES,
        other=OTHER if options.other else None,
        logit_scale=options.logit_scale,
    )
    found = classifier.classify_files(files, model=model, top_k=options.top_k, progress=options.progress)
    show(found, options.json)
    note_unlike(classifier.encoder, model, PHOTOGRAPHS, options.quiet)
    if options.csv is not None:  # after the answers: a file that cannot be written does not cost them
        write_csv(options.csv, found.spreadsheet(), options.quiet)
    if options.picture is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.pictures import save_figure

        save_figure(found.figure(), options.picture)
        note(f"picture: {options.picture}", quiet=options.quiet)
    return 0


def _refuse_for_classifiers(options: ClassifyOptions) -> None:
    for name in ("attention", "batch_size"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for trained classifiers, not for --labels")
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes PNG; give it a name that ends in .png, not {options.picture.name!r}")
    refuse_templates(options.template)


def refuse_templates(templates: tuple[str, ...]) -> None:
    """Raise UsageError for a template without a place for the label."""
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"--template {template!r} has no {{}}, where the label belongs")


def read_labels(text: str, other: str | None = None) -> list[str]:
    """The labels of `--labels`: separated by commas, or the lines of a file when the text begins with `@`.

    Raises UsageError when they are no labels to tell images apart by, DataError when the file cannot be read.
    """
    from opsin.clip.zero_shot import check_labels
    from opsin.errors import ConfigError, DataError

    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"the labels in {path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"the labels in {path} cannot be read: it is no text in UTF-8") from error
        labels = [line.strip() for line in lines if line.strip()]
    else:
        labels = [label.strip() for label in text.split(",")] if text.strip() else []
    try:
        check_labels(labels, other)
    except ConfigError as error:
        hint = "" if other else " (--other adds a class for all else)"
        raise UsageError(f"--labels: {error}{hint}") from error
    return labels
