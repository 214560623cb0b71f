"""What the training images of a run look like, kept beside its model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from opsin.checkpoint import write_domain
from opsin.domain import MOST_IMAGES, ImageDomain
from opsin.errors import DataError
from opsin.training.task import BatchDataset

AT_ONCE = 100


def record_domain(directory: Path, dataset: BatchDataset) -> None:
    """Write domain.json of evenly spread training images into a model directory.

    Nothing is written where batches have no "image" (features have none) and where there are too few to tell.
    """
    domain = domain_of(dataset)
    if domain is not None:
        write_domain(directory, asdict(domain))


def domain_of(dataset: BatchDataset) -> ImageDomain | None:
    """The domain of at most `MOST_IMAGES` images of a dataset, evenly spread; None where it cannot be told."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_IMAGES)).round().astype(int))
    pixels = []
    for start in range(0, len(rows), AT_ONCE):
        try:
            batch = dataset.__getitems__(rows[start : start + AT_ONCE].tolist())
        except DataError:  # none of these can be read
            continue
        if "image" not in batch:
            return None
        pixels.append(batch["image"].cpu())
    return ImageDomain.of(torch.cat(pixels)) if pixels else None
