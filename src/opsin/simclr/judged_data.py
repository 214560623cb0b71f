"""Which images of a labelled source give their labels when an encoder is judged, and which ones it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsin.data.image_source import ImageSource
from opsin.data.sources import is_same_source, open_labelled
from opsin.data.splits import split_rows
from opsin.encoders.base import ImageEncoder
from opsin.errors import ConfigError, DataError
from opsin.runtime import derive_seed
from opsin.simclr.linear_probe import labelled_rows

HELD_OUT = 0.2
"""Share of a source without splits that is held out to judge on, and share of the labelled images that a linear probe
chooses its regularisation on."""
DIVIDED_ALIKE = ("simclr", "vit-classifier")
"""Kinds of models whose runs divide all images of their source by `split_rows`, as it is done here. Others leave some
out before, or train on all."""


@dataclass(frozen=True)
class JudgedData:
    """A labelled source in two parts; `labelled` is the share of it whose labels are used, and `seen` whether the
    encoder may have been trained on the images of `test`."""

    data: str
    split: str
    labelled: ImageSource
    test: ImageSource
    seen: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        assert self.test.class_names is not None
        return self.test.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def open_judged(encoder: ImageEncoder, data: str | None, split: str | None, fraction: float, seed: int) -> JudgedData:
    """The two parts of a source, by default of the one that the encoder was trained on.

    Judged on is `split`, `test` or `val`; by default the source's test split where it has one, else its validation
    split, else images held out evenly from every class: those of the encoder's run when it is its own source and held
    some out, else a fifth. Labels come from `fraction` of the remaining images, evenly from every class, as the seed
    decides; with `val` the test split is not among them. Of its own source an encoder has perhaps seen what it is
    judged on, unless it is of a kind whose runs certainly held that out. Raises DataError when the source has no labels
    or no such split, ConfigError for a share or split that cannot be.
    """
    if split not in (None, "test", "val"):
        raise ConfigError(
            f"an encoder is judged on the split test or val, not on {split!r}: labels are taken from the rest"
        )
    training = getattr(encoder, "training", None)
    if not isinstance(training, Mapping):  # a network of torch says by this name whether it is in training
        training = {}
    own = str(training.get("data", ""))
    ref = data or own
    if not ref:
        raise DataError(f"{encoder.name} does not say what it was trained on; name a labelled source with --data")
    source = open_labelled(ref)
    is_own = is_same_source(ref, own)
    rows, held_out_by_run = _rows(source, training if is_own else {})
    seen = is_own and not (held_out_by_run and getattr(encoder, "kind", None) in DIVIDED_ALIKE)
    split = split or ("test" if len(rows["test"]) else "val")
    if len(rows[split]) == 0:
        raise DataError(f"{ref!r} has no split {split!r} to judge on")
    rest = rows["train"] if split == "val" else np.sort(np.concatenate([rows["train"], rows["val"]]))
    labelled = source.select(rest)
    assert labelled.labels is not None
    # All labels are the same for every seed, and so is then their order, by which the cache knows blocks of them.
    some = labelled_rows(labelled.labels, fraction, derive_seed(seed if fraction < 1 else 0, "labelled"))
    return JudgedData(ref, split, labelled.select(some), source.select(rows[split]), seen)


def _rows(source: ImageSource, training: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """As the run divided the source, also when it then trained on a part only; and whether it or the source held
    anything out."""
    val_fraction, test_fraction = (float(training.get(f"{name}_fraction", 0.0)) for name in ("val", "test"))
    seed = int(training.get("training", {}).get("seed", 0))
    rows = split_rows(source, val_fraction, test_fraction, seed)
    if len(rows["test"]) + len(rows["val"]) > 0:
        return rows, True
    return split_rows(source, HELD_OUT, 0.0, seed), False
