"""Images with the embeddings of their captions.

Dimensions: N images in a batch, M texts in all, E width of their embeddings, C captions of the image that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsin.data.captioned import with_captions
from opsin.data.datasets import ImageDataset, image_dataset
from opsin.data.parts import first_of_random_order
from opsin.data.splits import division_digest, split_rows
from opsin.data.unread import check_captions
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.text import EncoderIdentity, text_features
from opsin.encoders.base import TextEncoder, unread_texts
from opsin.images.opening import Skipped
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source


@dataclass(frozen=True)
class DiffusionSplits:
    """What a run trains and validates on, with the embeddings of all its texts."""

    train: PromptDataset
    val: PromptDataset | None
    texts: tuple[str, ...]
    features: Tensor
    """float32 (M, E): row i is that of `texts[i]`."""
    encoder: EncoderIdentity | None = None
    """What gave the features, if it is known."""
    source_digest: str | None = None
    """See `division_digest`."""

    @property
    def train_features(self) -> Tensor:
        """float32 (K, E) of the texts of training images, each once."""
        return self.features[sorted({row for rows in self.train.texts_of for row in rows})]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(dict.fromkeys([*self.train.skipped, *(self.val.skipped if self.val else [])]))


class PromptDataset:
    """Batches of "image" uint8 (N, 3, S, S), "texts" int64 (N, C), padded with zeros, and "num_texts" int64 (N,)."""

    def __init__(self, images: ImageDataset, texts_of: list[list[int]]) -> None:
        """`images` must give each image's row in `texts_of` as its label: broken images leave gaps."""
        self.images = images
        self.texts_of = texts_of
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.images.__getitems__(indices)
        own = [self.texts_of[row] for row in batch["label"].tolist()]
        longest = max(len(texts) for texts in own)
        padded = [texts + [0] * (longest - len(texts)) for texts in own]
        counts = torch.tensor([len(texts) for texts in own])
        return {"image": batch["image"], "texts": torch.tensor(padded), "num_texts": counts}


def open_prompted(ref: str, captions: str = "all", exclude: Sequence[str] = ()) -> ImageSource:
    """The images of a source that have a caption, with their captions stripped; the others go to `skipped`.

    Raises DataError when the source has no captions, or none for any image.
    """
    source = with_captions(open_source(ref, labels=False, exclude=exclude), str.strip)
    assert source.captions is not None
    stripped = [tuple(dict.fromkeys(text.strip() for text in texts)) for texts in source.captions]
    return replace(source, captions=[texts[:1] if captions == "first" else texts for texts in stripped])


def rows_of_run(source: ImageSource, config: DiffusionConfig) -> dict[str, np.ndarray]:
    """Row numbers that a run of these settings uses for `train`, `val` and `test`; see `split_rows`."""
    seed = config.training.seed
    rows = split_rows(source, config.val_fraction, 0.0, seed)
    if config.train_on == "all":
        nothing = np.zeros(0, dtype=np.int64)
        rows = {"train": np.sort(np.concatenate(list(rows.values()))), "val": nothing, "test": nothing}
    rows["train"] = first_of_random_order(rows["train"], config.max_train, seed)
    return rows


def open_splits(config: DiffusionConfig, encoder: TextEncoder) -> DiffusionSplits:
    """Open the source of a run; every text of its training and validation images is encoded once.

    Raises DataError when the source cannot be used, and what the text encoder raises.
    """
    source = open_prompted(config.data, config.captions, config.exclude)
    rows = rows_of_run(source, config)
    parts = {name: source.select(rows[name]) for name in ("train", "val") if len(rows[name])}
    texts: dict[str, int] = {}
    datasets = {}
    for name, part in parts.items():
        assert part.captions is not None
        texts_of = [[texts.setdefault(text, len(texts)) for text in own] for own in part.captions]
        numbered = replace(part, labels=np.arange(len(part)), class_names=None)
        datasets[name] = PromptDataset(image_dataset(numbered, config.image_size), texts_of)
    _check_captions(encoder, parts["train"])
    features = text_features(encoder, list(texts))
    identity, digest = EncoderIdentity.of(encoder), division_digest(source)
    return DiffusionSplits(datasets["train"], datasets.get("val"), tuple(texts), features, identity, digest)


def _check_captions(encoder: TextEncoder, train: ImageSource) -> None:
    captions = [text for texts in train.captions or () for text in texts]
    remedy = (
        "use one that was trained on such texts, by --text-encoder (open_clip:ARCHITECTURE/TAG, or a model of "
        "`opsin train clip` on these images), or give captions in its language"
    )
    check_captions(unread_texts(encoder, captions), encoder.name, remedy)


def pick_texts(texts: Tensor, num_texts: Tensor, generator: torch.Generator) -> Tensor:
    """int64 (N,): one text an image, each of an image's texts being equally likely."""
    draws = torch.rand(len(texts), generator=generator, device=generator.device).to(texts.device)
    chosen = (draws * num_texts).long().clamp(max=num_texts - 1)
    return texts[torch.arange(len(texts), device=texts.device), chosen]
