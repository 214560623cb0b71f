"""Training a captioner: the loss of one batch, with one caption drawn for each image, validation, and a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import ImageCaptionDataset
from opsin.captioning.evaluation import caption_loss, evaluate_dataset, measure_run, word_loss
from opsin.captioning.inference import Captioner, CaptionerContent
from opsin.captioning.model import ImageCaptioner, build_model
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.config import json_digest
from opsin.data.datasets import pick_one, preprocessing_for
from opsin.images.augment import vary
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import seeded
from opsin.training.run import TrainReport, run_training
from opsin.training.selection import ERROR, error_of_mean
from opsin.training.task import Batch, StepOutput, Task


class CaptioningTask(Task[ImageCaptioner]):
    """Cross-entropy of the next word, given the image and the true words before it.

    The loss is the mean over the captions of a batch of their words' summed cross-entropy, in units of the mean length
    of all training captions: nats per word on average, and every word counts alike, as in the course's loss. Dividing
    by the words of the batch itself would not do: where a batch is cut into parts (several processes, accumulation),
    parts with fewer words would have louder ones. This way the parts together are exactly the joint batch.

    With `word_loss` the mean image vector has to tell the words of the caption as well, by a second cross-entropy. An
    encoder that starts from nothing learns what to look for much sooner by it: a decoder alone first learns which
    words follow each other, and for long needs no image to do so.

    Captions without images teach the decoder, at every step, which words follow each other: as many are drawn as there
    are captions of images, and every word counts as much. In place of an image stands a vector of zeros.
    """

    monitor = "val_cider_d"
    higher_is_better = True
    other_metrics = {"val_loss": False, "val_distinct_ratio": True}

    def __init__(self, config: CaptioningConfig, splits: CaptionSplits) -> None:
        """With a network initialized from the run's seed."""
        words, width = splits.vocabulary, splits.feature_dim
        with seeded(config.seed, "weights"):
            model = build_model(config.encoder, config.decoder, config.image_size, words, width)
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        images = splits.train.images if isinstance(splits.train, ImageCaptionDataset) else None
        self.preprocessing = preprocessing_for(images, config.image_size)
        self.splits = splits
        self.mean_length = splits.train.table.mean_length

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        inputs = batch["feature"] if self.splits.feature_dim is not None else self._images(batch["image"], generator)
        captions = pick_one(batch["captions"], batch["num_captions"], generator)
        targets = captions[:, 1:]
        features = self.model.encode(inputs)
        decoder = self.model.decoder
        scores = decoder(features, captions[:, :-1])
        null = decoder.null_index
        total = caption_loss(scores, targets, null, label_smoothing=self.config.label_smoothing)
        loss = total / (len(captions) * self.mean_length)
        real = targets != null
        right = ((scores.argmax(dim=2) == targets) & real).sum(dim=1) / real.sum(dim=1)
        metrics = {"word_accuracy": right.mean(), "caption_loss": loss.detach()}
        if self.splits.texts is not None:
            loss = loss + self._text_loss(self.splits.texts.tokens, features, generator)
        if self.config.word_loss > 0:
            unspoken = [index for index in (null, decoder.end_index, decoder.unknown_index) if index is not None]
            of_words = word_loss(decoder.word_scores(features), targets, unspoken)
            loss = loss + self.config.word_loss * of_words / len(captions)
        return StepOutput(loss, metrics)

    def _text_loss(self, texts: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of as many captions without images, out of int64 (M, T), as `features` has images."""
        rows = torch.randint(len(texts), (len(features),), generator=generator, device=generator.device)
        captions = texts[rows.to(texts.device)].to(features.device)
        scores = self.model.decoder(features.new_zeros(len(features), features.shape[-1]), captions[:, :-1])
        null, smoothing = self.model.decoder.null_index, self.config.label_smoothing
        total = caption_loss(scores, captions[:, 1:], null, label_smoothing=smoothing)
        return total / (len(captions) * self.mean_length)

    def _images(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        images = vary(
            pixels.float() / 255,
            generator,
            flip=config.flip,
            shift=config.shift,
            augment_ops=config.augment_ops,
            augment_magnitude=config.augment_magnitude,
        )
        return self.preprocessing.normalize(images)

    def evaluate(self) -> dict[str, float]:
        if self.splits.val is None:
            return {}
        result = evaluate_dataset(self.captioner(), self.splits.val)
        error = error_of_mean([score.cider_d for score in result.metrics.per_image])
        return {**result.summary("val"), self.monitor + ERROR: error}

    def foundations(self) -> dict[str, str]:
        weights = self.splits.encoder_fingerprint
        encoder = {} if weights is None else {"frozen encoder": weights}
        return {"vocabulary": json_digest(self.splits.vocabulary.words), **encoder, **super().foundations()}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self.captioner(metrics).save_pretrained(directory)

    def captioner(self, metrics: Mapping[str, float] | None = None) -> Captioner:
        """The model in its present state, ready for use."""
        content = CaptionerContent(
            encoder=self.config.encoder,
            decoder=self.config.decoder,
            words=self.splits.vocabulary.words,
            preprocessing=self.preprocessing,
            feature_dim=self.splits.feature_dim,
            frozen_encoder=self.config.frozen_encoder,
            encoder_fingerprint=self.splits.encoder_fingerprint,
            metrics=dict(metrics or {}),
            run=self.run,
        )
        return Captioner(self.model, content, precision=self.config.training.precision)


def train_captioner(
    config: CaptioningConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[CaptionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, progress=progress)
    task = CaptioningTask(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)
