"""`opsin evaluate RUN`: score a trained model, with the protocol beside the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from opsin.cli import asks_for_help
from opsin.cli.help import options_of
from opsin.cli.options import Bounds, Flag, ModelOptions, UsageError, go_offline, parse
from opsin.cli.output import note, note_next, note_unlike, show, warn
from opsin.sources.exclusion import Patterns
from opsin.systems import SYSTEMS, load, system_of_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsin.results import Result

DESCRIPTION = "Score a trained model on a data source. 'opsin evaluate RUN --help' shows the options of its kind."
PngFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """Options for every kind of model."""

    FIRST = ("data", "split", "protocol", "zero_shot", "picture")
    OF: ClassVar[str] = "all models"
    """Whom the options are for that a class adds."""
    ASKED: ClassVar[str] = "is another kind of model"
    """What is said of a model that gets options of another class."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME."""
    data: Annotated[str | None, tyro.conf.arg(metavar="SRC")] = None
    """A data source; by default the one that the model was trained on."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times;
    those of the run count for its own source in any case."""
    split: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """train, val, test or all; by default test where there is one, else the images held out from training. Models that
    left one style of some emoji out of training also have other-style."""


@dataclass(frozen=True, kw_only=True)
class ImageModelOptions(EvaluateOptions):
    """Options for models that take images."""

    OF = "models that are evaluated on images"

    near_duplicates: Flag = False
    """Also look for images that look like training images in another size, format or quality. All of both are decoded
    for it; copies of training images are always looked for."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(ImageModelOptions):
    """Options for models whose vectors of images can be evaluated."""

    RENAMED = {"--protocol=linear-seed": "--protocol=linear-course"}
    OF = "encoders"
    ASKED = "is an encoder"

    protocol: Literal["knn", "linear", "linear-course", "finetune"] | None = None
    """Evaluate the features of an encoder on a labelled source, beside the same network untrained: by the vote of
    nearest neighbors (what a model of `opsin train simclr` is evaluated by without this option), by logistic
    regression, by the course's linear layer on augmented images, or by training all weights. knn and linear take any
    encoder, such as timm:NAME."""


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions(EncoderOptions):
    """Options for evaluating the features of an encoder."""

    OF = "encoders that are evaluated by --protocol"
    ASKED = "is evaluated by --protocol"

    train_data: Annotated[str | None, tyro.conf.arg(metavar="SRC")] = None
    """Fit on the labels of this source, and evaluate on --data: on its test or validation split where it has one, else
    on all of it (--split all)."""
    labels_fraction: Annotated[float | None, Bounds(above=0, most=1), tyro.conf.arg(metavar="SHARE")] = None
    """The share of the labels that are used, evenly from every class. By default 1 for knn, 0.1 for linear-course and
    finetune; for linear 0.1 where that leaves 10 images of most classes, else 1."""
    k: Annotated[int | None, Bounds(), tyro.conf.arg(aliases=["-k"], metavar="INT")] = None
    """For knn: how many neighbors vote, all where there are fewer. By default as many as the square root of the number
    of labelled images, 200 at most, and no more than the median class has images."""
    temperature: Annotated[float | None, Bounds(above=0), tyro.conf.arg(metavar="FLOAT")] = None
    """For knn: what cosines are divided by before they are exponentiated to weights; 0.5 by default."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Decides which labels are used, and what else is left to chance; 0 by default."""
    picture: PngFile = None
    """Also draw into this PNG file: nearest neighbors for knn, a map of the features for linear, curves for
    linear-course, the confusion matrix for finetune."""


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(EncoderOptions):
    """Options for classifiers."""

    OF = "classifiers"
    ASKED = "is a classifier"

    picture: PngFile = None
    """Also draw the confusion matrix into this PNG file."""
    mistakes: PngFile = None
    """Also draw into this PNG file the images that the classifier is surest of and wrong about."""


@dataclass(frozen=True, kw_only=True)
class CaptionerOptions(ImageModelOptions):
    """Options for captioners."""

    OF = "captioners"
    ASKED = "is a captioner"

    beams: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="INT")] = None
    """Captions that the search keeps for each image; by default as many as in the test of its run."""
    worst: Annotated[int, Bounds(), tyro.conf.arg(metavar="N")] = 5
    """How many of the images with the worst captions to list."""
    picture: PngFile = None
    """Also draw the images with the worst captions into this PNG file."""


@dataclass(frozen=True, kw_only=True)
class ImageTextOptions(EncoderOptions):
    """Options for models of images and texts."""

    OF = "models of images and texts"
    ASKED = "is a model of images and texts"

    zero_shot: Flag = False
    """Classify the images of a labelled source (--data) by the names of its classes, and say how well that went. Takes
    open_clip:ARCHITECTURE/TAG as well."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(EvaluateOptions):
    """Options for classifying by the names of classes."""

    OF = "models that are evaluated by --zero-shot"
    ASKED = "is evaluated by --zero-shot"

    zero_shot: Flag = False
    """Classify the images of a labelled source (--data) by the names of its classes, and say how well that went."""
    template: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """A text that is made of each class, its name at {}. Can be given several times."""
    picture: PngFile = None
    """Also draw the confusion matrix into this PNG file."""


@dataclass(frozen=True, kw_only=True)
class TextToImageOptions(EvaluateOptions):
    """Options for text-to-image models."""

    OF = "text-to-image models"
    ASKED = "is a text-to-image model"

    guidances: Annotated[str | None, tyro.conf.arg(metavar="W,W,…")] = None
    """Guidance scales to sample with, as in `opsin generate`; 2 by default."""
    steps: Annotated[str | None, tyro.conf.arg(metavar="N,N,…")] = None
    """Numbers of steps to sample with; by default 20, or all time steps of a model that has fewer."""
    samplers: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME,…")] = None
    """ddpm, ddim, dpm-solver, unipc; dpm-solver by default. All scales, numbers of steps and samplers are combined."""
    prompts: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="N")] = None
    """How many training prompts to sample, and how many that were held out; 48 by default."""
    samples: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="N")] = None
    """Samples of each prompt; 2 by default."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Decides which prompts are sampled, and from which noise; 0 by default."""
    judge: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "emoji-clip"
    """The model of images and texts that says what a sample shows."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="REF")] = None
    """Where the text encoder is that the model was trained with, if it has been moved since."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the scores into this file as soon as they are known, one way of sampling after the other. What it has
    already is not measured again."""
    picture: PngFile = None
    """Also draw the fidelity into this PNG file, and into FILE-nearest.png the samples that are nearest to training
    images."""


KINDS: tuple[type[EvaluateOptions], ...] = (
    ImageModelOptions,
    EncoderOptions,
    ClassifierOptions,
    CaptionerOptions,
    ImageTextOptions,
    ZeroShotOptions,
    TextToImageOptions,
    ProtocolOptions,
)
"""All classes that add options; of an option that several add, the first says whom it is for."""


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
        return ZeroShotOptions, load("opsin.cli.evaluations:evaluate_labels")
    evaluate_features: Callable[[Any], Evaluated] = load(SYSTEMS["simclr"].evaluate)
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
