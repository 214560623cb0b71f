"""The systems of opsin, one row each: where everything lies that verbs, encoders and the tour ask of a system.

A row names Python objects as `module:name`, and nothing of a system is imported before it is asked for. To add a system
is to write a slice and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from opsin.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class System:
    """One row. All but names and commands are references for `load`."""

    name: str
    """Of the verb `opsin train NAME`."""
    kind: str
    """Of the model, in the config.json of its directory."""
    config: str
    """The class of a run's settings, an `opsin.training.config.RunConfig`."""
    recipes: str
    """A mapping from names to functions, each of which gives a whole config."""
    train: str
    """A function (config, directory, resume=, progress=) that gives an `opsin.training.run.TrainReport`."""
    model: str
    """The `opsin.pretrained.PretrainedModel` that a run makes. It is an `opsin.encoders.base.NetworkEncoder` as well
    where it encodes images."""
    evaluate: str
    """A function (options) that gives an `opsin.cli.evaluate.Evaluated`."""
    next_command: str
    """What to do with a model that takes images; `{run}` and `{data}` stand for those of the run."""
    evaluate_options: str = "opsin.cli.evaluate:EvaluateOptions"
    """The class of these options."""
    next_unlabelled: str = ""
    """What to do instead after a run on images without labels, where the other command takes some."""
    held_out_section: str = ""
    """A function (model) that gives the section of a run's report on held-out images, where there is one."""
    tour_section: str = ""
    """A function (directory, minutes, progress) that gives the section of the tour, in the order of these rows."""
    tour_share: float = 0.0
    """The share of the tour's training time; without one, the section shows a model of the package."""
    holds_out: bool = False
    """Whether a run divides all images of its source by `opsin.data.splits.split_rows` and trains on none of those that
    it holds out."""


_ROWS = (
    System(
        name="vit",
        kind="vit-classifier",
        config="opsin.classification.config:ClassificationConfig",
        recipes="opsin.classification.recipes:RECIPES",
        train="opsin.classification.train:train_classifier",
        model="opsin.classification.inference:Classifier",
        evaluate="opsin.cli.evaluations:evaluate_classifier",
        evaluate_options="opsin.cli.evaluate:ClassifierOptions",
        next_command="opsin classify IMAGES --model {run}",
        held_out_section="opsin.classification.run_section:held_out_section",
        tour_section="opsin.tour.classification:classification_section",
        tour_share=1.0,
        holds_out=True,
    ),
    System(
        name="classifier",
        kind="classifier",
        config="opsin.classification.config:FinetuneConfig",
        recipes="opsin.classification.recipes:FINETUNE_RECIPES",
        train="opsin.classification.finetune:train_finetuned",
        model="opsin.classification.finetuned:FinetunedClassifier",
        evaluate="opsin.cli.evaluations:evaluate_classifier",
        evaluate_options="opsin.cli.evaluate:ClassifierOptions",
        next_command="opsin classify IMAGES --model {run}",
        held_out_section="opsin.classification.run_section:held_out_section",
        holds_out=True,
    ),
    System(
        name="captioner",
        kind="captioner",
        config="opsin.captioning.config:CaptioningConfig",
        recipes="opsin.captioning.recipes:RECIPES",
        train="opsin.captioning.train:train_captioner",
        model="opsin.captioning.inference:Captioner",
        evaluate="opsin.cli.evaluations:evaluate_captioner",
        evaluate_options="opsin.cli.evaluate:CaptionerOptions",
        next_command="opsin caption IMAGES --model {run}",
        held_out_section="opsin.captioning.run_section:held_out_section",
        tour_section="opsin.tour.captioning:captioning_section",
        tour_share=1.5,
    ),
    System(
        name="simclr",
        kind="simclr",
        config="opsin.simclr.config:SimclrConfig",
        recipes="opsin.simclr.recipes:RECIPES",
        train="opsin.simclr.train:train_simclr",
        model="opsin.simclr.inference:SimclrEncoder",
        evaluate="opsin.cli.evaluations:evaluate_features",
        evaluate_options="opsin.cli.evaluate:ProtocolOptions",
        next_command="opsin evaluate {run} --protocol knn",
        next_unlabelled="opsin index {data} --out {run}.index --model {run}",
        held_out_section="opsin.simclr.pictures:held_out_section",
        tour_section="opsin.tour.simclr:simclr_section",
        tour_share=1.0,
        holds_out=True,
    ),
    System(
        name="clip",
        kind="clip",
        config="opsin.clip.config:ClipConfig",
        recipes="opsin.clip.recipes:RECIPES",
        train="opsin.clip.train:train_clip",
        model="opsin.clip.inference:ClipEncoder",
        evaluate="opsin.cli.evaluations:evaluate_clip",
        evaluate_options="opsin.cli.evaluate:ImageTextOptions",
        next_command='opsin classify IMAGES --labels "one thing,another thing" --model {run}',
        held_out_section="opsin.clip.run_section:held_out_section",
        tour_section="opsin.tour.clip:clip_section",
    ),
    System(
        name="diffusion",
        kind="text-diffusion",
        config="opsin.diffusion.config:DiffusionConfig",
        recipes="opsin.diffusion.recipes:RECIPES",
        train="opsin.diffusion.train:train_diffusion",
        model="opsin.diffusion.inference:TextToImage",
        evaluate="opsin.cli.evaluations:evaluate_text_to_image",
        evaluate_options="opsin.cli.evaluate:TextToImageOptions",
        next_command='opsin generate "PROMPT" --model {run} --out grid.png',
        tour_section="opsin.tour.diffusion:diffusion_section",
        tour_share=1.0,
    ),
)

IMAGENET_CLASSIFIER = "opsin.classification.imagenet:ImagenetClassifier"
"""The model `imagenet`, which no system trains."""
SYSTEMS = {system.name: system for system in _ROWS}


def system_of_kind(kind: str, ref: object = "this model") -> System:
    """The system whose models are of a kind. Raises CheckpointError for one that no row has; `ref` names the model."""
    for system in SYSTEMS.values():
        if system.kind == kind:
            return system
    known = ", ".join(system.kind for system in SYSTEMS.values())
    raise CheckpointError(f"{ref} is a model of kind {kind!r}, which this opsin does not know; it knows {known}")


def load(reference: str) -> Any:
    """What `module:name` names. Raises ConfigError when there is no such module, or nothing of that name in it."""
    module_name, _, name = reference.partition(":")
    try:
        return getattr(import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and one that it imports is not
        raise ConfigError(f"opsin.systems names {reference}, and there is no module {error.name}") from error
    except AttributeError as error:
        raise ConfigError(f"opsin.systems names {reference}, and {module_name} has no {name}") from error
