"""Batches of images or features with their captions as word indices.

Dimensions: N images in a batch, M captions in all, C captions of the image that has most, T words of the longest
caption, `<START>` and `<END>` counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from opsin.captioning.vocabulary import NULL, UNKNOWN, Vocabulary, join_words
from opsin.data.course_coco import CourseSplit
from opsin.data.datasets import ImageDataset, numbered_dataset
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.features import source_features
from opsin.images.opening import Skipped
from opsin.progress import Progress
from opsin.sources.image_source import ImageSource


@dataclass(frozen=True)
class CaptionTable:
    """Captions of images as word indices: those of image i are rows `starts[i]` to `starts[i + 1]` of `tokens`."""

    tokens: Tensor
    """int64 (M, T), from `<START>` on, padded with `<NULL>`."""
    starts: np.ndarray
    """int64 (images + 1,)."""
    vocabulary: Vocabulary
    texts: Sequence[tuple[str, ...]] | None = None
    """The captions of each image as they were written, where they are known."""
    cut: int = 0
    """Captions that were longer than allowed and have lost their end."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def mean_length(self) -> float:
        """Words that are to be predicted in a caption, `<END>` among them, on average over all captions."""
        return float((self.tokens[:, 1:] != self.vocabulary.word_to_idx[NULL]).sum() / len(self.tokens))

    def references(self, image: int) -> tuple[str, ...]:
        """The captions of an image as texts; if only their tokens are known, without what the vocabulary lacks."""
        if self.texts is not None:
            return self.texts[image]
        rows = self.tokens[self.starts[image] : self.starts[image + 1]]
        known = ([word for word in self.vocabulary.decode_words(row) if word != UNKNOWN] for row in rows.tolist())
        return tuple(join_words(words) for words in known)

    def all_references(self) -> list[str]:
        """The captions of all images, in order."""
        return [text for image in range(len(self)) for text in self.references(image)]

    @classmethod
    def from_texts(cls, texts: Sequence[tuple[str, ...]], vocabulary: Vocabulary, max_length: int) -> CaptionTable:
        """Encode the captions of each image; one of more than `max_length` tokens keeps its first ones, no `<END>`."""
        encoded = [vocabulary.encode(text) for captions in texts for text in captions]
        longest = min(max(map(len, encoded), default=0), max_length)
        tokens = torch.full((len(encoded), longest), vocabulary.word_to_idx[NULL])
        for row, caption in enumerate(encoded):
            tokens[row, : len(caption)] = torch.tensor(caption[:longest])
        starts = np.cumsum([0, *(len(captions) for captions in texts)])
        return cls(tokens, starts, vocabulary, texts, cut=sum(len(caption) > longest for caption in encoded))

    def batch(self, images: Sequence[int]) -> dict[str, Tensor]:
        """`captions` int64 (N, C, T), padded with `<NULL>`, `num_captions` and `row` int64 (N,) of these images."""
        rows = [np.arange(self.starts[image], self.starts[image + 1]) for image in images]
        counts = torch.tensor([len(own) for own in rows])
        null_index = self.vocabulary.word_to_idx[NULL]
        captions = torch.full((len(rows), int(counts.max()), self.tokens.shape[1]), null_index)
        for place, own in enumerate(rows):
            captions[place, : len(own)] = self.tokens[torch.from_numpy(own)]
        longest = int((captions != null_index).sum(dim=2).max())
        return {"captions": captions[:, :, :longest], "num_captions": counts, "row": torch.tensor(images)}


class CaptionDataset(Protocol):
    """Batches of what captions are written about, "image" or "feature", with what `CaptionTable.batch` gives."""

    table: CaptionTable
    skipped: list[Skipped]
    """Images that were left out, and why."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]: ...


class ImageCaptionDataset:
    """Batches of `CaptionTable.batch` with "image", uint8 (N, 3, S, S)."""

    def __init__(self, images: ImageDataset, table: CaptionTable) -> None:
        """`images` must give each image's row in `table` as its label: broken images leave gaps."""
        self.images = images
        self.table = table
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.images.__getitems__(indices)
        return {"image": batch["image"], **self.table.batch(batch["label"].tolist())}


class FeatureCaptionDataset:
    """Batches of `CaptionTable.batch` with "feature", float32 (N, D) or (N, P, D)."""

    def __init__(
        self, features: np.ndarray, table: CaptionTable, skipped: Sequence[Skipped] = (), ids: Sequence[str] = ()
    ) -> None:
        """`features` is an array or memory map with a row for each image of `table`; `ids` are the images' names, where
        no source has them."""
        self.features = features
        self.table = table
        self.skipped = list(skipped)
        self.ids = ids

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        features = np.asarray(self.features[indices], dtype=np.float32)
        return {"feature": torch.from_numpy(features), **self.table.batch(indices)}


def image_caption_dataset(
    source: ImageSource, vocabulary: Vocabulary, image_size: int, max_length: int
) -> ImageCaptionDataset:
    """The images of a source that all have captions, with captions of at most `max_length` tokens."""
    assert source.captions is not None
    table = CaptionTable.from_texts(source.captions, vocabulary, max_length)
    return ImageCaptionDataset(numbered_dataset(source, image_size), table)


def encoded_caption_dataset(
    source: ImageSource,
    vocabulary: Vocabulary,
    encoder: NetworkEncoder,
    max_length: int,
    *,
    progress: Progress | None = None,
) -> tuple[FeatureCaptionDataset, ImageSource]:
    """`image_caption_dataset` with a frozen encoder's features in place of images.

    With it comes the source without the images that cannot be read: its rows are those of the table.
    """
    usable, features = source_features(source, encoder, progress=progress)
    assert usable.captions is not None
    table = CaptionTable.from_texts(usable.captions, vocabulary, max_length)
    return FeatureCaptionDataset(features, table, usable.skipped), usable


def course_caption_dataset(
    split: CourseSplit, vocabulary: Vocabulary, name: str, chosen: np.ndarray | slice = slice(None)
) -> FeatureCaptionDataset:
    """The `chosen` captions of the course's data with the features of their images, which are called `train image 12`.

    Images without a caption in the whole split, of that `name`, are listed in `skipped`.
    """
    image_idxs, captions = split.image_idxs[chosen], split.captions[chosen]
    order = np.argsort(image_idxs, kind="stable")
    images, starts = np.unique(image_idxs[order], return_index=True)
    tokens = torch.from_numpy(captions[order].astype(np.int64))
    table = CaptionTable(tokens, np.append(starts, len(order)), vocabulary)
    without = np.setdiff1d(np.arange(len(split.features)), split.image_idxs)
    skipped = [Skipped(f"{name} image {row}", "has no caption") for row in without]
    return FeatureCaptionDataset(split.features[images], table, skipped, [f"{name} image {row}" for row in images])


def all_captions(captions: Tensor, num_captions: Tensor) -> tuple[Tensor, Tensor]:
    """Every caption of a batch, int64 (M, T), and the place of its image in the batch, int64 (M,)."""
    exists = torch.arange(captions.shape[1], device=captions.device) < num_captions[:, None]
    images = torch.arange(len(captions), device=captions.device).repeat_interleave(num_captions)
    return captions[exists], images
