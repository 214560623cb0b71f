"""What can be embedded: the images of a folder, or of any other data source, in an order that never changes.

A collection is a list of entries, which costs no decoding, and a way to read the image of an entry. It can be pickled,
and a part of it is small.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from opsin.errors import DataError
from opsin.files import open_regular
from opsin.images.opening import IMAGE_SUFFIXES, Skipped, open_image, pixel_digest
from opsin.names import printable
from opsin.sources.exclusion import Exclusion
from opsin.sources.image_source import ImageSource
from opsin.sources.listing import LINK_TO_FOLDER, WRITTEN_BY_OPSIN, Listing, in_one_line
from opsin.sources.opening import exclude_images, open_source
from opsin.sources.parquet_files import find_parquet

MAX_INTEGER = 2**63 - 1
"""Of SQLite and Parquet; inodes can be larger."""
MAX_FILE_BYTES = 2**30
"""Larger files are left out: no image within the limit on pixels needs more."""


class Entry(NamedTuple):
    """One image of a collection, and what tells its file from others and from earlier content; 0 for what is no file.

    Size and modification time alone do not: programs keep the time when they rename, copy or unpack a file. The change
    time (`ctime_ns`) is set by the file system alone; the inode helps where renaming leaves that as it is.
    """

    id: str
    """The path relative to the root with `/` between its parts, or the id that the source gives."""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of_file(cls, id: str, status: os.stat_result) -> Entry:
        return cls(id, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & MAX_INTEGER)


class Collection(Protocol):
    """Images in a fixed order."""

    entries: Sequence[Entry]
    skipped: Sequence[Skipped]
    """What was left out while listing, with ids that are fit to print."""
    exclude: Sequence[str]
    """The patterns that left some of it out."""

    @property
    def ref(self) -> str:
        """What `open_collection` takes."""
        ...

    @property
    def state(self) -> str:
        """Changes with the images where the entries do not say so themselves."""
        ...

    def content(self, entry: Entry) -> tuple[str, bytes | Image.Image]:
        """A digest of the image's content, and what `open_image` takes. Raises DataError when it cannot be read."""
        ...

    def image(self, id: str, size: int | None = None) -> Image.Image:
        """The decoded RGB image; `size` is that of `open_image`.

        Raises DataError when it is gone, damaged, or outside the collection."""
        ...

    def path(self, id: str) -> Path | None:
        """The file of an image, checked to lie inside; None for a source without files of its own."""
        ...


@dataclass
class FolderCollection:
    """All image files below a folder, at any depth, sorted by their paths.

    What is left out, see `Listing`; links to folders are not followed, links to files only if they stay inside.
    """

    root: Path
    entries: Sequence[Entry]
    skipped: Sequence[Skipped] = ()
    unreadable: Sequence[str] = ()
    """Folders, relative to the root, whose content could not be listed."""
    other_files: Mapping[str, int] = field(default_factory=dict)
    """Files without the suffix of an image: how many there are of each suffix, in small letters."""
    exclude: Sequence[str] = ()

    @property
    def ref(self) -> str:
        return str(self.root)

    @property
    def state(self) -> str:
        """See `Collection.state`: the entries say it all."""
        return ""

    def content(self, entry: Entry) -> tuple[str, bytes | Image.Image]:
        """See `Collection.content`; the digest is the SHA-256 of the file."""
        name = printable(entry.id)
        if entry.size > MAX_FILE_BYTES:
            raise DataError(f"{name} has {entry.size:,} bytes, and the limit is {MAX_FILE_BYTES:,}")
        try:
            with open_regular(contained_path(self.root, entry.id)) as file:
                content = file.read()
        except FileNotFoundError as error:
            raise UnreadableFile(f"{name} has gone since the folder was listed") from error
        except OSError as error:
            raise UnreadableFile(f"{name} cannot be read: {error.strerror}") from error
        if not content:
            raise DataError(f"{name} is empty (zero bytes)")
        return hashlib.sha256(content).hexdigest(), content

    def image(self, id: str, size: int | None = None) -> Image.Image:
        """See `Collection.image`."""
        return open_image(contained_path(self.root, id), name=printable(id), size=size)

    def path(self, id: str) -> Path | None:
        """See `Collection.path`. Raises DataError for an id that leads outside."""
        return contained_path(self.root, id)


@dataclass
class SourceCollection:
    """The images of a data source that is no plain folder: `emoji`, `cifar10`, tables, parquet files."""

    ref: str
    entries: Sequence[Entry]
    skipped: Sequence[Skipped] = ()
    exclude: Sequence[str] = ()

    state: str = field(init=False)
    """See `Collection.state`: size and times of its parquet files, if it has any."""

    def __post_init__(self) -> None:
        self.state = _parquet_state(self.ref)

    def content(self, entry: Entry) -> tuple[str, bytes | Image.Image]:
        """See `Collection.content`; the digest is the SHA-256 of size and pixels."""
        image = self.image(entry.id)
        return pixel_digest(image).hex(), image

    def image(self, id: str, size: int | None = None) -> Image.Image:
        """See `Collection.image`."""
        source, rows = _opened(self.ref, self.state)
        if id not in rows:
            raise DataError(f"{self.ref} has no image {printable(id)!r}")
        return source.load(rows[id], size)

    def path(self, id: str) -> Path | None:
        """None: the images are no files of their own."""
        return None


class UnreadableFile(DataError):
    """A file whose bytes cannot be had just now; another time, or for another user, it may be readable."""


def open_collection(ref: str | Path, exclude: Sequence[str] = ()) -> Collection:
    """The images of a folder or of another data source, without those that a pattern excludes; see
    `opsin.sources.exclusion`. Raises DataError when there are none."""
    folder = Path(ref).expanduser()
    if folder.is_dir() and not _holds_parquet(folder):
        collection = list_folder(folder, exclude)
        if not collection.entries:
            reason = f"; left out: {collection.skipped[0].reason}" if collection.skipped else ""
            raise DataError(
                f"no image was found below {folder} (image files end in {', '.join(sorted(IMAGE_SUFFIXES))}){reason}"
            )
        return collection
    text = str(folder.absolute()) if folder.exists() else str(ref)
    source, _ = _opened(text, _parquet_state(text))
    source = exclude_images(source, exclude)
    entries = [_entry(id, source.file(row)) for row, id in enumerate(source.ids)]
    return SourceCollection(text, entries, list(source.skipped), exclude)


def contained_path(root: Path, relative: str) -> Path:
    """The file `relative` below `root`, which need not exist. A stored path may have been changed by someone.

    Raises DataError when the path is absolute, climbs with `..`, or leads through links to somewhere outside.
    """
    parts = relative.replace("\\", "/").split("/") if os.name == "nt" else relative.split("/")
    path = root / relative
    if not relative or "\0" in relative or Path(relative).is_absolute() or ".." in parts or Path(relative).drive:
        raise DataError(f"the path {printable(relative)!r} does not lie below {printable(str(root))}")
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise DataError(f"{printable(relative)!r} cannot be followed to a file: {error}") from error
    if not inside:
        raise DataError(f"{printable(relative)!r} leads out of {printable(str(root))}, so it was not opened")
    return path


def _entry(id: str, file: Path | None) -> Entry:
    try:
        return Entry(id) if file is None else Entry.of_file(id, file.stat())
    except OSError:  # it has gone since the source was opened
        return Entry(id)


def list_folder(root: Path, exclude: Sequence[str] = ()) -> FolderCollection:
    """List the images below a folder, which may be none, without those that a pattern excludes. Raises DataError when
    there is no such folder."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; if it lies on another drive, connect it")
    exclusion = Exclusion(exclude)
    listing = Listing(root.absolute(), exclusion=exclusion)
    inside = root.resolve()
    entries, outside = [], []
    for file in listing.files():
        if file.is_link and not (listing.root / file.id).resolve().is_relative_to(inside):
            outside.append(Skipped(printable(file.id), "is a link that leads out of the folder"))
        else:
            entries.append(Entry.of_file(file.id, file.stat))
    entries.sort(key=itemgetter(0))
    skipped = [*listing.skipped, *outside, *in_one_line(listing.links, LINK_TO_FOLDER)]
    skipped += in_one_line(listing.outputs, WRITTEN_BY_OPSIN)
    skipped += [Skipped(printable(pattern), reason) for pattern, reason in exclusion.report().items()]
    named = [Skipped(row.id, f"{row.id} {row.reason}") for row in sorted(skipped, key=lambda row: row.id)]
    return FolderCollection(listing.root, entries, named, sorted(listing.unreadable), listing.other_files, exclude)


def _holds_parquet(folder: Path) -> bool:
    try:
        return bool(find_parquet(folder))
    except OSError:
        return False


def _parquet_state(ref: str) -> str:
    path = Path(ref).expanduser()
    files = [path] if path.is_file() else sorted(file for found in find_parquet(path).values() for file in found)
    entries = (Entry.of_file(printable(file.name), file.stat()) for file in files)
    # Without the inodes: on some shared file systems, each machine sees others.
    return "\n".join(" ".join(map(str, entry[:-1])) for entry in entries)


@lru_cache(maxsize=2)
def _opened(ref: str, state: str) -> tuple[ImageSource, dict[str, int]]:
    """A source with the row of each id; kept, because a process reads it image by image, until its files change."""
    source = open_source(ref)
    return source, {id: row for row, id in enumerate(source.ids)}
