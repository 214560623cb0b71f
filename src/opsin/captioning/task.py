"""Training a captioner: the loss of one batch, with one caption drawn for each image, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import CaptionDataset, pick_captions
from opsin.captioning.evaluation import caption_loss, evaluate_dataset
from opsin.captioning.image_captioner import ImageCaptioner
from opsin.captioning.inference import Captioner
from opsin.captioning.vocabulary import Vocabulary
from opsin.config import to_dict
from opsin.data.augment import random_flip, random_shift
from opsin.data.preprocessing import Preprocessing
from opsin.training.task import Batch, StepOutput, Task


class CaptioningTask(Task):
    """Cross-entropy of the next word, given the image and the true words before it.

    The loss is the mean over the words of a batch. Where a batch is cut into parts (several processes, accumulation),
    the parts count alike, although their captions have more or fewer words.
    """

    monitor = "val_cider_d"
    higher_is_better = True

    def __init__(
        self,
        model: ImageCaptioner,
        config: CaptioningConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        validation: CaptionDataset | None,
        feature_dim: int | None = None,
    ) -> None:
        """`feature_dim` is the width of the features that take the place of images, if they do."""
        super().__init__(model)
        self.config = config
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.validation = validation
        self.feature_dim = feature_dim

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        inputs = batch["feature"] if self.feature_dim is not None else self._images(batch["image"], generator)
        captions = pick_captions(batch["captions"], batch["num_captions"], generator)
        targets = captions[:, 1:]
        scores = self.model(inputs, captions[:, :-1])
        null = self._network.decoder.null_index
        loss = caption_loss(scores, targets, null, label_smoothing=self.config.label_smoothing)
        real = targets != null
        accuracy = ((scores.argmax(dim=2) == targets) & real).sum() / real.sum()
        return StepOutput(loss, {"word_accuracy": accuracy.detach()})

    def _images(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        images = pixels.float() / 255
        if self.config.flip:
            images = random_flip(images, generator)
        if self.config.shift:
            images = random_shift(images, self.config.shift, generator)
        return self.preprocessing.normalize(images)

    def evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        return evaluate_dataset(self.captioner(), self.validation).summary("val")

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self.captioner(metrics).save_pretrained(directory)

    def captioner(self, metrics: Mapping[str, float] | None = None) -> Captioner:
        """The model in its present state, ready for use."""
        training: dict[str, Any] = to_dict(self.config)
        return Captioner(
            self._network,
            self.config.encoder,
            self.config.decoder,
            self.vocabulary,
            self.preprocessing,
            feature_dim=self.feature_dim,
            metrics=metrics,
            training=training,
        )

    @property
    def _network(self) -> ImageCaptioner:
        assert isinstance(self.model, ImageCaptioner)
        return self.model
