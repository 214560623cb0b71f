"""`opsin embed SRC --out DIR`: vectors of all images of a source, in shards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from opsin.cli.index import default_model
from opsin.cli.options import Bounds, SharedOptions, UsageError, parse
from opsin.cli.output import note, note_unlike, show
from opsin.sources.exclusion import Patterns

DESCRIPTION = (
    "Encode all images of a source into shards: NNNNNN.npy with the vectors, NNNNNN.parquet with the images' paths, "
    "and manifest.json. Running it again does what is missing. On many machines, give each its --shard, or use Ray."
)


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(SharedOptions):
    """Options of `opsin embed`."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A folder of images, at any depth, or another data source such as emoji."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory of the shards."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The encoder, by default emoji-clip for emoji and photo-clip for other images; imagenet, or another model that
    ships with opsin, open_clip:ARCHITECTURE/TAG, timm:NAME, hf-hub:ORG/NAME, or a directory."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """Write only the I-th of N shares of the shards, counted from 0 or from 1; such as $SLURM_ARRAY_TASK_ID/8."""
    rows_per_shard: Annotated[int, Bounds()] = 8192
    """Images of a shard; the same for all that write into DIR."""
    engine: Literal["local", "ray"] = "local"
    """ray spreads the shards over a cluster with Ray Data (extra `ray`)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Run `opsin embed`; returns the exit code."""
    options = parse(EmbedOptions, argv, "opsin embed", DESCRIPTION)
    from opsin.encoders.loading import load
    from opsin.errors import ConfigError
    from opsin.search.collection import open_collection
    from opsin.search.embedding import embed, parse_part

    try:
        part = parse_part(options.shard)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    model = options.model
    if model is None:
        model = default_model(open_collection(options.source, options.exclude))
    report = embed(
        options.source,
        options.out,
        partial(load, model, options.device),
        part=part,
        exclude=options.exclude,
        engine=options.engine,
        rows_per_shard=options.rows_per_shard,
        progress=options.progress,
    )
    note_unlike(report.encoder, model, "--model photo-clip", options.quiet)
    show(report, options.json)
    done = "all shards are there" if report.complete else "other shards are still missing"
    note(f"{done}: {options.out / 'manifest.json'}", quiet=options.quiet or options.json)
    return 0
