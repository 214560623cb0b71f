"""Judging a text-to-image model: does a model of images and texts find the prompt in what was drawn, do drawings of a
prompt differ, are they distributed as real images are, and are they copies of training images.

The real images of the same prompts go through the same measures: no drawing can be expected to do better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opsin.config import differences, from_dict, load_json, to_dict
from opsin.diffusion.drawings import DrawingModel, Sampling
from opsin.diffusion.exam import SPOKEN, Exam, Part, Pictures, encode
from opsin.diffusion.metrics import (
    Neighbours,
    feature_diversity,
    find_neighbours,
    frechet_distance,
    prompt_fidelity,
    prompt_ranks,
)
from opsin.encoders.base import ImageTextEncoder
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import ConfigError, DataError
from opsin.files import write_json
from opsin.progress import Progress, working
from opsin.runtime import make_generator
from opsin.training.baselines import BaselineComparison, compare_share

IMAGES_AT_A_TIME = 64
ADVICE = "train longer (--max-minutes) or on more captioned images"


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """Scores of images of `prompts` prompts; `opsin.diffusion.metrics` says what each of them measures.

    `copies_…` is the share of images that are copies by features, by pixels, and by both, `nearest_…` the mean distance
    to the nearest training image: the cosine distance of features, the root mean square difference of pixels in [0, 1].
    They are None where the training images are not known, or are only one. Also a new image may count as a copy: how
    many do is what the real held-out images are there for. `frechet_distance` is to the `reference_images` real images
    of the part.
    """

    prompts: int
    images: int
    top1: float | None
    top5: float | None
    top1_error: float | None
    top5_error: float | None
    same_prompt: float | None
    different_prompts: float | None
    frechet_distance: float | None
    reference_images: int
    copies_by_features: float | None
    copies_by_pixels: float | None
    copies_by_both: float | None
    nearest_cosine: float | None
    nearest_rms: float | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The scores of drawings that were made in one way, for each part of the prompts."""

    guidance_scale: float
    steps: int
    sampler: str
    spacing: str = Sampling.spacing
    threshold: str = Sampling.threshold
    scores: dict[str, PartScores]

    def is_of(self, sampling: Sampling) -> bool:
        """Whether the drawings were made in this way."""
        return all(getattr(self, name) == value for name, value in vars(sampling).items())


@dataclass(frozen=True)
class CloseCall:
    """A drawing with its nearest training images by features and by pixels, uint8 (S, S, 3).

    `nearness` is the larger one of its distances to these two, each in units of that training image's distance to its
    own nearest other one: below 1 the drawing counts as a copy by both.
    """

    prompt: str
    drawing: np.ndarray
    by_features: np.ndarray
    by_pixels: np.ndarray
    nearness: float


@dataclass(frozen=True)
class Measurement:
    """A cell with its drawings, the one that is nearest to a training image first; without any where these are not
    known."""

    cell: Cell
    drawings: tuple[CloseCall, ...]


@dataclass(frozen=True)
class Evaluation:
    """The scores of real images, and of the drawings that were measured so far.

    `drawings` are those of the first way of drawing that was measured and not read from a report.
    """

    protocol: str
    judge: str
    num_names: int
    real: dict[str, PartScores]
    cells: tuple[Cell, ...]
    drawings: tuple[CloseCall, ...] = ()

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """The top-5 of each part beside chance, by the first way of sampling: the best of several would be above chance
        by luck. None of parts whose names are too few for one. Prompts count, for samples of one prompt are alike."""
        comparisons = []
        for name in dict.fromkeys(name for cell in self.cells for name in cell.scores):
            first = next(cell.scores[name] for cell in self.cells if name in cell.scores)
            if first.top5 is not None:
                metric, chance = f"top-5 of {SPOKEN[name]} prompts", 5 / self.num_names
                comparisons.append(
                    compare_share(metric, first.top5, "chance", chance, first.prompts, ADVICE, "prompts")
                )
        return tuple(comparisons)

    def to_document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return {
            "protocol": self.protocol,
            "judge": self.judge,
            "names": self.num_names,
            "real": {name: to_dict(scores) for name, scores in self.real.items()},
            "cells": [to_dict(cell) for cell in self.cells],
            "baselines": [comparison.document() for comparison in self.baselines],
        }


class DrawingJudge:
    """Scores real images and drawings alike."""

    def __init__(self, exam: Exam, encoder: ImageTextEncoder, *, progress: Progress | None = None) -> None:
        """`encoder` must be the one that `exam` was opened with."""
        self.exam, self.encoder, self.progress = exam, encoder, progress
        self.real = {name: self._judged(part, part.real)[0] for name, part in exam.parts.items()}

    def measure(self, model: DrawingModel, sampling: Sampling) -> Measurement:
        """Draw the prompts in this way, from the same noise each time, and score the drawings.

        Raises ConfigError when it leaves the number of steps to the model: the scores have to name it.
        """
        if sampling.steps is None:
            raise ConfigError("drawings that are to be judged need a number of steps")
        scores: dict[str, PartScores] = {}
        drawings: list[CloseCall] = []
        for name, part in self.exam.parts.items():
            scores[name], close_calls = self._judged(part, self._draw(model, sampling, name, part))
            drawings += close_calls
        drawings.sort(key=lambda call: call.nearness)
        return Measurement(Cell(**vars(sampling), scores=scores), tuple(drawings))

    def _draw(self, model: DrawingModel, sampling: Sampling, name: str, part: Part) -> Pictures:
        exam = self.exam
        pixels: list[np.ndarray] = []
        features: list[np.ndarray] = []
        title = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance_scale:g}, {name}"
        at_once = max(1, IMAGES_AT_A_TIME // exam.num_samples)
        with working(self.progress, title, len(part.prompts) * exam.num_samples) as advance:
            for start in range(0, len(part.prompts), at_once):
                generations = model.generate(
                    [exam.names[number] for number in part.prompts[start : start + at_once]],
                    num_images=exam.num_samples,
                    sampling=sampling,
                    generator=make_generator(exam.seed, "evaluation", name, start),
                )
                images = [image for generation in generations for image in generation.images]
                pixels += [np.asarray(image).transpose(2, 0, 1) for image in images]
                features.append(encode(self.encoder, images))
                advance(len(images))
        return Pictures(np.stack(pixels), np.concatenate(features), part.prompts.repeat(exam.num_samples))

    def _judged(self, part: Part, pictures: Pictures) -> tuple[PartScores, list[CloseCall]]:
        """The scores of images, and the images beside the training images, where these are known."""
        known, asked = self.exam.training, pictures.names
        by_features: Neighbours | None = None
        by_pixels: Neighbours | None = None
        if known is not None:
            by_features = find_neighbours(pictures.features, known.features)
            by_pixels = find_neighbours(*(part.pixels.reshape(len(part), -1) for part in (pictures, known)))
        fidelity = prompt_fidelity(
            prompt_ranks(pictures.features, self.exam.name_features, asked), asked, len(self.exam.names)
        )
        diversity = feature_diversity(pictures.features, asked)
        enough = min(len(pictures), len(part.reference)) > 1
        largest = 255 * float(np.sqrt(pictures.pixels[0].size))  # the distance from black to white
        scores = PartScores(
            prompts=len(part.prompts),
            images=len(pictures),
            **asdict(fidelity),
            **asdict(diversity),
            frechet_distance=frechet_distance(pictures.features, part.reference) if enough else None,
            reference_images=len(part.reference),
            copies_by_features=float(by_features.is_copy.mean()) if by_features else None,
            copies_by_pixels=float(by_pixels.is_copy.mean()) if by_pixels else None,
            copies_by_both=float((by_features.is_copy & by_pixels.is_copy).mean())
            if by_features and by_pixels
            else None,
            # Of vectors of length one the cosine distance is half the square of the Euclidean one.
            nearest_cosine=float(np.square(by_features.distances).mean() / 2) if by_features else None,
            nearest_rms=float(by_pixels.distances.mean() / largest) if by_pixels else None,
        )
        if known is None or by_features is None or by_pixels is None:
            return scores, []
        images = (pictures.pixels, known.pixels[by_features.rows], known.pixels[by_pixels.rows])
        columns = [self.exam.names[number] for number in asked], *(rows.transpose(0, 2, 3, 1) for rows in images)
        nearness = np.maximum(by_features.nearness, by_pixels.nearness).tolist()
        return scores, [CloseCall(*row) for row in zip(*columns, nearness, strict=True)]


def evaluate_drawing(
    judge: DrawingJudge, model: DrawingModel, samplings: Sequence[Sampling], report: Path | None = None
) -> Iterator[Evaluation]:
    """What is known so far: at first the real images alone, then with one more way of drawing each time.

    All of it is written to `report` (JSON) each time. What that file already has of the same model, judge, prompts and
    images is not measured again. Raises DataError when it holds anything else, which would be lost.
    """
    exam = judge.exam
    subject = {
        "model": fingerprint(model),
        "precision": model.precision,
        "judge": fingerprint(judge.encoder),
        "protocol": exam.protocol,
        "images": exam.digest,
    }
    before = _read_cells(report, subject) if report is not None and report.exists() else []
    result = Evaluation(exam.protocol, judge.encoder.name, len(exam.names), judge.real, ())
    for sampling in (None, *samplings):
        if sampling is not None:
            cell = next((cell for cell in before if cell.is_of(sampling)), None)
            if cell is None:
                measured = judge.measure(model, sampling)
                cell = measured.cell
                result = replace(result, drawings=result.drawings or measured.drawings)
            result = replace(result, cells=(*result.cells, cell))
        if report is not None:
            _write_report(report, subject, result, before)
        yield result


def _write_report(report: Path, subject: dict[str, str], result: Evaluation, before: list[Cell]) -> None:
    """The result, and what was there before."""
    others = tuple(known for known in before if known not in result.cells)
    write_json(report, {"subject": subject, **replace(result, cells=(*result.cells, *others)).to_document()})


def _read_cells(report: Path, subject: dict[str, str]) -> list[Cell]:
    """The cells of an earlier report about the same."""
    try:
        content = load_json(report)
        cells = [from_dict(Cell, cell, where=str(report)) for cell in content["cells"]]
        # Reports without a precision are from before it was written down.
        known = {"precision": subject["precision"], **content["subject"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{report} is there and is no report of this kind; give the report another name") from error
    if changed := differences(known, subject):
        raise DataError(
            f"{report} is about something else ({', '.join(changed)} changed since); give the report another name"
        )
    return cells
