"""The one listing of the files below a directory, which everything that reads folders of images uses."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from opsin.counts import number_of
from opsin.errors import DataError, DataNotFoundError
from opsin.files import NOT_REGULAR, open_regular
from opsin.images.opening import IMAGE_SUFFIXES, UNREAD_SUFFIXES, Skipped
from opsin.names import printable
from opsin.sources.exclusion import Exclusion
from opsin.sources.outputs import is_own_directory, is_own_image, is_sample

HOUSEKEEPING = frozenset(
    [
        "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",  # network storage
        "$recycle.bin", "recycler", "system volume information",  # Windows
        "__macosx", "network trash folder", "temporary items",  # macOS
        "lost+found", "__pycache__",
    ]
)  # fmt: skip
"""Folders that a system or a device fills, in small letters. Names that begin with a dot are hidden besides."""

UNNAMED = "is an image whose name has no suffix of one; rename it"
SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP|II\*\0|MM\0\*|....ftyphei", re.DOTALL)
"""How most image files begin."""
LINK_TO_FOLDER = "is a link to a folder, which is not followed"
WRITTEN_BY_OPSIN = "was written by opsin and is no data"
EXAMPLES = 3


class File(NamedTuple):
    """A file of the kind that is listed."""

    id: str
    """Its path relative to the root, with `/` between the parts."""
    stat: os.stat_result
    is_link: bool


class Listing:
    """Files with certain suffixes below a directory, at any depth; those of images, if nothing else is said.

    Left out are what is hidden (a name with a dot in front), the folders of `HOUSEKEEPING`, what is excluded, and what
    opsin has written itself, unless there are no other images. Links to files are followed, links to folders are noted
    only. The root may be called anything. While `files` is iterated over, the other fields fill.
    """

    def __init__(
        self, root: Path, suffixes: Container[str] = IMAGE_SUFFIXES, exclusion: Exclusion | None = None
    ) -> None:
        self.root = root
        self._exclusion = exclusion or Exclusion()
        self._suffixes = suffixes
        self.skipped: list[Skipped] = []
        """Images and folders that were left out."""
        self.folders: list[str] = []
        """Folders that were looked into, relative to the root."""
        self.links: list[str] = []
        """Links to folders, but for those that lead back to where they are."""
        self.unreadable: list[str] = []
        """Folders whose content could not be listed."""
        self.outputs: list[str] = []
        """Images and directories that opsin has written."""
        self.other_files: Counter[str] = Counter()
        """Files with other suffixes: how many there are of each, in small letters."""

    def files(self, top: str = "") -> Iterator[File]:
        """The files below the folder `top`, which may be a link; in no particular order."""
        pending, own, some = [top], list[File](), False
        while pending:  # no recursion: folders may be nested deeper than Python's stack
            folder = pending.pop()
            path = os.path.join(self.root, folder)
            if folder and is_own_directory(path):
                self.outputs.append(folder)
                continue
            prefix = f"{folder}/" if folder else ""
            try:
                with os.scandir(path) as found:
                    for entry in found:
                        file = self._look(entry, prefix, pending)
                        if file is not None and file.id[-4:].lower() == ".png" and _is_own(file.id, entry.path):
                            own.append(file)
                        elif file is not None:
                            some = True
                            yield file
            except OSError as error:
                self.unreadable.append(folder)
                self._skip(folder or ".", f"the folder cannot be read: {error.strerror}")
            else:
                self.folders.append(folder)
        if some or top:
            self.outputs += [file.id for file in own]
        else:
            yield from own

    def _look(self, entry: os.DirEntry[str], prefix: str, pending: list[str]) -> File | None:
        """A file that is listed; a folder to go on with is put into `pending`, and the rest is noted."""
        # Very many files come by: nothing here makes a Path, or asks the file system without need.
        name = entry.name.lower()
        relative = prefix + entry.name
        if name[0] == "." or name in HOUSEKEEPING or self._exclusion.covers(relative):
            return None
        if entry.is_dir(follow_symlinks=False):
            pending.append(relative)
            return None
        suffix = name[dot:] if (dot := name.rfind(".")) > 0 else ""
        is_listed, is_link = suffix in self._suffixes, entry.is_symlink()
        if not is_listed and not is_link:
            self.other_files[suffix] += 1
            if self._suffixes is IMAGE_SUFFIXES and suffix.rstrip(" .") in ("", *IMAGE_SUFFIXES) and _is_image(entry):
                self._skip(relative, UNNAMED)
            return None
        try:
            found = entry.stat()
        except OSError as error:  # a link to nowhere, or to itself
            self._skip(relative, f"cannot be read: {error.strerror}")
            return None
        if is_listed and stat.S_ISREG(found.st_mode):
            return File(relative, found, is_link)
        if stat.S_ISDIR(found.st_mode):
            leads_back = Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())
            self.links += [] if leads_back else [relative]
        elif is_listed:
            self._skip(relative, NOT_REGULAR)
        return None

    def _skip(self, relative: str, reason: str) -> None:
        self.skipped.append(Skipped(printable(relative), reason))


def find_images(directory: Path, exclusion: Exclusion | None = None) -> list[Path]:
    """Image files below a directory, sorted; see `Listing` for what is skipped."""
    return sorted(directory / file.id for file in Listing(directory, exclusion=exclusion).files())


def list_images(paths: Iterable[str | Path], exclude: Sequence[str] = ()) -> list[Path]:
    """The files among `paths`, and all images in the directories among them, in this order.

    `exclude` are patterns for paths in the directories, and for the names of the files; see `Exclusion`. Raises
    DataError for a path that does not exist, for a directory without images, and when no file is left.
    """
    exclusion = Exclusion(exclude)
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = find_images(path, exclusion)
            if not found:
                raise DataError(f"the directory {path} has no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
            files += found
        elif not path.exists():
            raise DataNotFoundError(f"there is no file {path}")
        elif not exclusion.covers(path.name):
            files.append(path)
    if exclude and not files:
        raise DataError(f"all these images are excluded by {', '.join(map(repr, exclude))}")
    return files


def unread_formats(other_files: Counter[str]) -> list[Skipped]:
    """How many images are in formats that are not read, by suffix."""
    reason = "in a format that is not read; save as JPEG or PNG"
    counts = {suffix: other_files[suffix] for suffix in sorted(UNREAD_SUFFIXES) if other_files[suffix]}
    return [Skipped(f"*{suffix}", f"{number_of(count, 'image')} {reason}") for suffix, count in counts.items()]


def in_one_line(ids: Sequence[str], reason: str) -> list[Skipped]:
    """What is left out for one reason as one row, with its number; none for no ids."""
    if len(ids) < 2:
        return [Skipped(printable(id), reason) for id in ids]
    named = ", ".join(map(printable, ids[:EXAMPLES])) + (", …" if len(ids) > EXAMPLES else "")
    return [Skipped(named, f"{reason} ({len(ids):,} in all)")]


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image by its first bytes; False for one that cannot be read."""
    try:
        with open_regular(entry.path) as file:
            return SIGNATURES.match(file.read(12)) is not None
    except OSError:
        return False


def _is_own(relative: str, path: str) -> bool:
    """Whether a PNG is one that opsin has written."""
    return is_sample(relative) or is_own_image(path)
