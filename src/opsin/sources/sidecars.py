"""Captions in text files beside images, `NAME.txt` for `NAME.jpg`, and a remark on text files that are not read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from opsin.counts import agree, number_of
from opsin.images.opening import Skipped
from opsin.names import name_key, printable
from opsin.sources.tables import clean_texts

TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")


def read_sidecars(images: Sequence[Path], root: Path) -> tuple[list[tuple[str, ...]] | None, list[Skipped]]:
    """Captions of each image below `root`, one a line, and the files that are not UTF-8 text; None when no image has
    such a file. A file belongs to the images of exactly its name, else to those whose names have the same `name_key`.
    """
    files = _files_of(images)
    read: dict[Path, tuple[str, ...]] = {}
    skipped = []
    for path in sorted({path for path in files if path is not None}):
        try:
            # Not `splitlines`, which also ends lines at characters that a caption may hold, such as U+2028.
            read[path] = tuple(clean_texts(path.read_text(encoding="utf-8-sig").split("\n")))
        except UnicodeDecodeError:
            read[path] = ()
            skipped.append(Skipped(printable(path.relative_to(root).as_posix()), "is not UTF-8 text"))
    return [() if path is None else read[path] for path in files] if read else None, skipped


def _files_of(images: Sequence[Path]) -> list[Path | None]:
    """The text file of each image; None where it has none, or several none of which has exactly its name."""
    exact: dict[tuple[Path, str], list[int]] = defaultdict(list)
    alike: dict[tuple[Path, str], list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        exact[image.parent, image.stem].append(place)
        alike[image.parent, name_key(image.stem)].append(place)
    candidates: list[list[Path]] = [[] for _ in images]
    for folder in {image.parent for image in images}:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".txt" and path.is_file():
                for place in exact.get((folder, path.stem)) or alike.get((folder, name_key(path.stem)), []):
                    candidates[place].append(path)
    chosen: list[Path | None] = []
    for image, found in zip(images, candidates, strict=True):
        own = [path for path in found if path == image.with_suffix(".txt")] or found
        chosen.append(own[0] if len(own) == 1 else None)
    return chosen


def unread_text_files(directory: Path) -> str:
    """A remark on text files in a directory and its folders, for one in which no captions were found."""
    files = (path for pattern in ("*", "*/*") for path in directory.glob(pattern))
    names = sorted(path.relative_to(directory).as_posix() for path in files if path.suffix.lower() in TEXT_SUFFIXES)
    if not names:
        return ""
    more = f" and {number_of(len(names) - 3, 'more file')}" if len(names) > 3 else ""
    are = agree(len(names), "is", "are")
    return f"{', '.join(map(printable, names[:3]))}{more} {are} there, but in none of these layouts"
