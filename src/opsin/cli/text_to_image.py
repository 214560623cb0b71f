"""The part of `opsin evaluate` that judges text-to-image models."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opsin.cli.baselines import baseline_rows, note_next
from opsin.cli.options import UsageError
from opsin.cli.output import note, print_json, print_skipped, print_table

if TYPE_CHECKING:
    from opsin.cli.evaluate_options import EvaluateOptions
    from opsin.diffusion.drawings import Sampling
    from opsin.diffusion.evaluation import DrawingJudge, Evaluation
    from opsin.diffusion.exam import Exam
    from opsin.diffusion.inference import TextToImage

DEFAULT_JUDGE = "emoji-clip"
ValueT = TypeVar("ValueT")


def evaluate_drawings(options: EvaluateOptions) -> int:
    """Judge a model of `opsin train diffusion`; returns the exit code."""
    from opsin.diffusion.evaluation import DrawingJudge, evaluate_drawing
    from opsin.diffusion.inference import TextToImage
    from opsin.encoders.loading import load_image_text

    model = TextToImage.from_pretrained(
        options.run, device=options.device, precision=options.precision, text_encoder=options.text_encoder
    )
    samplings = _samplings(options, model)
    # In full precision the judge's word is the same on every machine.
    encoder = load_image_text(options.judge or DEFAULT_JUDGE, options.device, "32")
    exam = _exam(options, model, encoder)
    judge = DrawingJudge(exam, encoder, progress=options.progress)
    latest = None
    try:
        for latest in evaluate_drawing(judge, model, samplings, options.report):  # noqa: B007
            pass
    except KeyboardInterrupt:
        if latest is not None and latest.cells:
            _print(options, latest, exam, model)
        raise
    assert latest is not None
    _print(options, latest, exam, model)
    if options.report is not None:
        note(f"report: {options.report}", quiet=options.quiet)
    if options.picture is not None:  # after the scores: a picture that cannot be written does not cost them
        _draw(options.picture, latest, judge, model, samplings[0], options.quiet)
    command = f'opsin generate "PROMPT" --model {shlex.quote(options.run)} --out grid.png'
    note_next(command, latest.baselines, quiet=options.quiet)
    return 0


def _samplings(options: EvaluateOptions, model: TextToImage) -> list[Sampling]:
    """Every sampler with every number of steps and every guidance scale, the first of each first."""
    from opsin.diffusion.drawings import Sampling
    from opsin.diffusion.samplers import SAMPLERS, spaced_timesteps

    most = model.content.process.timesteps
    scales = _values(options.guidances, float, "guidances", [Sampling().guidance_scale])
    steps = _values(options.steps, int, "steps", [Sampling().steps_of(most)])
    names = _values(options.samplers, str, "samplers", [str(Sampling().sampler)])
    if unknown := [name for name in names if name not in SAMPLERS]:
        raise UsageError(f"--samplers takes {', '.join(SAMPLERS)}, not {unknown[0]!r}")
    for count in steps:
        spaced_timesteps(most, count)  # refuses now what would stop the drawing later
    return [
        Sampling(guidance_scale=scale, steps=count, sampler=name)  # type: ignore[arg-type]
        for scale in scales
        for count in steps
        for name in names
    ]


def _values(text: str | None, kind: Callable[[str], ValueT], option: str, default: list[ValueT]) -> list[ValueT]:
    """What is between the commas, each value once."""
    if text is None:
        return default
    try:
        return list(dict.fromkeys(kind(part.strip()) for part in text.split(",")))
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{option} takes {numbers} with commas between them, not {text!r}") from error


def _exam(options: EvaluateOptions, model: TextToImage, encoder: Any) -> Exam:
    from opsin.diffusion.exam import open_exam

    given = {"num_prompts": options.prompts, "num_samples": options.samples, "seed": options.seed}
    return open_exam(
        model.run,
        encoder,
        model.image_size,
        data=options.data,
        split=options.split,
        exclude=options.exclude,
        progress=options.progress,
        **{name: value for name, value in given.items() if value is not None},
    )


def _print(options: EvaluateOptions, evaluation: Evaluation, exam: Exam, model: TextToImage) -> None:
    is_own_encoder = evaluation.judge == model.text_encoder
    if options.json:
        skipped = [{"id": row.id, "reason": row.reason} for row in exam.skipped]
        print_json(
            {
                **evaluation.to_document(),
                "data": exam.data,
                "judge_is_text_encoder": is_own_encoder,
                "prompts": exam.prompts,
                "skipped": skipped,
            }
        )
    else:
        _print_tables(evaluation, exam, is_own_encoder)


def _print_tables(evaluation: Evaluation, exam: Exam, is_own_encoder: bool) -> None:
    from opsin.diffusion.exam import SPOKEN

    print_table(
        ("images", "guidance", "steps", "sampler", "prompts", "number", "top-1", "top-5", "± top-5"),
        [
            (*way, SPOKEN[part], scores.images, scores.top1, scores.top5, scores.top5_error)
            for way, part, scores in _lines(evaluation)
        ],
        title=f"prompt fidelity: {evaluation.protocol}; nearest of {evaluation.num_names} names by {evaluation.judge}",
    )
    for name, value in baseline_rows(evaluation.baselines):
        print(f"{name}: {value:.4g}")
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
        for way, part, scores in _lines(evaluation)
    ]
    between = ("same prompt", "other prompts", "Fréchet", "n")
    to_training = ("copies by features", "by pixels", "by both", "nearest cosine", "nearest RMS")
    title = (
        f"distances of {evaluation.judge} features between drawings, and to training images; Fréchet is the Fréchet "
        f"distance of {evaluation.judge} features to all real images of these prompts' part"
    )
    print_table(("images", "guidance", "steps", "sampler", "prompts", *between, *to_training), rows, title=title)
    print(
        "A copy is nearer to a training image than any other training image is to that one. Real images of training\n"
        "prompts are training images: they show what copies would get. Those of held-out prompts are none: they show\n"
        "how often something new counts as a copy."
    )
    if is_own_encoder:
        print(f"The judge, {evaluation.judge}, is also what gives the model its prompts: another one may be stricter.")
    print_skipped(exam.skipped)


def _lines(evaluation: Evaluation) -> list[tuple[tuple[Any, ...], str, Any]]:
    """What was judged, for which part of the prompts, and its scores: the real images, then the drawings."""
    real = [(("real", None, None, None), part, scores) for part, scores in evaluation.real.items()]
    drawn = [
        (("drawn", cell.guidance_scale, cell.steps, cell.sampler), part, scores)
        for cell in evaluation.cells
        for part, scores in cell.scores.items()
    ]
    return [*real, *drawn]


def _draw(
    path: Path, evaluation: Evaluation, judge: DrawingJudge, model: TextToImage, sampling: Sampling, quiet: bool
) -> None:
    """Fidelity by steps, and the drawings that are nearest to training images."""
    from opsin.diffusion.pictures import close_calls_figure, fidelity_figure
    from opsin.pictures import save_figure

    save_figure(fidelity_figure(evaluation), path)
    note(f"fidelity: {path}", quiet=quiet)
    if judge.exam.training is None:
        return
    drawings = evaluation.drawings or judge.measure(model, sampling).drawings
    nearest = path.with_name(f"{path.stem}-nearest.png")
    save_figure(close_calls_figure(drawings), nearest)
    note(f"drawings beside their nearest training images: {nearest}", quiet=quiet)
