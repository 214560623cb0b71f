"""What `opsin classify --labels` does: labels as texts, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opsin.cli.options import UsageError
from opsin.cli.output import note, note_unlike, show, write_csv

if TYPE_CHECKING:
    from opsin.cli.classify import ClassifyOptions

OTHER = "other"
PHOTOGRAPHS = "--model photo-clip, or opsin classify without --labels"


def classify_by_labels(options: ClassifyOptions) -> int:
    """Run `opsin classify --labels`; returns the exit code."""
    _refuse_senseless(options)
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


def _refuse_senseless(options: ClassifyOptions) -> None:
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
