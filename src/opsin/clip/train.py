"""Training a dual encoder: the loss of one batch, with a text varied for each image, validation, and a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from opsin.clip.augmentation import augment_images
from opsin.clip.config import ClipConfig
from opsin.clip.data import CaptionedImages, open_splits
from opsin.clip.evaluation import evaluate_dataset, measure_run, summary
from opsin.clip.inference import ClipContent, ClipEncoder
from opsin.clip.loss import clip_loss
from opsin.clip.model import DualEncoder, build_dual_encoder
from opsin.clip.retrieval import RetrievalPair
from opsin.clip.texts import TextSampler
from opsin.config import json_digest
from opsin.data.datasets import Splits, preprocessing_for
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import check_captions
from opsin.errors import DataError
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import evaluating, seeded
from opsin.training.run import TrainReport, run_training
from opsin.training.selection import ERROR, error_of_share
from opsin.training.task import Batch, StepOutput, Task


class ClipTask(Task[DualEncoder]):
    """The contrastive loss of a batch of images and one text each."""

    monitor = "val_recall_at_10"
    higher_is_better = True
    # Recall at 10 of few candidates soon reaches 1: these go on to tell validations apart.
    other_metrics = {"val_recall_at_1": True, "val_recall_at_5": True, "val_median_rank": False}

    def __init__(self, config: ClipConfig, splits: Splits[CaptionedImages]) -> None:
        """With a tokenizer made for the training captions and a network initialized from the run's seed.

        Raises DataError when the captions leave nothing to learn.
        """
        tokenizer = _tokenizer_for(splits.train, config)
        with seeded(config.seed, "weights"):
            text = text_tower_options(config, tokenizer)
            model = build_dual_encoder(config.image_size, config.embed_dim, asdict(config.image), text)
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing_for(splits.train.images, config.image_size)
        self.texts = TextSampler(splits.train.captions, tokenizer, config.augment)
        self.validation = splits.val

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.model.clip_logit_scale()
        tokens, same_words = self.texts.draw(batch["row"].tolist(), generator)
        device = batch["image"].device
        images = augment_images(batch["image"].float() / 255, self.config.augment, generator)
        images, texts, scale = self.model(self.preprocessing.normalize(images), tokens.to(device))
        keys = torch.stack([batch["group"], same_words.to(device)], dim=1)
        loss, accuracy = clip_loss(images, texts, scale, keys)
        return StepOutput(loss, {"accuracy": accuracy, "logit_scale": scale.detach()})

    def evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        metrics = summary(self.scores_of(self.validation), "val")
        # Both directions ask about the same pairs, so that their mean is hardly surer than one of them.
        recalls = [name for name in metrics if "recall" in name]
        count = len(self.validation)
        return {**metrics, **{name + ERROR: error_of_share(metrics[name], count) for name in recalls}}

    def scores_of(self, dataset: CaptionedImages) -> dict[str, RetrievalPair]:
        """Retrieval scores of the model in its present state; its mode is left as it was."""
        with evaluating(self.model):
            precision = self.config.training.precision
            return evaluate_dataset(self.model, self.tokenizer, self.preprocessing, dataset, precision)

    def foundations(self) -> dict[str, str]:
        return {"tokenizer": json_digest(self.tokenizer.to_json()), **super().foundations()}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        content = ClipContent(
            embed_dim=self.config.embed_dim,
            image=asdict(self.config.image),
            text=text_tower_options(self.config, self.tokenizer),
            tokenizer=self.tokenizer.to_json(),
            preprocessing=self.preprocessing,
            metrics=dict(metrics),
            run=self.run,
        )
        ClipEncoder(self.model, content).save_pretrained(directory)


def train_clip(
    config: ClipConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[Splits[CaptionedImages]]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = ClipTask(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)


def _tokenizer_for(train: CaptionedImages, config: ClipConfig) -> BpeTokenizer:
    if len(train) > 0 and len(set(train.groups.tolist())) < 2:
        raise DataError(
            f"all captions of {train.source.name!r} that are trained on are the same, {train.captions[0][0]!r}; there "
            "is nothing to tell apart"
        )
    captions = [text for texts in train.captions for text in texts]
    tokenizer = BpeTokenizer.train(captions, config.text.vocab_size, config.text.max_length)
    remedy = "give captions in words, or a larger --vocab-size for rare characters"
    check_captions(tokenizer.unread(captions), "of this run", remedy)
    return tokenizer


def text_tower_options(config: ClipConfig, tokenizer: BpeTokenizer) -> dict[str, Any]:
    """Options of `TextTransformer`, with as many tokens as were found."""
    return {**asdict(config.text), "vocab_size": len(tokenizer)}
