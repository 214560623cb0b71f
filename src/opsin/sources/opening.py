"""Data sources: one string names the data in every command.

`emoji`, `cifar10`, `cifar10:DIR`, `coco:DIR`, a directory (class folders or flat, with or without captions),
`FILE.csv`, `FILE.zip`, `FILE.tar`, `FILE.parquet`, or a directory of parquet files. `course-coco:DIR` holds features,
no images; see `opsin.data.course_coco`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from opsin.config import nearest_name
from opsin.counts import agree, number_of
from opsin.errors import DataError, DataNotFoundError, OpsinError
from opsin.files import NOT_REGULAR
from opsin.images.opening import Skipped, StoredImage
from opsin.names import printable
from opsin.sources.archives import is_archive, unpack
from opsin.sources.exclusion import Exclusion
from opsin.sources.image_source import UNLABELLED, ImageSource
from opsin.sources.image_tables import TEXT_SUFFIXES
from opsin.sources.listing import list_images
from opsin.sources.parquet_files import find_parquet
from opsin.sources.tables import TABLE_SUFFIXES

logger = logging.getLogger(__name__)
SHOWN = 10
"""Names that a message lists, at most."""
KINDS = (
    "give a directory, a .csv, .parquet, .zip or .tar file, emoji, cifar10:DIR, coco:DIR, or, for captioners, "
    "course-coco:DIR"
)
KINDS_OF_DIRECTORIES = ("cifar10", "coco", "course-coco")
"""What may stand before the colon of `KIND:DIR`."""


def is_same_source(ref: str, other: str) -> bool:
    """Also when a directory or file is written in two ways, or read as another kind of source: its training images
    must not pass for unseen ones."""
    if ref == other:
        return True
    first, second = _path_of(ref), _path_of(other)
    return first is not None and second is not None and first.samefile(second)


def _path_of(ref: str) -> Path | None:
    """The directory or file that a source is read from, where there is one."""
    if ref == "emoji":
        return None
    kind, _, argument = ref.partition(":")
    path = Path(argument if kind in KINDS_OF_DIRECTORIES else ref).expanduser()
    if kind == "cifar10" and not argument:
        from opsin.sources.cifar10 import cifar10_directory

        path = cifar10_directory()
    elif not ref or ref == f"{kind}:":
        return None
    return path if path.exists() else None


def open_source(ref: str | Path, *, labels: bool = True, exclude: Sequence[str] = ()) -> ImageSource:
    """Open the source that a string names.

    `labels=False` says that images without a label are of use: a folder then also gives those that lie beside its
    class folders (`opsin.sources.folders`). Else a class that is validated or tested and never trained on is a warning
    in the log. `exclude` are patterns for names and paths of files and folders, or for the ids of a source that is no
    folder (`opsin.sources.exclusion`). Raises DataError, saying which layouts were tried, when there is no such source,
    and when a folder or file of it cannot be read.
    """
    try:
        source = _open(str(ref), labels, exclude)
    except OpsinError:
        raise
    except OSError as error:  # no permission, or too long a name
        where = error.filename if isinstance(error.filename, str) else str(ref)
        raise DataError(f"{printable(where[:200])} cannot be read: {error.strerror or error}") from error
    if labels and (untrained := _untrained_classes(source)):
        named = ", ".join(untrained[:SHOWN]) + (", …" if len(untrained) > SHOWN else "")
        logger.warning(
            "of %r, %s to validate or test on and none to train on: %s; a model cannot know them",
            printable(source.name),
            f"{number_of(len(untrained), 'class', 'classes')} {agree(len(untrained), 'has', 'have')} images",
            named,
        )
    return source


def _untrained_classes(source: ImageSource) -> list[str]:
    """Classes that only images outside of the training split have, in a source that has one."""
    if source.labels is None or source.class_names is None or source.splits is None:
        return []
    is_training = source.splits == "train"
    if not is_training.any():
        return []
    untrained = np.setdiff1d(source.labels[~is_training], [*source.labels[is_training], UNLABELLED])
    return [source.class_names[label] for label in untrained]


def _open(text: str, labels: bool, exclude: Sequence[str]) -> ImageSource:
    if not text:
        raise DataError(f"the name of the data source is empty; {KINDS}")
    path = Path(text).expanduser()
    source = _open_named(text)
    if source is None and path.is_dir():
        return _open_directory(path, text, labels, exclude)
    if source is None and path.is_file() and is_archive(path):
        return _open_directory(unpack(path), text, labels, exclude)
    return exclude_images(_open_file(text, path) if source is None else source, exclude)


def _open_named(text: str) -> ImageSource | None:
    """The source that says by its name of what kind it is; None for a path."""
    kind, _, argument = text.partition(":")
    if text == "emoji":
        from opsin.sources.emoji import emoji_source

        return emoji_source()
    if kind == "cifar10":
        from opsin.sources.cifar10 import cifar10_source

        return cifar10_source(Path(argument).expanduser() if argument else None)
    if kind == "coco" and argument:
        from opsin.sources.coco import coco_source

        return coco_source(Path(argument).expanduser(), name=text)
    if kind == "course-coco":
        raise DataError(
            f"{text!r} holds image features instead of images, so only a captioner can be trained and judged on it"
        )
    return None


def _open_directory(path: Path, name: str, labels: bool, exclude: Sequence[str]) -> ImageSource:
    from opsin.sources.folders import folder_source
    from opsin.sources.parquet import parquet_source
    from opsin.sources.parquet_files import find_parquet

    if parquet_files := find_parquet(path):
        return exclude_images(parquet_source(parquet_files, name=name), exclude)
    return folder_source(path, name=name, labels=labels, exclude=exclude)


def _open_file(text: str, path: Path) -> ImageSource:
    if not path.exists():
        raise DataNotFoundError(_no_such_source(text, path))
    if not path.is_file():
        raise DataError(f"{printable(str(path))} {NOT_REGULAR}")
    if path.suffix.lower() == ".parquet":
        from opsin.sources.parquet import parquet_source

        return parquet_source({None: [path]}, name=text)
    if path.suffix.lower() in TABLE_SUFFIXES:
        from opsin.sources.image_tables import table_source

        return table_source(path, name=text)
    if path.suffix.lower() in TEXT_SUFFIXES and path.suffix.lower() != ".json":  # that may be COCO's, elsewhere
        raise DataError(f"{path} is no source by itself; give its directory, {path.parent}")
    raise DataError(f"{path} is a file, but no table, parquet file or archive; {KINDS}")


def exclude_images(source: ImageSource, patterns: Sequence[str], done: Sequence[str] = ()) -> ImageSource:
    """The source without the images whose ids, or folders in them, a pattern fits; what was excluded is listed.

    `done` are patterns that it was opened with. Raises DataError when no image is left.
    """
    patterns = [pattern for pattern in patterns if pattern not in done]
    if not patterns:
        return source
    exclusion = Exclusion(patterns)
    kept = np.array([not exclusion.covers_part(id) for id in source.ids], dtype=bool)
    if not kept.any():
        raise DataError(f"every image of {source.name!r} is excluded by {', '.join(map(repr, patterns))}")
    left_out = [Skipped(printable(pattern), reason) for pattern, reason in exclusion.report().items()]
    return replace(source.select(kept), skipped=[*source.skipped, *left_out])


def open_labelled(ref: str, *, min_classes: int = 2, exclude: Sequence[str] = ()) -> ImageSource:
    """`open_source` for what takes labels; DataError unless it has images of at least so many classes, besides.

    Images without a label are skipped. Learning takes two classes; one is enough to judge a model that knows others
    as well.
    """
    source = open_source(ref, exclude=exclude).labelled()
    if source.label_sets is not None:
        counts = [len(labels) for labels in source.label_sets]
        several, example = sum(count > 1 for count in counts), source.ids[counts.index(max(counts))]
        raise DataError(
            f"{several} of the {number_of(len(source), 'image')} of {ref!r} {agree(several, 'has', 'have')} several "
            f"labels, for example {printable(example)}; a model with one class an image needs one "
            "label each"
        )
    if source.labels is None or source.class_names is None:
        raise DataError(
            f"the source {ref!r} has no labels; name one with class folders, or with a column `label`, by --data"
            + _beside_folders(source)
        )
    present = np.unique(source.labels)
    if len(present) < min_classes:
        name = source.class_names[int(present[0])] if len(present) else "none"
        raise DataError(
            f"the source {ref!r} has images of one class only ({name}); telling apart takes at least two"
            + _deeper_classes(source)
        )
    return source


def _beside_folders(source: ImageSource) -> str:
    """A remark on images that lie beside folders with fewer images, which then are no classes."""
    beside = sum("/" not in id for id in source.ids)
    if not Path(source.name).expanduser().is_dir() or beside in (0, len(source)):
        return ""
    lie = agree(beside, "lies", "lie")
    return (
        f". Of its {len(source)} images {beside} {lie} beside the folders, and too few in them to be taken for classes"
    )


def _deeper_classes(source: ImageSource) -> str:
    """A remark on the folder whose folders may be the classes, where all images lie in one that has several."""
    path = Path(source.name).expanduser()
    folders = [PurePosixPath(id).parts[:-1] for id in source.ids] if path.is_dir() else []
    common = os.path.commonprefix(folders)
    if not folders or len({parts[: len(common) + 1] for parts in folders}) < 2:
        return ""
    return f". If the folders in {printable('/'.join(common))} are the classes, name {path.joinpath(*common)} instead"


def _no_such_source(text: str, path: Path) -> str:
    known = ["emoji", "cifar10"]
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    siblings = [str(path.parent / entry.name) for entry in beside if _may_be_source(entry)]
    near = nearest_name(text, known + siblings)
    hint = f"did you mean {near!r}?" if near else KINDS
    return f"there is no data source {text!r}: no directory, no file and no name of a source; {hint}"


def _may_be_source(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in (".parquet", *TABLE_SUFFIXES) or is_archive(path)


def list_inputs(refs: Iterable[str | Path], exclude: Sequence[str] = ()) -> list[Path | StoredImage]:
    """Image files, all images in directories, and all images of other sources, in this order.

    `exclude` are patterns; see `opsin.sources.exclusion`. Raises what `list_images` and `open_source` raise.
    """
    found: list[Path | StoredImage] = []
    for are_sources, group in groupby(map(str, refs), _is_source):
        if not are_sources:
            found += list_images(group, exclude)
            continue
        for ref in group:
            source = open_source(ref, labels=False, exclude=exclude)
            found += [StoredImage(f"{ref}/{id}", partial(source.load, row)) for row, id in enumerate(source.ids)]
    return found


def _is_source(ref: str) -> bool:
    """Whether this is no image file and no directory of image files."""
    path = Path(ref)
    if path.is_dir():
        return bool(find_parquet(path))
    if path.exists():
        return path.suffix.lower() in (".parquet", *TABLE_SUFFIXES) or is_archive(path)
    return ref in ("emoji", "cifar10") or ref.startswith(("cifar10:", "coco:"))
