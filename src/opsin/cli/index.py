"""`opsin index SRC --out INDEX`: make an index of images, or bring one up to date."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opsin.cli.options import SharedOptions, UsageError, parse
from opsin.cli.output import note, note_unlike, show
from opsin.sources.exclusion import Patterns

if TYPE_CHECKING:
    from opsin.search.collection import Collection
    from opsin.search.index import ImageIndex

DESCRIPTION = (
    "Make an index of images that 'opsin search' looks things up in. Running it again brings the index up to date: "
    "new and changed images are encoded, moved and deleted ones cost nothing."
)


@dataclass(frozen=True, kw_only=True)
class IndexOptions(SharedOptions):
    """Options of `opsin index`."""

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")] = None
    """A folder of images, at any depth, or another data source such as emoji. With --from it is by default the source
    of the embeddings."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times. An
    index keeps its patterns until others are given; --exclude "" clears them."""
    out: Annotated[Path, tyro.conf.arg(metavar="INDEX")]
    """The directory of the index."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The encoder of a new index, by default emoji-clip for emoji and photo-clip for other images, which ship with
    opsin; imagenet, open_clip:ARCHITECTURE/TAG, hf-hub:ORG/NAME, or a directory. An index keeps its encoder."""
    embeddings: Annotated[Path | None, tyro.conf.arg(name="from", metavar="SHARDS")] = None
    """A directory that 'opsin embed' wrote: its vectors are taken over, and only images without one are encoded."""
    rehash: bool = False
    """Read every file again, also where size, times and inode say that it has not changed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Run `opsin index`; returns the exit code."""
    options = parse(IndexOptions, argv, "opsin index", DESCRIPTION)
    if options.source is None and options.embeddings is None:
        raise UsageError("SRC must be given, or --from with a directory that 'opsin embed' wrote")
    patterns = [pattern for pattern in options.exclude if pattern]
    from opsin.search.index import ImageIndex, holds_index

    if holds_index(options.out):
        index = ImageIndex.open(options.out, device=options.device)
        _refuse_other_model(index, options.model)
    else:
        index = _new_index(options, patterns)
    report = index.update(
        options.source,
        exclude=patterns if options.exclude else None,
        embeddings=options.embeddings,
        rehash=options.rehash,
        progress=options.progress,
    )
    show(report, options.json)
    note_unlike(index.loaded_encoder, index.info.encoder, "another index, by --model photo-clip", options.quiet)
    what = '"what to look for"' if index.reads_texts else "--image FILE"
    note(f"next: opsin search {shlex.quote(str(options.out))} {what}", quiet=options.quiet or options.json)
    return 0


def _new_index(options: IndexOptions, patterns: Sequence[str]) -> ImageIndex:
    from opsin.search.collection import open_collection
    from opsin.search.index import ImageIndex
    from opsin.search.shards import read_manifest, text_to_path

    source, model = options.source, options.model
    if options.embeddings is not None:
        manifest = read_manifest(options.embeddings)
        source = text_to_path(manifest["source"]) if source is None else source
        model = manifest["encoder"] if model is None else model
    assert source is not None
    collection = open_collection(source, patterns)  # so that a mistyped folder leaves no empty index behind
    return ImageIndex.create(options.out, default_model(collection) if model is None else model, device=options.device)


def default_model(collection: Collection) -> str:
    """Of those that come with opsin, the model of images and texts that suits the images of a collection."""
    from opsin.domain import SIDE
    from opsin.encoders.default import default_image_text

    entries = collection.entries
    return default_image_text(len(entries), lambda row: collection.image(entries[row].id, SIDE))


def _refuse_other_model(index: ImageIndex, model: str | None) -> None:
    from opsin.encoders.loading import absolute_reference
    from opsin.errors import ConfigError

    if model is not None and absolute_reference(model) != index.info.encoder:
        raise ConfigError(
            f"the index {index.path} was made by {index.info.encoder}, and vectors of {model} cannot be added to it; "
            "leave out --model, or make another index"
        )
