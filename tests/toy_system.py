"""A system in one file: a linear classifier of mean colors, which is an encoder as well. `ROW` is all that opsin has to
know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.cli.evaluate import Evaluated, EvaluateOptions
from opsin.data.datasets import ImageDataset, Splits, batches_of, image_dataset, preprocessing_for
from opsin.encoders.own import EncoderModel
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText
from opsin.pretrained import Example, ModelContent, RunRecord
from opsin.progress import Progress
from opsin.results import Table
from opsin.runtime import seeded
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled
from opsin.systems import System
from opsin.training.config import RunConfig, TrainingConfig
from opsin.training.run import TrainReport, run_training
from opsin.training.task import Batch, StepOutput, Task

SIDE = 8

ROW = System(
    name="toy",
    kind="toy",
    config="tests.toy_system:ToyConfig",
    recipes="tests.toy_system:RECIPES",
    train="tests.toy_system:train_toy",
    model="tests.toy_system:ToyModel",
    evaluate="tests.toy_system:evaluate_toy",
    next_command="opsin evaluate {run}",
)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    """A run."""

    training: TrainingConfig = TrainingConfig(max_steps=5, batch_size=4)

    def open(self, *, to_train: bool = True) -> ImageSource:
        return open_labelled(self.data, exclude=self.exclude)


def default() -> ToyConfig:
    """Five steps."""
    return ToyConfig()


RECIPES = {"default": default}


class ToyNetwork(nn.Module):
    """Images (N, 3, S, S) to scores (N, K), by way of vectors (N, 4)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Linear(3, 4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images.mean(dim=(2, 3))))


@dataclass(frozen=True, kw_only=True)
class ToyContent(ModelContent[ToyConfig]):
    """What describes a model."""

    config_class = ToyConfig
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


class ToyModel(EncoderModel):
    """The network with its class names."""

    kind = "toy"
    content_class = ToyContent
    model: ToyNetwork
    content: ToyContent

    @classmethod
    def build(cls, content: ToyContent) -> ToyNetwork:
        return ToyNetwork(len(content.class_names))

    def weights(self) -> dict[str, Tensor]:
        return self.model.features.state_dict()

    def example_inputs(self) -> Example:
        return Example.of_image(self.model, SIDE)

    def card_text(self) -> CardText:
        return CardText(title="Toy", tags=("toy",), description=self.trained_on(), notes="", command="opsin evaluate")

    def _pooled(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.model.features(images.mean(dim=(2, 3)))
        return vectors


class ToyTask(Task[ToyNetwork]):
    """Cross-entropy."""

    def __init__(self, model: ToyNetwork, content: ToyContent) -> None:
        super().__init__(model)
        self.content = content

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        scores = self.model(self.content.preprocessing.prepare(batch["image"]))
        return StepOutput(F.cross_entropy(scores.float(), batch["label"]), {})

    def evaluate(self) -> dict[str, float]:
        return {}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        ToyModel(self.model, self.content).save_pretrained(directory)


def train_toy(
    config: ToyConfig, directory: Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[Splits[ImageDataset]]:
    """Train into a run directory."""
    run = config.split()
    data = image_dataset(run.training, SIDE)
    content = ToyContent(
        class_names=tuple(run.source.class_names or ()),
        preprocessing=preprocessing_for(data, SIDE),
        run=RunRecord(config=config, source_digest=run.digest),
    )
    with seeded(config.seed, "weights"):
        task = ToyTask(ToyModel.build(content), content)
    splits = Splits(datasets={"train": data}, source=run)
    return run_training(config, directory, task, splits, resume=resume, progress=progress)


def accuracy_of(model: ToyModel, data: ImageDataset) -> float:
    """The share of labelled images whose class it tells."""
    (batch,) = batches_of(data, 1000)
    scores = model.model(model.preprocessing.prepare(batch["image"]))
    return float((scores.argmax(dim=1) == batch["label"]).float().mean())


@dataclass(frozen=True)
class ToyResult:
    """Its accuracy."""

    accuracy: float
    skipped = baselines = warnings = ()

    def document(self) -> dict[str, float]:
        return {"accuracy": self.accuracy}

    def tables(self) -> list[Table]:
        return []

    def figure(self) -> None:
        pass


def evaluate_toy(options: EvaluateOptions) -> Evaluated:
    """What `opsin evaluate` does for it."""
    model = ToyModel.from_pretrained(options.run, options.device)
    assert model.run is not None
    data = image_dataset(open_labelled(model.run.config.data), SIDE)
    return Evaluated(ToyResult(accuracy_of(model, data)), model)
