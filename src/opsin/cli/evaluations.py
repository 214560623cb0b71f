"""How each kind of model is evaluated by `opsin evaluate`, and what is said and drawn besides."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from opsin.cli.evaluate import (
    CaptionerOptions,
    ClassifierOptions,
    Evaluated,
    ImageTextOptions,
    ProtocolOptions,
    TextToImageOptions,
    ZeroShotOptions,
)
from opsin.cli.options import UsageError
from opsin.cli.output import show

if TYPE_CHECKING:
    from opsin.probing.evaluation import ProbeProtocol

ValueT = TypeVar("ValueT")


def evaluate_classifier(options: ClassifierOptions) -> Evaluated:
    """Evaluate a classifier on labelled images."""
    from opsin.classification import evaluation as scores
    from opsin.classification.inference import Classifier

    classifier = Classifier.from_pretrained(options.run, device=options.device, precision=options.precision)
    result = scores.evaluate_classifier(
        classifier,
        options.data,
        options.split,
        exclude=options.exclude,
        near_duplicates=options.near_duplicates,
        progress=options.progress,
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
        progress=options.progress,
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
    from opsin.cli.classify import refuse_templates
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

    asked = _asked(options)
    model = TextToImage.from_pretrained(
        options.run, device=options.device, precision=options.precision, text_encoder=options.text_encoder
    )
    result = None
    try:
        for result in evaluate_samples(  # noqa: B007
            model,
            load_image_text(options.judge, options.device, "32"),  # in full precision it is the same on every machine
            data=options.data,
            split=options.split,
            exclude=options.exclude,
            report=options.report,
            progress=options.progress,
            **asked,
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


def _asked(options: TextToImageOptions) -> dict[str, Any]:
    """The ways of sampling, and how much is sampled, where it is said."""
    from opsin.diffusion.samplers import SAMPLERS

    samplers = _values(options.samplers, str, "samplers")
    ways = {
        "guidance_scales": _values(options.guidances, float, "guidances"),
        "steps": _values(options.steps, int, "steps"),
        "samplers": samplers,
    }
    if unknown := [name for name in samplers if name not in SAMPLERS]:
        raise UsageError(f"--samplers takes {', '.join(SAMPLERS)}, not {unknown[0]!r}")
    sizes = {"num_prompts": options.prompts, "num_samples": options.samples, "seed": options.seed}
    return {**ways, **{name: value for name, value in sizes.items() if value is not None}}


def _values(text: str | None, kind: Callable[[str], ValueT], option: str) -> list[ValueT]:
    """What is between the commas, each value once."""
    if text is None:
        return []
    try:
        return list(dict.fromkeys(kind(part.strip()) for part in text.split(",")))
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{option} takes {numbers} with commas between them, not {text!r}") from error
