"""Judging a captioner on a source or a dataset: its captions, their scores, and the loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from opsin.captioning.baseline import compare_captions
from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import (
    CaptionDataset,
    FeatureCaptionDataset,
    all_captions,
    encoded_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.inference import Caption, Captioner, Decoding
from opsin.captioning.metrics import CaptionMetrics, caption_metrics
from opsin.captioning.splits import COURSE, CaptionSplits, open_splits
from opsin.counts import number_of
from opsin.data.datasets import batches_of
from opsin.data.repeats import Overlap, overlap_with_training
from opsin.data.splits import OTHER_STYLE, choose_evaluation_images
from opsin.errors import DataError
from opsin.images.opening import Skipped
from opsin.progress import Progress, tracked
from opsin.runtime import autocast, refuse_damaged
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import is_same_source
from opsin.training.baselines import BaselineComparison
from opsin.training.run import FinalScores, measure_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetEvaluation:
    """`captions[i]` was written about the image in row `rows[i]` of the dataset's table, and people wrote
    `references[i]`.

    `loss` is the mean cross-entropy in nats per token, over all captions of all images.
    """

    metrics: CaptionMetrics
    loss: float
    captions: tuple[Caption, ...]
    references: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]

    def worst(self, count: int) -> list[int]:
        """The places in `captions` of the `count` lowest by CIDEr-D, then by ROUGE-L, the worst first."""
        scores = self.metrics.per_image
        order = sorted(range(len(scores)), key=lambda place: (scores[place].cider_d, scores[place].rouge_l))
        return order[:count]

    def collapse(self, split: str) -> str | None:
        """A sentence on captions of a split that have collapsed, see `CaptionMetrics.collapse`; None where they have
        not."""
        reason = self.metrics.collapse
        if reason is None:
            return None
        if self.metrics.diversity.distinct_captions == 1:
            reason = f"all {self.metrics.count} images of the split {split!r} got {self.captions[0].text!r}"
        else:
            reason += f" (split {split!r}, for example {self.captions[0].text!r})"
        return f"the captions have collapsed: {reason}"

    def baselines(self, training_captions: Iterable[str]) -> tuple[BaselineComparison, ...]:
        """CIDEr-D beside its baseline, see `compare_captions`; empty where there is none."""
        scores = [score.cider_d for score in self.metrics.per_image]
        return compare_captions(scores, self.references, training_captions)

    def summary(self, prefix: str) -> dict[str, float]:
        """The scores as named numbers, for logs and model cards."""
        names = ("bleu1", "bleu4", "rouge_l", "cider_d", "exact_match", "distinct_ratio")
        scores = {f"{prefix}_{name}": float(getattr(self.metrics, name)) for name in names}
        return {**scores, f"{prefix}_loss": self.loss}


@dataclass(frozen=True)
class Evaluation:
    """A result with its protocol: which source, which split, how many beams, and what was skipped.

    `ids[i]` names the image of `result.captions[i]`; `source` has the images, in the rows `result.rows`, and is None
    for features. `baselines` is empty where the training captions are not known; `overlap` says which of the images
    were trained on, and is None where these are not known, or are what is evaluated.
    """

    data: str
    split: str
    beams: int
    result: DatasetEvaluation
    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    source: ImageSource | None
    baselines: tuple[BaselineComparison, ...]
    overlap: Overlap | None

    @property
    def protocol(self) -> str:
        """What was measured, and how, in a line."""
        count = self.result.metrics.count
        unseen = ", emoji seen in training in another style only" if self.split == OTHER_STYLE else ""
        decoding = f"{self.beams} beams" if self.beams > 1 else "greedy decoding"
        images = f"{number_of(count, 'image')} of {self.data!r}, split {self.split!r}{unseen}"
        return f"{images}, {decoding}, words cut by opsin"

    def image(self, place: int, size: int | None = None) -> Image.Image:
        """The image that `result.captions[place]` is about; `size` is that of `open_image`. Raises ValueError for
        features."""
        if self.source is None:
            raise ValueError("features have no images")
        return self.source.load(self.result.rows[place], size)


def evaluate_all(
    captioner: Captioner,
    data: str | None = None,
    split: str | None = None,
    *,
    beams: int | None = None,
    exclude: Sequence[str] = (),
    near_duplicates: bool = False,
    progress: Progress | None = None,
) -> tuple[Evaluation, ...]:
    """`evaluate_captioner`, and, of the training source without `split`, also on drawings in the style held out."""

    def evaluate(split: str | None) -> Evaluation:
        return evaluate_captioner(
            captioner,
            data,
            split,
            beams=beams,
            exclude=exclude,
            near_duplicates=near_duplicates,
            progress=progress,
        )

    first = evaluate(split)
    own = None if captioner.run is None else captioner.run.config
    if split is not None or own is None or own.style_fraction == 0 or not is_same_source(first.data, own.data):
        return (first,)
    return first, evaluate(OTHER_STYLE)


def evaluate_captioner(
    captioner: Captioner,
    data: str | None = None,
    split: str | None = None,
    *,
    beams: int | None = None,
    exclude: Sequence[str] = (),
    near_duplicates: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on a split of a source; both default to what the model was trained on, `beams` to those of its run.

    `exclude` are patterns of images to leave out, besides those that the run has left out of its source.
    Which images these are, see `opsin.data.splits.evaluation_split`. With `near_duplicates`, images are also compared
    with the training images by what they look like. `progress` is told of the images captioned, and can stop.

    Raises CheckpointError for a model whose scores are NaN, Cancelled, and DataError when the split is empty, when no
    source is named and the model does not say its own, when the source holds features and the model takes images, or
    the reverse, and when it holds features or words that the model does not take.
    """
    own: CaptioningConfig | None = None if captioner.run is None else captioner.run.config
    ref = data or ("" if own is None else own.data)
    if captioner.takes_images and ref.startswith(COURSE):
        raise DataError(f"this captioner takes images, and {ref!r} holds features")
    if beams is None:
        beams = CaptioningConfig.beams if own is None else own.beams
    dataset: CaptionDataset
    source = overlap = None
    if captioner.takes_images:
        images = choose_evaluation_images(CaptioningConfig(data=ref, exclude=tuple(exclude)), split, captioner.run)
        source, split = images.source, images.split
        overlap = overlap_with_training(images, near=near_duplicates)
        captions = None if images.training is None else images.training.captions
        training_captions = [text for texts in captions or () for text in texts]
        size, longest = captioner.preprocessing.image_size, captioner.content.decoder.max_length
        if captioner.content.frozen_encoder is None:
            dataset = image_caption_dataset(source, captioner.vocabulary, size, longest)
        else:
            encoder = captioner.load_frozen_encoder()
            dataset, source = encoded_caption_dataset(source, captioner.vocabulary, encoder, longest)
        names = list(source.ids)
    else:
        dataset, split, training_captions = _choose_features(ref, split, own, captioner)
        names = list(dataset.ids)
    result = evaluate_dataset(captioner, dataset, beams=beams, progress=progress)
    refuse_damaged(torch.tensor([result.loss, *(caption.log_prob for caption in result.captions)]), "the captioner")
    return Evaluation(
        data=ref,
        split=split,
        beams=beams,
        result=result,
        ids=tuple(names[row] for row in result.rows),
        skipped=tuple(dataset.skipped),
        source=source,
        baselines=result.baselines(training_captions),
        overlap=overlap,
    )


def _choose_features(
    ref: str, split: str | None, own: CaptioningConfig | None, captioner: Captioner
) -> tuple[FeatureCaptionDataset, str, list[str]]:
    """The features to evaluate on, their split, and the training captions."""
    if not ref.startswith(COURSE):
        raise DataError(f"this captioner takes features, and {ref!r} holds images")
    settings = CaptioningConfig(decoder=captioner.content.decoder) if own is None else own
    splits = open_splits(replace(settings, data=ref))
    if splits.feature_dim != captioner.content.feature_dim:
        raise DataError(
            f"this captioner takes features of width {captioner.content.feature_dim}, and those of {ref!r} have width "
            f"{splits.feature_dim}"
        )
    if splits.vocabulary != captioner.vocabulary:
        raise DataError(
            f"the vocabulary of {ref!r} ({len(splits.vocabulary)} words) is not that of this captioner "
            f"({len(captioner.vocabulary)} words), so its captions cannot be compared"
        )
    split = split or "val"
    dataset = splits.datasets.get(split)
    if not isinstance(dataset, FeatureCaptionDataset):
        raise DataError(f"{ref!r} has no split {split!r}; it has train, val, and features are judged on one at a time")
    return dataset, split, splits.train.table.all_references()


def measure_run(
    config: CaptioningConfig, splits: CaptionSplits, model: Path, metrics: Mapping[str, float]
) -> FinalScores:
    """Scores of the model that a run has exported on all that was held out, for `run_training`, with a warning of
    captions that have collapsed."""
    held_out = {name: dataset for name, dataset in splits.datasets.items() if name != "train"}
    if not held_out:
        return FinalScores()
    captioner = Captioner.from_pretrained(model, config.training.device, config.training.precision)
    training_captions = splits.train.table.all_references()

    def score(dataset: CaptionDataset, name: str) -> FinalScores:
        result = evaluate_dataset(captioner, dataset, beams=1 if name == "val" else config.beams)
        if collapse := result.collapse(name):
            logger.warning("%s", collapse)
        return FinalScores(result.summary(name), result.baselines(training_captions))

    return measure_model(captioner, model, held_out, score)


@torch.no_grad()
def evaluate_dataset(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    beams: int = 1,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> DatasetEvaluation:
    """Caption every image and compare with all its captions. Raises DataError when no caption has a word in it."""
    captions: list[Caption] = []
    rows: list[int] = []
    loss, tokens = 0.0, 0
    batches = batches_of(dataset, batch_size)
    for batch in tracked(batches, progress, "captioning", math.ceil(len(dataset) / batch_size), unit="batches"):
        features = captioner.encode(batch["image"] if "image" in batch else batch["feature"])
        captions += captioner.write(features, Decoding(beams=beams))
        rows += batch["row"].tolist()
        every, images = all_captions(batch["captions"], batch["num_captions"])
        every, images = every.to(captioner.device), images.to(captioner.device)
        with autocast(captioner.device, captioner.precision):
            scores = captioner.model.decoder(features[images], every[:, :-1])
        null = captioner.model.decoder.null_index
        loss += float(caption_loss(scores, every[:, 1:], null))
        tokens += int((every[:, 1:] != null).sum())
    references = tuple(dataset.table.references(row) for row in rows)
    metrics = caption_metrics([caption.text for caption in captions], references)
    return DatasetEvaluation(metrics, loss / tokens, tuple(captions), references, tuple(rows))


def caption_loss(scores: Tensor, targets: Tensor, null_index: int, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of scores (N, T, V) against words (N, T), summed over the places that are not `<NULL>`."""
    return F.cross_entropy(
        scores.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=null_index,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def word_loss(scores: Tensor, targets: Tensor, ignored: Sequence[int]) -> Tensor:
    """Cross-entropy of word scores (N, V) against the words in `targets` (N, T), in any order, summed over N.

    The words of a caption share its target equally, once for each time they occur. Those that are `ignored`, as
    `<NULL>` and `<END>`, have no part in it, and a caption without any other word costs nothing.
    """
    counts = torch.zeros(scores.shape, device=scores.device)
    counts.scatter_add_(1, targets, torch.ones(targets.shape, device=scores.device))
    counts[:, list(ignored)] = 0.0
    shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1.0)
    return -(shares * F.log_softmax(scores.float(), dim=1)).sum()
