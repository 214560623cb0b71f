"""`opsin duplicates SRC`: the images that a collection has several times, in groups; nothing is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opsin.cli.options import Bounds, Flag, SharedOptions, UsageError, parse
from opsin.cli.output import note, print_paths, show
from opsin.sources.exclusion import Patterns

DESCRIPTION = (
    "List images that are there several times: the same content, the same picture in another size or quality, or a "
    "crop or mirror image of it. Nothing is deleted."
)


@dataclass(frozen=True, kw_only=True)
class DuplicatesOptions(SharedOptions):
    """Options of `opsin duplicates`."""

    FIRST = ("paths", "picture", "alike", "json")

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A folder of images, at any depth, another data source, or the directory of an index, whose source is meant."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    alike: Annotated[float, Bounds(0, 1)] = 0.85
    """The cosine of two images' vectors from which on they are near-duplicates; 1 finds few besides those that look the
    same in small."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "imagenet"
    """The encoder of the vectors; another one takes another --alike."""
    paths: Flag = False
    """Print paths only, one a line: all images of each group but the one with the most pixels."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Also draw the first groups into this PNG file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Run `opsin duplicates`; returns the exit code."""
    options = parse(DuplicatesOptions, argv, "opsin duplicates", DESCRIPTION)
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes PNG; give it a name that ends in .png, not {options.picture.name!r}")
    if options.paths and options.json:
        raise UsageError("--paths and --json are two forms of the same result; give one of them")
    from opsin.encoders.loading import load
    from opsin.search.duplicates import find_duplicates

    encoder = load(options.model, options.device)
    found = find_duplicates(
        options.source, encoder, exclude=options.exclude, alike=options.alike, progress=options.progress
    )
    if options.paths:
        print_paths(found.paths)
    else:
        show(found, options.json)
    if options.picture is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.pictures import save_figure

        if figure := found.figure():
            save_figure(figure, options.picture)
            note(f"picture: {options.picture}", quiet=options.quiet)
        else:
            note("no picture: there are no duplicates", quiet=options.quiet)
    return 0
