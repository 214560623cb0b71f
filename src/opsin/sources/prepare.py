"""Getting a source ready before it is used: building the emoji cache, downloading public data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from opsin.config import nearest_name
from opsin.errors import DataError, system_errors_as
from opsin.progress import Progress
from opsin.sources import cifar10, emoji
from opsin.sources.download import RemoteFile, download, extract
from opsin.sources.parquet_files import find_parquet


@dataclass(frozen=True)
class NamedSource:
    """A source that has a name of its own: what it is, where it lies when ready, and how to get it there."""

    summary: str
    directory: Callable[[], Path]
    ready: Callable[[], bool]
    prepare: Callable[[Progress | None], None]
    """Takes `progress`."""


CIFAR10 = RemoteFile("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")


def _prepare_emoji(progress: Progress | None) -> None:
    emoji.load_emoji()


def _prepare_cifar10(progress: Progress | None) -> None:
    directory = cifar10.cifar10_directory()
    with system_errors_as(DataError, f"{directory} cannot be written"):
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".prepare.lock"):  # a second process waits here, and then finds everything done
            if not _has_cifar10():
                archive = download(CIFAR10, directory, progress=progress)
                extract(archive, directory)
                archive.unlink()


def _has_cifar10() -> bool:
    """By names only, so that listing sources stays instant: `extract` leaves no half-written files."""
    directory = cifar10.cifar10_directory()
    batches = directory / cifar10.BATCHES_FOLDER
    return all((batches / file).is_file() for file in cifar10.BATCH_FILES) or "train" in find_parquet(directory)


NAMED_SOURCES: dict[str, NamedSource] = {
    "emoji": NamedSource(
        "about 1,900 emoji in two drawing styles, with names and groups; part of the package",
        emoji.cache_directory,
        lambda: (emoji.cache_directory() / "table.json").is_file(),
        _prepare_emoji,
    ),
    "cifar10": NamedSource(
        "60,000 photos of 32 x 32 pixels in ten classes; a download of 170 MB",
        cifar10.cifar10_directory,
        _has_cifar10,
        _prepare_cifar10,
    ),
}


def prepare_source(name: str, *, progress: Progress | None = None) -> Path:
    """Make a named source ready; returns where it lies. Does nothing when it is ready already.

    Raises DataError for a name that is none, and what `download` raises.
    """
    if name not in NAMED_SOURCES:
        near = nearest_name(name, NAMED_SOURCES)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(NAMED_SOURCES)}"
        raise DataError(f"{name!r} is no source that can be prepared; {hint}")
    source = NAMED_SOURCES[name]
    if not source.ready():
        source.prepare(progress)
    return source.directory()
