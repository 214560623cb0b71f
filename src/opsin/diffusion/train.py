"""Training a diffusion model: the denoising loss of one batch, validation by noise level, samples, and a whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from opsin.data.datasets import Subset, batches_of, pick_one
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, PromptDataset, open_splits
from opsin.diffusion.drawings import Generation, Sampling, images_of
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.model import DiffusionContent, TextDiffusion, build_model
from opsin.diffusion.pictures import generations_figure
from opsin.diffusion.text import load_text_encoder
from opsin.encoders.base import TextEncoder
from opsin.images.augment import random_flip
from opsin.pictures import save_figure
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import autocast, make_generator, resolve_device, seeded
from opsin.training.baselines import compare_paired
from opsin.training.run import FinalScores, TrainReport, run_training
from opsin.training.task import Batch, StepOutput, Task

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Shares of the noise schedule at which the validation loss is measured."""
MOST_VALIDATED = 512
BATCH_SIZE = 128
SAMPLE_PROMPTS = 8
SAMPLES_EACH = 2
ADVICE = (
    "the prompts do not help with new images yet; train longer (--max-minutes) or on more captioned images, or take "
    "another --text-encoder"
)

ItemT = TypeVar("ItemT")


class DiffusionTask(Task[TextDiffusion]):
    """The loss of `GaussianDiffusion.p_losses`, one text drawn for each image."""

    text_features: Tensor

    def __init__(self, config: DiffusionConfig, splits: DiffusionSplits) -> None:
        """With a network initialized from the run's seed."""
        with seeded(config.seed, "weights"):
            model = build_model(config.model, config.process, config.image_size, splits.features.shape[1])
        model.fit_texts(splits.train_features)
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        self.splits = splits
        # Known from the data: a training state need not hold it.
        self.register_buffer("text_features", splits.features, persistent=False)
        self.sample_texts = _spread(splits.texts, SAMPLE_PROMPTS)
        self._sample_rows = [splits.texts.index(text) for text in self.sample_texts]

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        images = batch["image"].float() / 255
        if self.config.flip:
            images = random_flip(images, generator)
        rows = pick_one(batch["texts"], batch["num_texts"], generator)
        loss = self.model.diffusion.p_losses(_channels_last(images), self._conditions(rows))
        return StepOutput(loss, {})

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Unweighted errors at `LEVELS`, on the same images and noise at each validation.

        They are `val_loss…`, or `seen_loss…` when nothing is held out and training images are judged.
        """
        judged, name = (self.splits.train, "seen_loss") if self.splits.val is None else (self.splits.val, "val_loss")
        metrics = {f"{name}_t{step}": float(errors.mean()) for step, errors in self.errors(judged).items()}
        return {name: sum(metrics.values()) / len(metrics), **metrics}

    @torch.no_grad()
    def errors(self, judged: PromptDataset, *, prompted: bool = True) -> dict[int, Tensor]:
        """The unweighted error (N,) of at most `MOST_VALIDATED` images at the time step of each of the `LEVELS`, with
        the same noise at each call; without their prompts unless `prompted`."""
        diffusion = self.model.diffusion
        steps = [round(level * (diffusion.num_timesteps - 1)) for level in LEVELS]
        losses: dict[int, list[Tensor]] = {step: [] for step in steps}
        generator = make_generator(self.config.training.seed, "validation")
        for batch in batches_of(Subset(judged, _spread(range(len(judged)), MOST_VALIDATED)), BATCH_SIZE):
            device = self.text_features.device
            x_start = diffusion.normalize(batch["image"].to(device).float() / 255)
            conditions = self._conditions(batch["texts"][:, 0].to(device)) if prompted else {}
            for step in steps:
                t = torch.full((len(x_start),), step, device=device)
                noise = torch.randn(x_start.shape, generator=generator).to(device)
                with autocast(device, self.config.training.precision):
                    weighted = diffusion.losses_at(_channels_last(x_start), t, noise, conditions)
                losses[step].append((weighted / diffusion.loss_weight[step]).cpu())
        return {step: torch.cat(parts) for step, parts in losses.items()}

    def foundations(self) -> dict[str, str]:
        own = {} if self.splits.encoder is None else {"text encoder": self.splits.encoder.fingerprint}
        return own | super().foundations()

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self.text_to_image(metrics).save_pretrained(directory)

    def save_samples(self, directory: Path, step: int) -> None:
        """A grid of the same prompts from the same noise at each step of the run."""
        vectors = self.model.scaled(self.text_features[self._sample_rows]).repeat_interleave(SAMPLES_EACH, dim=0)
        sampling = Sampling(guidance_scale=self.config.sample_guidance)
        generator = make_generator(self.config.training.seed, "samples")
        pictures = images_of(self.text_to_image().draw(vectors, sampling, generator=generator)[:, -1])
        results = [
            Generation(text, tuple(pictures[index * SAMPLES_EACH : (index + 1) * SAMPLES_EACH]))
            for index, text in enumerate(self.sample_texts)
        ]
        save_figure(generations_figure(results), directory / f"step-{step:07d}.png")

    def text_to_image(self, metrics: Mapping[str, float] | None = None) -> TextToImage:
        """The model in its present state, ready for use."""
        encoder = self.splits.encoder
        content = DiffusionContent(
            model=self.config.model,
            process=self.config.process,
            image_size=self.model.diffusion.image_size,
            text_encoder=self.config.text_encoder if encoder is None else encoder.name,
            text_fingerprint=None if encoder is None else encoder.fingerprint,
            text_dim=len(self.model.text_mean),
            metrics=dict(metrics or {}),
            run=self.run,
        )
        return TextToImage(self.model, content, precision=self.config.training.precision)

    def _conditions(self, rows: Tensor) -> dict[str, Tensor]:
        return {"text_emb": self.model.scaled(self.text_features[rows])}


def train_diffusion(
    config: DiffusionConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    text_encoder: TextEncoder | None = None,
) -> TrainReport[DiffusionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    `text_encoder` takes the place of the one that the config names. Raises DataError when the data cannot be used for
    this, what the text encoder raises, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, text_encoder or load_text_encoder(config.text_encoder, config.training.device))
    task = DiffusionTask(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)


def measure_run(
    config: DiffusionConfig, splits: DiffusionSplits, model: Path, metrics: Mapping[str, float]
) -> FinalScores:
    """The validation loss beside that of the same network without prompts, for `run_training`; no baseline where
    nothing is held out, and for a network that was never trained without prompts."""
    if splits.val is None or config.model.uncond_prob == 0:
        return FinalScores()
    task = DiffusionTask(config, splits)
    task.model.load_state_dict(TextToImage.from_pretrained(model, "cpu").model.state_dict())
    task.to(resolve_device(config.training.device)).eval()
    with_prompts, without = (
        torch.stack([*task.errors(splits.val, prompted=prompted).values()]).mean(dim=0).numpy()
        for prompted in (True, False)
    )
    name = "the same network without prompts"
    return FinalScores({}, compare_paired("val_loss", with_prompts, name, without, ADVICE, lower_is_better=True))


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _spread(items: Sequence[ItemT], count: int) -> list[ItemT]:
    """At most so many of the items, evenly spread over all."""
    return list(items[:: max(1, -(-len(items) // count))])
