"""The tour's section on diffusion: a small network learns to draw a few emoji; the model of the package draws more."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from opsin.config import to_dict
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, open_splits
from opsin.diffusion.inference import Generation, TextToImage
from opsin.diffusion.metrics import prompt_ranks
from opsin.diffusion.pictures import filmstrip_figure, generations_figure, rows_figure
from opsin.diffusion.recipes import emoji_small
from opsin.diffusion.text import load_text_encoder
from opsin.diffusion.train import DiffusionTask
from opsin.encoders.loading import load_image_text
from opsin.progress import Progress
from opsin.report import MEASURED, REPEAT, Picture, Section, Table
from opsin.sources.opening import open_source
from opsin.training.trainer import Trainer, TrainingResult

JUDGE, SHIPPED = "emoji-clip", "emoji-diffusion"
PROMPTS = ("face with cowboy hat", "crying cat", "red apple", "rainbow", "snowman", "mushroom")
"""What the model of the package draws: emoji, by names of which not all are Unicode's."""
FEW = 32
"""Drawings that the short training learns: so few that shapes come in a minute."""
STAGES, WATCHED = 5, 5
"""How many times during training how many of the learned prompts are drawn."""
EACH, GUIDANCE, STEPS = 5, 2.0, 20


class _WatchedTask(DiffusionTask):
    """Keeps a drawing of some learned prompts from every validation, always from the same noise, and writes none."""

    def __init__(self, config: DiffusionConfig, splits: DiffusionSplits) -> None:
        super().__init__(config, splits)
        self.watched = splits.texts[:: max(1, len(splits.texts) // WATCHED)][:WATCHED]
        self.stages: dict[int, list[Image.Image]] = {}

    def save_samples(self, directory: Path, step: int) -> None:
        if step not in self.stages:  # the averaged weights come first
            drawn = self.text_to_image().generate(self.watched, guidance_scale=GUIDANCE, steps=STEPS)
            self.stages[step] = [generation.images[0] for generation in drawn]


def diffusion_section(directory: Path, minutes: float, progress: Progress | None) -> Section:
    """Train by time budget and show how drawings come about, first over the training, then over the steps of one."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = emoji_small()
    training = dataclasses.replace(recipe.training, epochs=None, max_steps=None, max_minutes=minutes)
    training = dataclasses.replace(training, validations=STAGES, batch_size=FEW)
    config = dataclasses.replace(recipe, train_on="all", max_train=FEW, training=training)
    splits = open_splits(config, load_text_encoder(config.text_encoder))
    task = _WatchedTask(config, splits)
    trainer = Trainer(training, directory, progress=progress)
    result = trainer.fit(task, splits.train, to_dict(config))

    model = TextToImage.from_pretrained(str(trainer.run.model))
    drawings = model.generate(task.watched, num_images=EACH, guidance_scale=GUIDANCE, steps=STEPS)
    shipped = TextToImage.from_pretrained(SHIPPED)
    started = time.perf_counter()
    better = shipped.generate(PROMPTS, num_images=EACH, guidance_scale=GUIDANCE, steps=STEPS, trajectory=True)
    seconds = time.perf_counter() - started
    return Section(
        title="Drawing from words",
        introduction=(
            "A U-Net learned to take noise out of pictures, with a vector that says in words what is in them. To draw, "
            f"it begins with nothing but noise and takes some away, again and again. Here a small one learns {FEW} "
            f"drawings of emoji at {config.image_size} x {config.image_size} pixels, which shows how it is done. "
            f"{SHIPPED}, which comes with the package, was trained longer, on every emoji, and draws the last pictures."
        ),
        table_title=MEASURED,
        table=Table(("what", "result", "how"), _rows(task, result, drawings, better, seconds)),
        pictures=_pictures(task, splits, drawings, better),
        commands_title=REPEAT,
        commands=[
            "opsin train diffusion --recipe emoji-small --train-on all "
            f"--max-train {FEW} --batch-size {FEW} --out runs/few",
            f'opsin generate "{task.watched[0]}" --model runs/few -n {EACH} --steps {STEPS} --out few.png',
            f'opsin generate "{PROMPTS[0]}" --guidance {GUIDANCE:g} --steps {STEPS} --filmstrip',
        ],
        limits=(
            f"The short training knows its {FEW} drawings, in part, and nothing else. {JUDGE} looks for the prompts in "
            "the drawings, and the network learned from its vectors of prompts: the two may agree where a person sees "
            "something else."
        ),
    )


def _pictures(
    task: _WatchedTask, splits: DiffusionSplits, drawings: Sequence[Generation], better: Sequence[Generation]
) -> list[Picture]:
    return [
        Picture(
            _stages_figure(task, splits),
            "Some of the prompts of the short training as it goes on, drawn from the same noise each time, and at the "
            "right a drawing that it learned from.",
        ),
        Picture(
            generations_figure(drawings),
            f"{EACH} drawings of each of these prompts after the training, guidance {GUIDANCE:g}, {STEPS} steps; none "
            "are left out.",
        ),
        Picture(
            generations_figure(better),
            f"{EACH} drawings of each of these prompts by {SHIPPED}, guidance {GUIDANCE:g}, {STEPS} steps; none are "
            "left out.",
        ),
        Picture(
            filmstrip_figure([_first(generation) for generation in better[:3]]),
            "From noise to picture: the first drawing of three prompts after some of its steps.",
        ),
    ]


def _rows(
    task: DiffusionTask,
    result: TrainingResult,
    drawings: Sequence[Generation],
    better: Sequence[Generation],
    seconds: float,
) -> list[tuple[str, str, str]]:
    names, first_name = _emoji_names()
    encoder = load_image_text(JUDGE, precision="32")  # as `opsin evaluate` does
    rows = []
    for maker, judged in (("after the short training", drawings), (f"by {SHIPPED}", better)):
        known = [own for own in judged if own.prompt in first_name]
        asked = np.array([names.index(first_name[own.prompt]) for own in known for _ in own.images])
        features = encoder.encode_image(image for own in known for image in own.images)
        ranks = prompt_ranks(features.numpy(), encoder.encode_text(names).numpy(), asked)
        how = f"by {JUDGE}, among {len(names)} names of emoji; the drawings below"
        rows.append((f"prompt is the name nearest to a drawing, {maker}", f"{(ranks <= 1).sum()} of {len(ranks)}", how))
        rows.append((f"prompt is among the five nearest, {maker}", f"{(ranks <= 5).sum()} of {len(ranks)}", how))
    count = sum(len(own.images) for own in better)
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    return [
        *rows,
        ("time to draw", f"{seconds:.1f} seconds for {count}", f"{SHIPPED}, {STEPS} steps, guidance {GUIDANCE:g}"),
        ("short training", f"{result.seconds / 60:.1f} minutes", f"{result.steps} steps, {FEW} drawings"),
        ("its network", f"{parameters / 1e6:.2f} M parameters", f"patches of {task.config.model.patch_size} pixels"),
    ]


def _emoji_names() -> tuple[list[str], dict[str, str]]:
    """The first names of all emoji, and the first name that stands for each name, a first name for itself."""
    source = open_source("emoji")
    assert source.captions is not None
    names = list(dict.fromkeys(own[0] for own in source.captions))
    others = {name: own[0] for own in source.captions for name in own}
    return names, others | {name: name for name in names}


def _stages_figure(task: _WatchedTask, splits: DiffusionSplits) -> Figure:
    """A row for each watched prompt: its drawings through training, and one that was learned from."""
    learned = [_learned(splits, splits.texts.index(text)) for text in task.watched]
    rows = [
        (text, [*(images[place] for images in task.stages.values()), learned[place]])
        for place, text in enumerate(task.watched)
    ]
    return rows_figure(rows, [*(f"step {step}" for step in task.stages), "learned from"])


def _learned(splits: DiffusionSplits, text: int) -> Image.Image:
    """The first training image of a text."""
    row = next(row for row, texts in enumerate(splits.train.texts_of) if text in texts)
    pixels = splits.train.__getitems__([row])["image"][0]
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _first(generation: Generation) -> Generation:
    return Generation(generation.prompt, generation.images[:1], generation.trajectory[:1])
