"""Images with the embeddings of their captions.

Dimensions: N images in a batch, M texts in all, E width of their embeddings, C captions of the image that has most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opsin.data.datasets import ImageDataset, Splits, numbered_dataset
from opsin.data.unread import check_captions
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.text import EncoderIdentity, text_features
from opsin.encoders.base import TextEncoder, unread_texts
from opsin.sources.image_source import ImageSource


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


@dataclass(frozen=True, kw_only=True)
class DiffusionSplits(Splits[PromptDataset]):
    """The data of a run, with the embeddings of all its texts."""

    texts: tuple[str, ...]
    features: Tensor
    """float32 (M, E): row i is that of `texts[i]`."""
    encoder: EncoderIdentity | None = None
    """What gave the features, if it is known."""

    @property
    def train_features(self) -> Tensor:
        """float32 (K, E) of the texts of training images, each once."""
        return self.features[sorted({row for rows in self.train.texts_of for row in rows})]


def open_splits(config: DiffusionConfig, encoder: TextEncoder) -> DiffusionSplits:
    """Open the source of a run; every text of its training and validation images is encoded once.

    Raises DataError when the source cannot be used, and what the text encoder raises.
    """
    run = config.split()
    texts: dict[str, int] = {}
    datasets = {}
    for name, images in run.splits.items():
        if name in ("train", "val"):
            own = [[texts.setdefault(text, len(texts)) for text in dict.fromkeys(row)] for row in images.captions or ()]
            datasets[name] = PromptDataset(numbered_dataset(images, config.image_size), own)
    _check_captions(encoder, run.training)
    return DiffusionSplits(
        datasets=datasets,
        source=run,
        needs=encoder.name,
        texts=tuple(texts),
        features=text_features(encoder, list(texts)),
        encoder=EncoderIdentity.of(encoder),
    )


def _check_captions(encoder: TextEncoder, train: ImageSource) -> None:
    captions = [text for texts in train.captions or () for text in texts]
    remedy = (
        "use one that was trained on such texts, by --text-encoder (open_clip:ARCHITECTURE/TAG, or a model of "
        "`opsin train clip` on these images), or give captions in its language"
    )
    check_captions(unread_texts(encoder, captions), encoder.name, remedy)
