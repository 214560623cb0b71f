"""Training by SimCLR, and what its directory then holds."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from opsin.checkpoint import load_pretrained, load_training_state
from opsin.config import from_dict, to_dict
from opsin.data.splits import split_digest
from opsin.encoders import load
from opsin.encoders.base import ImageEncoder
from opsin.errors import CheckpointError, DataError, TrainingInterrupted
from opsin.simclr.config import AugmentConfig, EncoderConfig, SimclrConfig
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.recipes import RECIPES
from opsin.simclr.train import SimclrTask, train_simclr
from opsin.sources.opening import open_source
from opsin.training.task import Batch, StepOutput
from opsin.training.trainer import Trainer
from tests.training.launch import CONTEXT

from .conftest import PERIODS, Run, task_of, tiny_config


def test_the_loss_falls_and_is_logged_with_the_neighbours(pattern_run: Run) -> None:
    directory, report = pattern_run
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in validated] == [15, 30]
    assert all(0 <= row["val_knn_accuracy"] <= 1 and row["seconds"] > 0 for row in validated)
    assert report.metrics.keys() == {"val_loss", "val_knn_accuracy"}
    # The loss of views that cannot be told apart: 11 others of a batch of 12 (two views each, without itself).
    assert report.metrics["val_loss"] < np.log(2 * 12 - 1)
    assert report.steps == 30 and report.num_train == 36
    assert [row.id for row in report.skipped] == ["fine/broken.png"]
    card = (directory / "model" / "README.md").read_text(encoding="utf-8")
    assert "# ResNet-18 that learned without labels" in card and "| val_knn_accuracy |" in card


def test_features_of_new_images(pattern_run: Run, pattern_folder: Path) -> None:
    encoder = opsin.SimclrEncoder.from_pretrained(pattern_run[0], device="cpu", precision="32")
    assert isinstance(encoder, ImageEncoder)
    path = pattern_folder / "coarse" / "00.png"
    opened = Image.open(path)
    features = encoder.encode_image([path, opened, np.asarray(opened), Image.new("L", (3, 40))])
    assert features.shape == (4, 512) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_the_run_is_an_encoder_for_every_verb(pattern_run: Run, pattern_folder: Path) -> None:
    images = [pattern_folder / name / "01.png" for name in PERIODS]
    ours = SimclrEncoder.from_pretrained(pattern_run[0], device="cpu", precision="32")
    loaded = load(str(pattern_run[0]), "cpu", "32")
    torch.testing.assert_close(loaded.encode_image(images), ours.encode_image(images))
    assert loaded.preparation() == ours.preparation()
    assert isinstance(loaded, SimclrEncoder) and loaded.fingerprint == ours.fingerprint


def test_the_directory_holds_all_that_the_run_had(pattern_run: Run, tmp_path: Path) -> None:
    """The model as the training state has it, through its files, bit for bit."""
    encoder = SimclrEncoder.from_pretrained(pattern_run[0], device="cpu", precision="32")
    settings = json.loads((pattern_run[0] / "config.json").read_text())
    assert encoder.run is not None
    assert encoder.run.to_json() == {**settings, "source_digest": split_digest(open_source(settings["data"]))}
    assert encoder.metrics == pattern_run[1].metrics
    images = [np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)]
    again = SimclrEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "copy"), "cpu", "32")
    assert torch.equal(again.encode_image(images), encoder.encode_image(images))
    _, tensors = load_pretrained(tmp_path / "copy", kind="simclr")
    task = task_of(encoder.run.config)
    task.model.load_state_dict(tensors)  # strictly
    with pytest.raises(CheckpointError, match="holds a model of kind 'simclr'"):
        load_pretrained(pattern_run[0], kind="clip")


def test_an_encoder_without_its_projection_gives_the_same_features(pattern_run: Run, tmp_path: Path) -> None:
    whole = SimclrEncoder.from_pretrained(pattern_run[0], device="cpu", precision="32")
    alone = SimclrEncoder.from_pretrained(whole.without_projection().save_pretrained(tmp_path / "alone"), "cpu", "32")
    images = [np.random.default_rng(1).integers(256, size=(16, 16, 3), dtype=np.uint8)]
    assert torch.equal(alone.encode_image(images), whole.encode_image(images))
    assert torch.equal(load(str(tmp_path / "alone"), "cpu", "32").encode_image(images), whole.encode_image(images))
    _, tensors = load_pretrained(tmp_path / "alone", kind="simclr")
    assert all(name.startswith("encoder.") for name in tensors)
    assert alone.run == whole.run and alone.metrics == whole.metrics


def test_a_vision_transformer_learns_as_well(pattern_folder: Path, tmp_path: Path) -> None:
    report = train_simclr(tiny_config(pattern_folder, max_steps=4), tmp_path / "run")
    features = load(str(tmp_path / "run"), "cpu").encode_image([pattern_folder / "fine" / "00.png"])
    assert features.shape == (1, 16) and np.isfinite(report.metrics["val_loss"])


def test_images_beside_class_folders_are_learned_from_without_a_label(pattern_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pattern_folder, data)
    for number in range(3):
        shutil.copy(data / "coarse" / "00.png", data / f"stray-{number}.png")
    report = train_simclr(tiny_config(data, max_steps=1), tmp_path / "run")
    assert report.num_train == 36 + 2 and report.splits.is_labelled  # one is held out
    assert 0 <= report.metrics["val_knn_accuracy"] <= 1


@pytest.mark.parametrize("encoder", [EncoderConfig(), tiny_config("emoji").encoder], ids=["resnet18", "vit"])
def test_every_parameter_gets_a_gradient(pattern_folder: Path, encoder: EncoderConfig) -> None:
    config = tiny_config(pattern_folder, encoder=encoder)
    task = task_of(config).train()
    task.training_step(task.splits.train.__getitems__(list(range(8))), torch.Generator()).loss.backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_batch_is_learned_by_heart(pattern_folder: Path, tmp_path: Path) -> None:
    """Two equal views of twelve images: in the end each is told from all others."""
    same = AugmentConfig(min_crop=1.0, flip=False, jitter=0.0, grayscale=0.0)
    config = tiny_config(
        pattern_folder, augment=same, max_train=12, temperature=0.1, max_steps=60, learning_rate=1e-2, log_every=60
    )
    train_simclr(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in rows if "train_loss" in row)
    assert last["step"] == 60 and last["train_positive_cosine"] > 0.99 and last["train_loss"] < 0.1


class StoppingTask(SimclrTask):
    """Dies in its sixth step."""

    calls = 0

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.calls += 1
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().training_step(batch, generator)


def test_a_resumed_run_equals_a_straight_one(pattern_folder: Path, tmp_path: Path) -> None:
    """With every augmentation on, and the statistics of a ResNet's norms."""
    config = tiny_config(
        pattern_folder,
        encoder=EncoderConfig(),
        augment=AugmentConfig(blur=0.5, view_size=8),
        max_steps=9,
        checkpoint_minutes=0.0,
        precision="32",
    )
    straight = train_simclr(config, tmp_path / "straight")
    task = task_of(config)
    stopping = StoppingTask(config, task.splits)
    with pytest.raises(TrainingInterrupted):
        Trainer(config.training, tmp_path / "resumed").fit(stopping, task.splits.train, to_dict(config))
    resumed = train_simclr(config, tmp_path / "resumed", resume=True)
    assert resumed.metrics == straight.metrics
    weights, others = (load_pretrained(tmp_path / name, kind="simclr")[1] for name in ("resumed", "straight"))
    for name, tensor in others.items():
        assert torch.equal(weights[name], tensor), name


class CountingTask(SimclrTask):
    """Knows how many images its batches had."""

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.sizes = [*getattr(self, "sizes", []), len(batch["image"])]
        return super().training_step(batch, generator)


def test_a_last_batch_of_one_image_is_left_out(pattern_folder: Path, tmp_path: Path) -> None:
    """There is nothing to tell the image from, and the norms would take up its statistics alone."""
    for count, sizes in ((9, [4, 4, 4, 4, 4, 4]), (10, [4, 4, 2, 4, 4, 2])):
        config = tiny_config(pattern_folder, max_train=count + 1, batch_size=4, max_steps=6)  # one is broken
        task = task_of(config)
        assert len(task.splits.train) == count
        counting = CountingTask(config, task.splits)
        Trainer(config.training, tmp_path / str(count)).fit(counting, task.splits.train, to_dict(config))
        assert counting.sizes == sizes


def test_an_image_alone_leaves_the_model_sound(pattern_folder: Path) -> None:
    """As where the other files of a batch are broken."""
    task = task_of(tiny_config(pattern_folder, encoder=EncoderConfig())).train()
    alone = task.training_step(task.splits.train.__getitems__([0]), torch.Generator())
    assert float(alone.loss.detach()) == 0
    alone.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters() if parameter.grad is not None)


# ------------------------------------------------------------------------------------------------- sources


def test_rows_of_a_run(pattern_folder: Path) -> None:
    source = open_source(str(pattern_folder))
    rows = tiny_config(pattern_folder).rows(source)
    assert np.intersect1d(rows["train"], rows["val"]).size == 0
    few = tiny_config(pattern_folder, max_train=5).rows(source)
    assert len(few["train"]) == 5 and np.isin(few["train"], rows["train"]).all()
    np.testing.assert_array_equal(few["val"], rows["val"])


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError):
        train_simclr(tiny_config(tmp_path / "none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_image_is_refused(pattern_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one image only to train on, of '[^']*'; .* takes at least two"):
        train_simclr(tiny_config(pattern_folder, max_train=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_of_two_images_one_is_held_out_unless_it_is_wanted(pattern_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for number in range(2):
        shutil.copy(pattern_folder / "fine" / f"0{number}.png", tmp_path / "two")
    with pytest.raises(DataError, match=r"one image only .* beside 1 held out to validate on \(--val-fraction 0 "):
        task_of(tiny_config(tmp_path / "two"))
    assert len(task_of(tiny_config(tmp_path / "two", val_fraction=0.0)).splits.train) == 2


def test_every_recipe_is_a_valid_config_that_survives_json() -> None:
    for name, recipe in RECIPES.items():
        config = recipe()
        assert from_dict(type(config), to_dict(config)) == config, name
        assert recipe.__doc__, name


def test_the_gpu_recipe_works_at_a_small_scale(pattern_folder: Path, tmp_path: Path) -> None:
    """Everything but its size and its compiler, which takes minutes for a ResNet-50 on a CPU; see the next test."""
    recipe = RECIPES["cifar10-gpu"]()
    training = dataclasses.replace(recipe.training, max_minutes=None, max_steps=2, batch_size=4, device="cpu")
    config = dataclasses.replace(
        recipe, data=str(pattern_folder), image_size=16, compile=False, val_fraction=0.2, training=training
    )
    report = train_simclr(config, tmp_path / "run")
    assert np.isfinite(report.metrics["val_loss"])
    encoder = SimclrEncoder.from_pretrained(tmp_path / "run", device="cpu")
    assert encoder.encode_image([Image.new("RGB", (16, 16))]).shape == (1, 2048)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler of C++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about itself
def test_a_compiled_run_is_the_same_run(pattern_folder: Path, tmp_path: Path) -> None:
    """Through a last batch of another size, and a validation."""
    losses = []
    for compiled in (False, True):
        config = tiny_config(pattern_folder, compile=compiled, max_steps=3, validations=1, log_every=1, precision="32")
        report = train_simclr(config, tmp_path / str(compiled))
        rows = (tmp_path / str(compiled) / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(row)["train_loss"] for row in rows if "train_loss" in row]
        assert (task_of(config).model._compiled_call_impl is not None) == compiled
        losses.append([*steps, report.metrics["val_loss"]])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# ---------------------------------------------------------------------------------------- several processes


def train_in_process(rank: int, count: int, settings: dict, directory: str, port: str) -> None:
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test")
    train_simclr(from_dict(SimclrConfig, settings), directory)


def free_port(queue: object) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        queue.put(str(probe.getsockname()[1]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_train", [35, 29])
def test_two_processes_train_with_batches_that_do_not_divide(
    max_train: int, pattern_folder: Path, tmp_path: Path
) -> None:
    """35 images in batches of 14: the last one has 7, four for one process and three for the other; 29 leave one, which
    no process trains on."""
    config = tiny_config(pattern_folder, max_train=max_train, max_steps=6, batch_size=14, precision="32")
    queue = CONTEXT.Queue()
    finder = CONTEXT.Process(target=free_port, args=(queue,))
    finder.start()
    port = queue.get()
    finder.join()
    arguments = (2, to_dict(config), str(tmp_path / "two"), port)
    processes = [CONTEXT.Process(target=train_in_process, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    state = load_training_state(tmp_path / "two" / "checkpoints" / "last.pt")["model"]
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert np.isfinite(SimclrEncoder.from_pretrained(tmp_path / "two", "cpu").metrics["val_loss"])
