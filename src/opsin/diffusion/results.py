"""What `opsin evaluate` shows of a text-to-image model: how well its samples fit their prompts, and are they copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsin.diffusion.drawings import Sampling
from opsin.diffusion.evaluation import DrawingJudge, Evaluation, PartScores, evaluate_drawing
from opsin.diffusion.exam import SPOKEN, Exam, open_exam
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.samplers import SamplerName, spaced_timesteps
from opsin.encoders.base import ImageTextEncoder
from opsin.images.opening import Skipped
from opsin.progress import Progress
from opsin.results import Table, baseline_rows, skipped_document
from opsin.training.baselines import BaselineComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPIES = (
    "A copy is nearer to a training image than any other training image is to that one. Real images of training\n"
    "prompts are training images: they show what copies would get. Those of held-out prompts are none: they show\n"
    "how often something new counts as a copy."
)
WAY = ("images", "guidance", "steps", "sampler", "prompts")
"""Columns that say what a row of a table is about."""


@dataclass(frozen=True)
class SamplingResult:
    """What was measured of the samples of `model` so far; `sampling` is the first way of sampling."""

    evaluation: Evaluation
    judge: DrawingJudge
    model: TextToImage
    sampling: Sampling

    @property
    def exam(self) -> Exam:
        """What was asked for."""
        return self.judge.exam

    @property
    def is_own_judge(self) -> bool:
        """Whether the model that judged the samples also gives the text-to-image model its prompts."""
        return self.evaluation.judge == self.model.text_encoder

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out."""
        return self.exam.skipped

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """Fidelity beside chance."""
        return self.evaluation.baselines

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return {
            **self.evaluation.to_document(),
            "data": self.exam.data,
            "judge_is_text_encoder": self.is_own_judge,
            "prompts": self.exam.prompts,
            "skipped": skipped_document(self.exam.skipped),
        }

    def tables(self) -> list[Table]:
        """Fidelity to the prompts; and distances between samples and to training images."""
        return [self._fidelity(), self._distances()]

    def figure(self) -> Figure:
        """Fidelity by the number of steps."""
        from opsin.diffusion.pictures import fidelity_figure

        return fidelity_figure(self.evaluation)

    def nearest_figure(self) -> Figure | None:
        """The samples that are nearest to training images; None where these are not known."""
        from opsin.diffusion.pictures import close_calls_figure

        if self.exam.training is None:
            return None
        return close_calls_figure(self.evaluation.drawings or self.judge.measure(self.model, self.sampling).drawings)

    def _fidelity(self) -> Table:
        evaluation = self.evaluation
        rows = [
            (*way, SPOKEN[part], scores.images, scores.top1, scores.top5, scores.top5_error)
            for way, part, scores in self._lines()
        ]
        asked = f"{evaluation.protocol}; nearest of {evaluation.num_names} names by {evaluation.judge}"
        baselines = "\n".join(f"{name}: {value:.4g}" for name, value in baseline_rows(self.baselines))
        header = (*WAY, "number", "top-1", "top-5", "± top-5")
        return Table(header, rows, f"prompt fidelity: {asked}", baselines or None)

    def _distances(self) -> Table:
        judge = self.evaluation.judge
        rows = [
            (
                *way,
                SPOKEN[part],
                scores.same_prompt,
                scores.different_prompts,
                scores.frechet_distance,
                f"{scores.images} : {scores.reference_images}",
                scores.copies_by_features,
                scores.copies_by_pixels,
                scores.copies_by_both,
                scores.nearest_cosine,
                scores.nearest_rms,
            )
            for way, part, scores in self._lines()
        ]
        between = ("same prompt", "other prompts", "Fréchet", "n")
        to_training = ("copies by features", "by pixels", "by both", "nearest cosine", "nearest RMS")
        title = (
            f"distances of {judge} features between drawings, and to training images; Fréchet is the Fréchet distance "
            f"of {judge} features to all real images of these prompts' part"
        )
        same = f"\nThe judge, {judge}, is also what gives the model its prompts: another one may be stricter."
        return Table((*WAY, *between, *to_training), rows, title, COPIES + (same if self.is_own_judge else ""))

    def _lines(self) -> list[tuple[tuple[Any, ...], str, PartScores]]:
        """What was evaluated, for which part of the prompts, and its scores: the real images, then the samples."""
        real = [(("real", None, None, None), part, scores) for part, scores in self.evaluation.real.items()]
        drawn = [
            (("drawn", cell.guidance_scale, cell.steps, cell.sampler), part, scores)
            for cell in self.evaluation.cells
            for part, scores in cell.scores.items()
        ]
        return [*real, *drawn]


def evaluate_samples(
    model: TextToImage,
    judge: ImageTextEncoder,
    *,
    guidance_scales: Sequence[float] = (),
    steps: Sequence[int] = (),
    samplers: Sequence[SamplerName] = (),
    data: str | None = None,
    split: str | None = None,
    exclude: Sequence[str] = (),
    report: Path | None = None,
    progress: Progress | None = None,
    **asked: int,
) -> Iterator[SamplingResult]:
    """What is known so far: of the real images alone, then after each way of sampling: every sampler with every number
    of steps and every guidance scale, the first of each first.

    Args:
        model: The model whose samples are evaluated.
        judge: The model of images and texts that says what a sample shows.
        guidance_scales: See `Sampling`; by default its own, as for steps and samplers.
        steps: How many.
        samplers: By name.
        data: A data source of prompts and real images; by default the one that the model was trained on.
        split: Of the source.
        exclude: Patterns of images to leave out.
        report: A JSON file for the scores, which is gone on with where it is there.
        progress: Is told what is being done.
        asked: `num_prompts`, `num_samples` and `seed` of `opsin.diffusion.exam.open_exam`.

    Raises ConfigError for steps that the model does not have, and what `open_exam` and `evaluate_drawing` raise.
    """
    usual, most = Sampling(), model.content.process.timesteps
    samplings = [
        Sampling(guidance_scale=scale, steps=count, sampler=name)
        for scale in guidance_scales or [usual.guidance_scale]
        for count in steps or [usual.steps_of(most)]
        for name in samplers or [usual.sampler]
    ]
    for count in steps:
        spaced_timesteps(most, count)  # refuses now what would stop the sampling later
    exam = open_exam(
        model.run, judge, model.image_size, data=data, split=split, exclude=exclude, progress=progress, **asked
    )
    drawing_judge = DrawingJudge(exam, judge, progress=progress)
    for evaluation in evaluate_drawing(drawing_judge, model, samplings, report):
        yield SamplingResult(evaluation, drawing_judge, model, samplings[0])
