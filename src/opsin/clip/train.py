"""Training a dual encoder: the loss of one batch, with a text varied for each image, validation, and a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from opsin.clip.augmentation import augment_images
from opsin.clip.config import ClipConfig
from opsin.clip.data import CaptionedImages, EncodedImages, open_splits
from opsin.clip.evaluation import evaluate_dataset, measure_run, summary
from opsin.clip.inference import ClipContent, ClipEncoder
from opsin.clip.loss import clip_loss
from opsin.clip.model import DualEncoder, LockedTower, build_dual_encoder
from opsin.clip.retrieval import RetrievalPair
from opsin.clip.texts import TextSampler
from opsin.clip.words import ClassTeacher, class_teacher, class_texts, word_vectors
from opsin.config import json_digest
from opsin.data.captioned import read_texts
from opsin.data.datasets import Splits, preprocessing_for
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import check_captions
from opsin.encoders import load
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.imagenet import ImagenetEncoder
from opsin.encoders.loading import absolute_reference
from opsin.errors import ConfigError, DataError
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import evaluating, seeded
from opsin.training.run import TrainReport, run_training
from opsin.training.selection import ERROR, error_of_share
from opsin.training.task import Batch, StepOutput, Task

TOO_FEW_TOKENS = "give captions in words, or a larger --vocab-size for rare characters"


class ClipTask(Task[DualEncoder]):
    """The contrastive loss of a batch of images and one text each."""

    monitor = "val_recall_at_10"
    higher_is_better = True
    # Recall at 10 of few candidates soon reaches 1: these go on to tell validations apart.
    other_metrics = {"val_recall_at_1": True, "val_recall_at_5": True, "val_median_rank": False}

    def __init__(
        self, config: ClipConfig, splits: Splits[CaptionedImages], encoder: NetworkEncoder | None = None
    ) -> None:
        """With a tokenizer made for the training captions and a network initialized from the run's seed; `encoder` is
        the locked one, where images are its vectors.

        Raises DataError when the captions leave nothing to learn, ConfigError for an encoder that knows no classes
        where their names are to be learned.
        """
        captions = _captions_to_learn(splits.train)
        words = captions + (read_texts(config.texts) if config.texts else [])
        names = [text for text, _, _ in class_texts()] if config.class_names else []
        # Names of classes are rarer in captions than in what people ask for.
        tokenizer = BpeTokenizer.train(words + 3 * names, config.text.vocab_size, config.text.max_length)
        check_captions(tokenizer.unread(captions), "of this run", TOO_FEW_TOKENS)
        vectors = None if encoder is None else _all_vectors(splits.train)  # (N, V, D)
        with seeded(config.seed, "weights"):
            text = text_tower_options(config, tokenizer)
            locked_dim = None if vectors is None else vectors.shape[2]
            model = build_dual_encoder(config.image_size, config.embed_dim, asdict(config.image), text, locked_dim)
            if config.text.kind == "words":
                model.text_tower.embedding.weight.data.copy_(
                    word_vectors(tokenizer, words + 2 * names, config.text.embed_dim)
                )
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        self.tokenizer = tokenizer
        self.encoder_fingerprint = None if encoder is None else encoder.fingerprint
        self.preprocessing = preprocessing_for(splits.train.images, config.image_size)
        self.texts = TextSampler(splits.train.captions, tokenizer, config.augment)
        self.validation = splits.val
        self.teacher: ClassTeacher | None = None
        if isinstance(model.image_tower, LockedTower) and vectors is not None:
            model.image_tower.standardize(vectors.flatten(0, 1))
            if config.class_names:
                if not isinstance(encoder, ImagenetEncoder):
                    raise ConfigError(f"--class-names is for the encoder imagenet, not for {config.image_encoder}")
                self.teacher = class_teacher(encoder, tokenizer, _all_vectors(splits.train)[:, :2].mean(dim=1))

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.model.clip_logit_scale()
        tokens, same_words = self.texts.draw(batch["row"].tolist(), generator)
        device = batch["image"].device
        inputs = self._varied(batch, generator)
        images, texts, scale = self.model(inputs, tokens.to(device))
        keys = torch.stack([batch["group"], same_words.to(device)], dim=1)
        loss, accuracy = clip_loss(images, texts, scale, keys)
        if self.teacher is not None:
            loss = loss + self.teacher.loss(self.model, inputs, images, generator)
        return StepOutput(loss, {"accuracy": accuracy, "logit_scale": scale.detach()})

    def _varied(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Network input of the images of a batch, each varied in its own way; of vectors, those of one view."""
        if self.encoder_fingerprint is None:
            images = augment_images(batch["image"].float() / 255, self.config.augment, generator)
            return self.preprocessing.normalize(images)
        vectors = batch["vectors"]
        views = torch.randint(vectors.shape[1], (len(vectors),), generator=generator, device=generator.device)
        return vectors[torch.arange(len(vectors), device=vectors.device), views.to(vectors.device)]

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
            return evaluate_dataset(self.model, self.tokenizer, self._encoder().input_of, dataset, precision)

    def foundations(self) -> dict[str, str]:
        return {"tokenizer": json_digest(self.tokenizer.to_json()), **super().foundations()}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self._encoder(metrics).save_pretrained(directory)

    def _encoder(self, metrics: Mapping[str, float] | None = None) -> ClipEncoder:
        content = ClipContent(
            embed_dim=self.config.embed_dim,
            image=asdict(self.config.image),
            text=text_tower_options(self.config, self.tokenizer),
            tokenizer=self.tokenizer.to_json(),
            preprocessing=self.preprocessing,
            image_encoder=absolute_reference(self.config.image_encoder) if self.encoder_fingerprint else None,
            encoder_fingerprint=self.encoder_fingerprint,
            encoder_dim=self.model.image_tower.embed_dim if self.encoder_fingerprint else None,
            metrics=dict(metrics or {}),
            run=self.run,
        )
        return ClipEncoder(self.model, content)


def train_clip(
    config: ClipConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[Splits[CaptionedImages]]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    encoder = None
    if config.lock_image:
        encoder = load(config.image_encoder, config.training.device, config.training.precision)
    splits = open_splits(config, encoder, progress)
    task = ClipTask(config, splits, encoder)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)


def _captions_to_learn(train: CaptionedImages) -> list[str]:
    if len(train) > 0 and len(set(train.groups.tolist())) < 2:
        raise DataError(
            f"all captions of {train.source.name!r} that are trained on are the same, {train.captions[0][0]!r}; there "
            "is nothing to tell apart"
        )
    return [text for texts in train.captions for text in texts]


def _all_vectors(train: CaptionedImages) -> torch.Tensor:
    """Those of all views of the training images, (N, V, D)."""
    assert isinstance(train.images, EncodedImages)
    return train.images.vectors


def text_tower_options(config: ClipConfig, tokenizer: BpeTokenizer) -> dict[str, Any]:
    """Options of `TextTransformer`, with as many tokens as were found."""
    return {**asdict(config.text), "vocab_size": len(tokenizer)}
