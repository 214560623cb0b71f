"""`opsin evaluate RUN`: score a trained model, with the protocol beside the score."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opsin.cli.evaluate_options import (
    KINDS,
    CaptionerOptions,
    ClassifierOptions,
    EncoderOptions,
    EvaluateOptions,
    ImageTextOptions,
    ProtocolOptions,
    TextToImageOptions,
    ZeroShotOptions,
)
from opsin.cli.help import options_of
from opsin.cli.options import UsageError, go_offline, parse
from opsin.cli.output import note, note_next, note_unlike, show, warn
from opsin.cli.usage import asks_for_help
from opsin.systems import load, system_of_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsin.diffusion.drawings import Sampling
    from opsin.diffusion.inference import TextToImage
    from opsin.probing.evaluation import ProbeProtocol
    from opsin.results import Result

DESCRIPTION = "Score a trained model on a data source. 'opsin evaluate RUN --help' shows the options of its kind."
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Evaluated:
    """A result, and what is said and drawn besides."""

    result: Result
    model: object
    """Which saw the images; it knows how many look unlike its training images."""
    photographs: str | None = None
    """What there is for photographs, where the model is one of emoji."""
    remarks: Sequence[str] = ()
    next_command: str | None = None
    figures: Sequence[tuple[str, Path, Callable[[], Figure | None]]] = ()
    """Besides the one of the result: what it is, and where it goes."""


def main(argv: list[str]) -> int:
    """Run `opsin evaluate`; returns the exit code."""
    go_offline(argv)
    options_class, evaluate = _find(argv)
    if not asks_for_help(argv):
        _refuse_others(argv, options_class)
    options = parse(options_class, argv, "opsin evaluate", DESCRIPTION)
    picture = getattr(options, "picture", None)
    for name, path in (("picture", picture), ("mistakes", getattr(options, "mistakes", None))):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"--{name} writes PNG; give it a name that ends in .png, not {path.name!r}")
    evaluated = evaluate(options)
    result = evaluated.result
    show(result, options.json)
    note_unlike(evaluated.model, options.run, evaluated.photographs, options.quiet)
    warn(result.warnings)
    own = [] if picture is None else [("picture", picture, result.figure)]
    for what, path, figure in (*own, *evaluated.figures):  # after the scores, which a full disk then does not cost
        _draw(what, path, figure(), options.quiet)
    for remark in evaluated.remarks:
        note(remark, options.quiet)
    note_next(evaluated.next_command, result.baselines, quiet=options.quiet)
    return 0


def _find(argv: Sequence[str]) -> tuple[type[EvaluateOptions], Callable[[Any], Evaluated]]:
    """The options of the kind of model that is named, and the function that evaluates it."""
    from opsin.checkpoint import read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder

    given = {argument.partition("=")[0] for argument in argv}
    if "--zero-shot" in given:
        return ZeroShotOptions, evaluate_labels
    if "--protocol" in given:
        return ProtocolOptions, evaluate_features
    run = _model_named(argv)
    if run is None:  # the parser says so, or only help is wanted
        return EvaluateOptions, evaluate_features
    if is_pretrained_encoder(run):
        return (ProtocolOptions, evaluate_features) if asks_for_help(argv) else (EncoderOptions, _ask_how)
    system = system_of_kind(str(read_model_config(resolve_model(run))["kind"]), run)
    return load(system.evaluate_options), load(system.evaluate)


def _ask_how(options: EncoderOptions) -> Evaluated:
    raise UsageError(
        f"{options.run} is an encoder; give --protocol knn to evaluate its features, or --zero-shot to evaluate its "
        "labels"
    )


def _model_named(argv: Sequence[str]) -> str | None:
    """The argument that is neither an option nor the value of one."""
    switches = {flag for kind in KINDS for option in options_of(kind) if option.is_switch for flag in option.flags}
    is_value = False
    for argument in argv[: argv.index("--")] if "--" in argv else argv:
        if is_value:
            is_value = False
        elif argument.startswith("-") and argument != "-":
            is_value = "=" not in argument and argument.replace("_", "-") not in switches
        else:
            return argument
    return None


def _refuse_others(argv: Sequence[str], options_class: type[EvaluateOptions]) -> None:
    """Raise UsageError for an option that another kind of model has."""
    own = {flag for option in options_of(options_class) for flag in option.flags}
    for argument in argv:
        flag = argument.partition("=")[0].replace("_", "-")
        for kind in KINDS:
            if flag not in own and any(flag in option.flags for option in options_of(kind)):
                raise UsageError(f"{flag} is for {kind.OF}, and {_model_named(argv)} {options_class.ASKED}")


def _draw(what: str, path: Path, figure: Figure | None, quiet: bool) -> None:
    from opsin.pictures import save_figure

    if figure is None:
        note(f"{what}: there is nothing to show, and {path} is not written", quiet=quiet)
        return
    save_figure(figure, path)
    note(f"{what}: {path}", quiet=quiet)


def evaluate_classifier(options: ClassifierOptions) -> Evaluated:
    """Evaluate a classifier on labelled images."""
    from opsin.classification import evaluation as scores
    from opsin.classification.inference import Classifier

    classifier = Classifier.from_pretrained(options.run, device=options.device, precision=options.precision)
    result = scores.evaluate_classifier(
        classifier, options.data, options.split, exclude=options.exclude, near_duplicates=options.near_duplicates
    )
    return Evaluated(
        result,
        classifier,
        photographs="opsin classify without --model",
        next_command=f"opsin classify IMAGES --model {shlex.quote(options.run)}",
        figures=[("most confident mistakes", options.mistakes, result.mistakes_figure)] if options.mistakes else (),
    )


def evaluate_captioner(options: CaptionerOptions) -> Evaluated:
    """Evaluate a captioner on images with captions."""
    from opsin.captioning.evaluation import evaluate_all
    from opsin.captioning.inference import Captioner
    from opsin.captioning.results import CaptioningResult

    captioner = Captioner.from_pretrained(options.run, device=options.device, precision=options.precision)
    for name, is_given in (("picture", options.picture is not None), ("near-duplicates", options.near_duplicates)):
        if is_given and not captioner.takes_images:
            raise UsageError(f"--{name} needs images, and {options.run} was trained on features")
    evaluations = evaluate_all(
        captioner,
        options.data,
        options.split,
        beams=options.beams,
        exclude=options.exclude,
        near_duplicates=options.near_duplicates,
    )
    return Evaluated(
        CaptioningResult(evaluations, options.worst),
        captioner,
        photographs="opsin train captioner --frozen-encoder imagenet",
        next_command=f"opsin caption IMAGES --model {shlex.quote(options.run)}" if captioner.takes_images else None,
    )


def evaluate_clip(options: ImageTextOptions) -> Evaluated:
    """Evaluate a model of images and texts by retrieval."""
    from opsin.clip.evaluation import evaluate_retrieval
    from opsin.clip.inference import ClipEncoder

    encoder = ClipEncoder.from_pretrained(options.run, options.device, options.precision)
    result = evaluate_retrieval(
        encoder,
        encoder.run,
        options.data,
        options.split,
        exclude=options.exclude,
        near_duplicates=options.near_duplicates,
    )
    labels = '--labels "one thing,another thing"'
    command = f"opsin classify IMAGES {labels} --model {shlex.quote(options.run)}"
    return Evaluated(result, encoder, photographs="photo-clip", next_command=command)


def evaluate_labels(options: ZeroShotOptions) -> Evaluated:
    """Evaluate a model of images and texts by the names of classes."""
    from opsin.cli.zero_shot import refuse_templates
    from opsin.clip.zero_shot import DEFAULT_TEMPLATES, is_fitted
    from opsin.clip.zero_shot_evaluation import evaluate_zero_shot
    from opsin.encoders.loading import load_image_text

    if options.data is None:
        raise UsageError("--zero-shot needs labelled images; name their source with --data")
    refuse_templates(options.template)
    encoder = load_image_text(options.run, options.device, options.precision)
    templates = options.template or DEFAULT_TEMPLATES
    result = evaluate_zero_shot(
        encoder, options.data, options.split, templates=templates, exclude=options.exclude, progress=options.progress
    )
    scale, remarks = "", ["these images do not decide a logit scale: they are all right, or no better than chance"]
    if is_fitted(result.fitted_logit_scale):
        scale, remarks = f" --logit-scale {result.fitted_logit_scale:.4g}", []
    return Evaluated(
        result,
        encoder,
        photographs="opsin evaluate photo-clip --zero-shot",
        remarks=remarks,
        next_command=f"opsin classify IMAGES --labels LABELS --model {shlex.quote(options.run)}{scale}",
    )


def evaluate_features(options: ProtocolOptions) -> Evaluated:
    """Evaluate the features of an encoder by labels; by nearest neighbors without `--protocol`."""
    protocol = _protocol(options)
    from opsin.encoders import load as load_encoder
    from opsin.probing.evaluation import evaluate_encoder

    encoder = load_encoder(options.run, options.device, options.precision)
    result = evaluate_encoder(
        encoder,
        protocol,
        options.data,
        options.split,
        near_duplicates=options.near_duplicates,
        progress=options.progress,
    )
    remarks = []
    if result.other is not None:
        data = f" --data {shlex.quote(options.data)}" if options.data else ""
        data += f" --train-data {shlex.quote(options.train_data)}" if options.train_data else ""
        remarks.append(f"next: opsin evaluate {shlex.quote(options.run)}{data} --protocol {result.other.name}")
    return Evaluated(result, encoder, photographs="opsin evaluate imagenet", remarks=remarks)


def _protocol(options: ProtocolOptions) -> ProbeProtocol:
    name = options.protocol or "knn"
    if name != "knn" and (options.k is not None or options.temperature is not None):
        raise UsageError(f"-k and --temperature are for --protocol knn, not for {name}")
    from opsin.probing.evaluation import Knn, Linear
    from opsin.simclr.protocols import Finetune, LinearCourse

    kinds: dict[str, type[ProbeProtocol]] = {kind.name: kind for kind in (Knn, Linear, LinearCourse, Finetune)}
    names = ("labels_fraction", "k", "temperature", "train_data")
    given = {name: getattr(options, name) for name in names}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return kinds[name](seed=options.seed or 0, exclude=options.exclude, **settings)


def evaluate_text_to_image(options: TextToImageOptions) -> Evaluated:
    """Evaluate the images that a model makes of prompts."""
    from opsin.diffusion.inference import TextToImage
    from opsin.diffusion.results import evaluate_samples
    from opsin.encoders.loading import load_image_text

    model = TextToImage.from_pretrained(
        options.run, device=options.device, precision=options.precision, text_encoder=options.text_encoder
    )
    samplings = _samplings(options, model)
    asked = {"num_prompts": options.prompts, "num_samples": options.samples, "seed": options.seed}
    result = None
    try:
        for result in evaluate_samples(  # noqa: B007
            model,
            load_image_text(options.judge, options.device, "32"),  # in full precision it is the same on every machine
            samplings,
            data=options.data,
            split=options.split,
            exclude=options.exclude,
            report=options.report,
            progress=options.progress,
            **{name: value for name, value in asked.items() if value is not None},
        ):
            pass
    except KeyboardInterrupt:
        if result is not None and result.evaluation.cells:
            show(result, options.json)
        raise
    assert result is not None
    figures = []
    if options.picture is not None and result.exam.training is not None:
        nearest = options.picture.with_name(f"{options.picture.stem}-nearest.png")
        figures.append(("samples beside their nearest training images", nearest, result.nearest_figure))
    return Evaluated(
        result,
        None,
        remarks=[] if options.report is None else [f"report: {options.report}"],
        next_command=f'opsin generate "PROMPT" --model {shlex.quote(options.run)} --out grid.png',
        figures=figures,
    )


def _samplings(options: TextToImageOptions, model: TextToImage) -> list[Sampling]:
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
        spaced_timesteps(most, count)  # refuses now what would stop the sampling later
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
