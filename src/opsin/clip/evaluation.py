"""Evaluating a dual encoder by retrieval: each text once as a query for images, each image as a query for texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.clip.data import CaptionedImages, caption_groups
from opsin.clip.inference import ClipEncoder
from opsin.clip.model import DualEncoder
from opsin.clip.retrieval import (
    RECALL_AT,
    RetrievalPair,
    cosine_similarity,
    measure_pairs,
    measure_retrieval,
    retrieval_table,
)
from opsin.counts import number_of
from opsin.data.datasets import Splits, batches_of
from opsin.data.repeats import Overlap, overlap_with_training
from opsin.data.splits import choose_evaluation_images
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import warn_of_unread
from opsin.encoders.base import ImageTextEncoder, unread_texts
from opsin.encoders.features import source_vectors
from opsin.images.opening import Skipped
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.results import Table, skipped_document
from opsin.runtime import autocast
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import is_same_source
from opsin.training.baselines import BaselineComparison, compare_share
from opsin.training.run import FinalScores, measure_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE = 256
SHOWN = 8
ALL_STYLES = "all"
MOST_TRAINING_IMAGES = 10_000
"""Larger training sets are not searched at the end of a run: their scores would say little, and take long."""
ADVICE = (
    "train longer (--max-minutes) or on more captioned images, or take a pretrained encoder "
    "(open_clip:ARCHITECTURE/TAG)"
)


@dataclass(frozen=True)
class Evaluation:
    """Scores for each drawing style, or under `all` where the source has no styles, with their protocol.

    `styles` takes the first caption of each image, `all_captions` every one of them; it is empty where no image has
    several. `source` has the images that could be read. `overlap` says which of them were trained on, and is None where
    these are not known, or are what is evaluated.
    """

    data: str
    split: str
    styles: dict[str, RetrievalPair]
    all_captions: dict[str, RetrievalPair]
    source: ImageSource
    encoder: ImageTextEncoder
    overlap: Overlap | None

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be used."""
        return tuple(self.source.skipped)

    @property
    def protocol(self) -> str:
        """What was measured, and how, in a line."""
        count = sum(pair.image_to_text.queries for pair in self.styles.values())
        apart = ", each drawing style apart" if len(self.styles) > 1 else ""
        return (
            f"{number_of(count, 'image')} of {self.data!r}, split {self.split!r}{apart}; a text is the first "
            "caption of an image, equal ones count once, and equal cosines count against the right answer"
        )

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """Recall beside chance, of each style."""
        return compare_with_chance(self.styles)

    @property
    def warnings(self) -> list[str]:
        """What its images have in common with training images."""
        return self.overlap.warnings if self.overlap else []

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return {
            "protocol": self.protocol,
            "data": self.data,
            "split": self.split,
            "styles": {style: pair.document() for style, pair in self.styles.items()},
            "all_captions": {style: pair.document() for style, pair in self.all_captions.items()} or None,
            "baselines": [comparison.document() for comparison in self.baselines],
            **(self.overlap.document() if self.overlap else {}),
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """Recall with the first caption of each image, and with all captions."""
        tables = [retrieval_table(self.styles, self.protocol)]
        if self.all_captions:
            title = "the same images with all of their captions, each a text of its own"
            tables.append(retrieval_table(self.all_captions, title))
        return tables

    def figure(self) -> Figure:
        """How alike some of the images, evenly spread over all, and their first captions are."""
        from opsin.clip.pictures import similarity_figure

        assert self.source.captions is not None
        rows = np.unique(np.linspace(0, len(self.source) - 1, min(SHOWN, len(self.source))).astype(np.int64)).tolist()
        images = [self.source.load(row) for row in rows]
        texts = [self.source.captions[row][0] for row in rows]
        cosines = cosine_similarity(self.encoder.encode_text(texts), self.encoder.encode_image(images))
        return similarity_figure(cosines.numpy(), images, texts)


def evaluate_retrieval(
    encoder: ImageTextEncoder,
    run: RunRecord[ClipConfig] | None,
    data: str | None = None,
    split: str | None = None,
    *,
    exclude: Sequence[str] = (),
    near_duplicates: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on a split of a source; `run` is that of the model, None if it is not known.

    `exclude` are patterns of images to leave out, besides those that the run has left out of its source. With
    `near_duplicates`, images are also compared with the training images by what they look like.

    Without `data` it is the source that the model was trained on. Which of its images these are, see
    `opsin.data.splits.evaluation_split`; of a source of which all was trained on, the training images. Their vectors
    come from the cache of `source_vectors`. Raises DataError when the split is empty, or when the source has no
    captions or no image that can be read.
    """
    if run is not None:
        own = run.config
        run = replace(run, config=replace(own, captions="all"))  # which rows a run has does not depend on it
        if split is None and own.train_on == "all" and is_same_source(data or own.data, own.data):
            split = "train"
    images = choose_evaluation_images(ClipConfig(data=data or "", exclude=tuple(exclude)), split, run)
    source, image_features = source_vectors(images.source, encoder, progress=progress)
    groups, texts = _groups_and_texts(source)
    effect = "what is not read makes the scores worse, whatever the images show"
    warn_of_unread(unread_texts(encoder, texts), encoder.name, "caption", effect)
    return Evaluation(
        data=images.ref,
        split=images.split,
        styles=_by_style(image_features, encoder.encode_text(texts), groups, source),
        all_captions=_over_all_captions(image_features, encoder, source),
        source=source,
        encoder=encoder,
        overlap=overlap_with_training(images, near=near_duplicates),
    )


def measure_run(
    config: ClipConfig, splits: Splits[CaptionedImages], model: Path, metrics: Mapping[str, float]
) -> FinalScores:
    """Scores of the model that a run has exported on its training images and on all that was held out, for
    `run_training`; on the validation set only where there is no test set."""
    datasets = dict(splits.datasets)
    if len(splits.train) > MOST_TRAINING_IMAGES:
        del datasets["train"]
    if "test" in datasets:
        datasets.pop("val", None)
    encoder = ClipEncoder.from_pretrained(model, config.training.device)

    def score(dataset: CaptionedImages, name: str) -> FinalScores:
        precision = config.training.precision
        scores = evaluate_dataset(encoder.model, encoder.tokenizer, encoder.input_of, dataset, precision)
        return FinalScores(summary(scores, name), compare_with_chance(scores))

    return measure_model(encoder, model, datasets, score)


@torch.no_grad()
def evaluate_dataset(
    model: DualEncoder,
    tokenizer: BpeTokenizer,
    prepare: Callable[[dict[str, Tensor]], Tensor],
    dataset: CaptionedImages,
    precision: str = "auto",
) -> dict[str, RetrievalPair]:
    """The scores of a model in evaluation mode for each drawing style of a dataset, or under `all`; `prepare` makes its
    input of a batch."""
    device = model.logit_scale.device
    rows: list[int] = []
    images = []
    with autocast(device, precision):
        for batch in batches_of(dataset, BATCH_SIZE):
            images.append(model.encode_image(prepare(batch).to(device)).float().cpu())
            rows += batch["row"].tolist()
        source = dataset.source.select(np.array(rows))
        groups, texts = _groups_and_texts(source)
        parts = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
        encoded = [model.encode_text(tokenizer.encode(part).to(device)).float().cpu() for part in parts]
    return _by_style(F.normalize(torch.cat(images)), F.normalize(torch.cat(encoded)), groups, source)


def summary(styles: dict[str, RetrievalPair], prefix: str) -> dict[str, float]:
    """The scores as named numbers, for logs and model cards: means over both directions, and over styles if there are
    several, which then have their recall at 10 besides."""
    pairs = styles.values()
    scores = {f"{prefix}_recall_at_{k}": float(np.mean([pair.mean_recall(k) for pair in pairs])) for k in RECALL_AT}
    ranks = [direction.median_rank for pair in pairs for direction in (pair.text_to_image, pair.image_to_text)]
    scores[f"{prefix}_median_rank"] = float(np.mean(ranks))
    if len(styles) > 1:
        scores |= {f"{prefix}_{style}_recall_at_10": pair.mean_recall(10) for style, pair in styles.items()}
    return scores


def compare_with_chance(styles: Mapping[str, RetrievalPair]) -> tuple[BaselineComparison, ...]:
    """The mean recall of both directions beside chance, of each style, at the last rank where that tells something."""
    comparisons = []
    for style, pair in styles.items():
        k = pair.telling_rank
        metric = f"recall@{k}" if style == ALL_STYLES else f"recall@{k} of the style {style!r}"
        count = pair.image_to_text.queries
        comparisons.append(compare_share(metric, pair.mean_recall(k), "chance", pair.mean_chance(k), count, ADVICE))
    return tuple(comparisons)


def _groups_and_texts(source: ImageSource) -> tuple[np.ndarray, list[str]]:
    """The number of each image's text, and the texts: every first caption once."""
    assert source.captions is not None
    return caption_groups(source.captions), list(dict.fromkeys(texts[0] for texts in source.captions))


def _by_style(
    image_features: Tensor, text_features: Tensor, groups: np.ndarray, source: ImageSource
) -> dict[str, RetrievalPair]:
    """All texts and the images of one style at a time."""
    places = _places_of_styles(source)
    return {style: measure_retrieval(image_features[own], text_features, groups[own]) for style, own in places.items()}


def _over_all_captions(
    image_features: Tensor, encoder: ImageTextEncoder, source: ImageSource
) -> dict[str, RetrievalPair]:
    """Every different caption as a query for images, and every one of an image as its right answer."""
    assert source.captions is not None
    captions = [list(dict.fromkeys(texts)) for texts in source.captions]
    if all(len(texts) == 1 for texts in captions):
        return {}
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
    text_features = encoder.encode_text(list(numbers))
    measured = {}
    for style, own in _places_of_styles(source).items():
        pairs = [(place, numbers[text]) for place, row in enumerate(own) for text in captions[row]]
        images, texts = np.array(pairs, dtype=np.int64).T
        measured[style] = measure_pairs(image_features[own], text_features, images, texts)
    return measured


def _places_of_styles(source: ImageSource) -> dict[str, np.ndarray]:
    """The rows of each drawing style, or of all images where the source has no styles."""
    styles = source.metadata.get("style")
    if styles is None:
        return {ALL_STYLES: np.arange(len(source))}
    return {str(style): np.flatnonzero(styles == style) for style in dict.fromkeys(styles.tolist())}
