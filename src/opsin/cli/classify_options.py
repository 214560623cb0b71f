"""What `opsin classify` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opsin.cli.options import Bounds, Flag, ModelOptions
from opsin.sources.exclusion import Patterns


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
    by default is emoji-clip."""
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
