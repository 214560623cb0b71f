"""Training a dual encoder, and what its directory then holds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.checkpoint import load_pretrained, load_training_state
from opsin.cli.main import main
from opsin.clip.config import ClipConfig, ImageTowerConfig
from opsin.clip.data import open_splits
from opsin.clip.evaluation import evaluate_retrieval
from opsin.clip.inference import ClipEncoder
from opsin.clip.recipes import RECIPES
from opsin.clip.train import ClipTask, train_clip
from opsin.config import from_dict, to_dict
from opsin.data.splits import OTHER_STYLE
from opsin.encoders import load
from opsin.encoders.base import DenseEncoder, ImageTextEncoder
from opsin.errors import CheckpointError, ConfigError, DataError, TrainingInterrupted
from opsin.pretrained import RunRecord
from opsin.training.run import TrainReport
from opsin.training.task import Batch, StepOutput
from opsin.training.trainer import Trainer
from tests.html_page import Page, assert_sound
from tests.training.launch import CONTEXT

from .conftest import COLOURS, NO_CHANGES, colour_config, tiny_config

Run = tuple[Path, TrainReport]


def load_run(run: Run) -> ClipEncoder:
    encoder = load(str(run[0]), "cpu", "32")
    assert isinstance(encoder, ClipEncoder)
    return encoder


def test_learns_an_easy_folder(colour_run: Run) -> None:
    directory, report = colour_run
    assert report.metrics["train_recall_at_1"] == 1.0
    assert report.metrics["test_recall_at_1"] == report.metrics["val_recall_at_1"] == 1.0
    assert report.steps == 300
    assert {row.id for row in report.skipped} == {"blank.png", "broken.png"}
    assert (directory / "model" / "README.md").read_text(encoding="utf-8").count("| test_recall_at_10 |") == 1


def test_encodes_new_images_and_texts(colour_run: Run) -> None:
    encoder = load_run(colour_run)
    assert isinstance(encoder, ImageTextEncoder) and isinstance(encoder, DenseEncoder)
    images = encoder.encode_image([Image.new("RGB", (30, 20), colour) for colour in COLOURS.values()])
    texts = encoder.encode_text([f"picture {name.upper()}" for name in COLOURS])
    assert images.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(images.norm(dim=1), torch.ones(len(COLOURS)))
    assert (images @ texts.T).argmax(dim=1).tolist() == list(range(len(COLOURS)))
    odd = encoder.encode_text(["", "word " * 10_000, "日本語", "\udcff", "🤠"], normalize=False)
    assert odd.shape == (5, 16) and odd.isfinite().all()
    assert 1 < encoder.logit_scale <= 100
    (dense,) = encoder.encode_dense([Image.new("RGB", (9, 9))])
    assert dense.tokens.shape == (1, 16, 16) and dense.grid == (4, 4)


def test_transparent_images_are_laid_over_white(colour_run: Run) -> None:
    encoder = load_run(colour_run)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    torch.testing.assert_close(encoder.encode_image([clear]), encoder.encode_image([Image.new("RGB", (9, 9), "white")]))


def test_the_directory_holds_all_that_the_run_had(colour_run: Run, folder: Path) -> None:
    """The model as the task has it, through its files, bit for bit."""
    encoder = load_run(colour_run)
    config = colour_config(folder)
    task = ClipTask(config, open_splits(config))
    assert encoder.tokenizer.to_json() == task.tokenizer.to_json()
    assert encoder.preprocessing == task.preprocessing
    assert encoder.run == RunRecord(config=config, source_digest=config.split().digest)
    assert encoder.metrics == colour_run[1].metrics
    _, tensors = load_pretrained(colour_run[0], kind="clip")
    task.model.load_state_dict(tensors)
    task.model.eval()
    pixels = np.random.default_rng(0).integers(256, size=(3, 16, 16), dtype=np.uint8)
    expected = task.model.encode_image(task.preprocessing.prepare(torch.from_numpy(pixels)[None])).detach()
    torch.testing.assert_close(encoder.encode_image([pixels.transpose(1, 2, 0)], normalize=False), expected)
    with pytest.raises(CheckpointError, match="holds a model of kind 'clip'"):
        load_pretrained(colour_run[0], kind="captioner")


def test_evaluating_the_files_gives_what_the_run_measured(colour_run: Run, folder: Path) -> None:
    encoder = load_run(colour_run)
    for split in ("train", "val", "test"):
        evaluation = evaluate_retrieval(encoder, encoder.run, split=split)
        assert evaluation.styles.keys() == {"all"}
        assert evaluation.styles["all"].mean_recall(1) == colour_run[1].metrics[f"{split}_recall_at_1"]
        assert f"split {split!r}" in evaluation.protocol
    everything = evaluate_retrieval(encoder, None, str(folder))
    assert everything.split == "all" and everything.styles["all"].image_to_text.queries == 8 * len(COLOURS) + 1
    assert {row.id for row in everything.skipped} == {"blank.png", "broken.png"}
    with pytest.raises(DataError, match="has no split 'other-style'; it has train, val, test, all"):
        evaluate_retrieval(encoder, encoder.run, split="other-style")


def test_a_batch_of_emoji_is_learned_by_heart(tmp_path: Path) -> None:
    tower = dataclasses.replace(tiny_config("").image, embed_dim=32)
    config = tiny_config(
        "emoji", max_train=32, max_val=4, image=tower, augment=NO_CHANGES, batch_size=32, max_steps=80, export="last"
    )
    metrics = train_clip(config, tmp_path / "run").metrics
    assert metrics["train_recall_at_1"] == metrics["train_twemoji_recall_at_10"] == 1.0


def test_every_parameter_gets_a_gradient(folder: Path) -> None:
    config = tiny_config(folder)
    task = ClipTask(config, open_splits(config)).train()
    output = task.training_step(open_splits(config).train.__getitems__(list(range(16))), torch.Generator())
    output.loss.backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


class StoppingTask(ClipTask):
    """Dies in its sixth step."""

    calls = 0

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.calls += 1
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().training_step(batch, generator)


def test_a_resumed_run_equals_a_straight_one(folder: Path, tmp_path: Path) -> None:
    """With every augmentation on."""
    config = tiny_config(folder, max_steps=9, checkpoint_minutes=0.0, precision="32")
    splits = open_splits(config)
    straight = train_clip(config, tmp_path / "straight")
    stopping = StoppingTask(config, splits)
    with pytest.raises(TrainingInterrupted):
        Trainer(config.training, tmp_path / "resumed").fit(stopping, splits.train, to_dict(config))
    resumed = train_clip(config, tmp_path / "resumed", resume=True)
    assert resumed.metrics == straight.metrics
    weights, others = (load_pretrained(tmp_path / name, kind="clip")[1] for name in ("resumed", "straight"))
    for name, tensor in others.items():
        assert torch.equal(weights[name], tensor), name


# ---------------------------------------------------------------------------------------- several processes


def train_in_process(rank: int, count: int, settings: dict, directory: str, port_file: str) -> None:
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port_file, TORCHELASTIC_RUN_ID="test")
    train_clip(from_dict(ClipConfig, settings), directory)


def free_port(queue: object) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        queue.put(str(probe.getsockname()[1]))  # type: ignore[attr-defined]


def test_two_processes_equal_one_with_the_joint_batch(folder: Path, tmp_path: Path) -> None:
    """Without what each process draws or averages for itself: augmentation, and the stem's batch norm."""
    tower = dataclasses.replace(tiny_config("").image, stem="linear")
    config = tiny_config(
        folder, captions="first", augment=NO_CHANGES, image=tower, max_steps=6, precision="32", export="last"
    )
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
    train_clip(config, tmp_path / "one")
    two, one = (load_training_state(tmp_path / name / "checkpoints" / "last.pt")["model"] for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


# ------------------------------------------------------------------------------------------ data and settings


def test_groups_and_splits_of_the_emoji() -> None:
    config = tiny_config("emoji")
    source = config.open()
    rows = config.rows(source)
    assert source.groups is not None
    assert not set(source.groups[rows["train"]]) & set(source.groups[rows["val"]])
    everything = tiny_config("emoji", train_on="all").rows(source)
    assert len(everything["train"]) == len(source) and len(everything["val"]) == len(everything["test"]) == 0
    held = tiny_config("emoji", held_out_style="openmoji").rows(source)
    styles = source.metadata["style"]
    assert set(styles[held["train"]]) == {"twemoji"} and set(styles[held[OTHER_STYLE]]) == {"openmoji"}
    assert len(held["train"]) == len(held[OTHER_STYLE]) == len(rows["train"]) / 2
    with pytest.raises(ConfigError, match="has the styles openmoji, twemoji"):
        tiny_config("emoji", held_out_style="noto").rows(source)


def test_drawings_of_one_emoji_are_one_group(tmp_path: Path) -> None:
    dataset = open_splits(tiny_config("emoji", max_train=40)).train
    batch = dataset.__getitems__(list(range(len(dataset))))
    names = dataset.source.metadata["name"][batch["row"].numpy()]
    same = batch["group"][:, None] == batch["group"]
    assert torch.equal(same, torch.from_numpy(names[:, None] == names))


def test_data_that_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no captions; give them as"):
        plain = tmp_path / "plain"
        plain.mkdir()
        Image.new("RGB", (8, 8)).save(plain / "a.png")
        open_splits(tiny_config(plain))
    with pytest.raises(DataError, match="has a caption with a word in it"):
        (plain / "a.txt").write_text(" \n")
        open_splits(tiny_config(plain))
    with pytest.raises(DataError, match="are the same, 'a thing'; there is nothing to tell apart"):
        (plain / "a.txt").write_text("a thing")
        config = tiny_config(plain, val_fraction=0)
        ClipTask(config, open_splits(config))
    with pytest.raises(ConfigError, match="no drawing styles"):
        open_splits(tiny_config(folder, held_out_style="openmoji"))


def test_captions_that_are_cut_or_no_words_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(folder, val_fraction=0)
    ClipTask(config, open_splits(config))
    (message,) = caplog.messages
    assert "the text encoder of this run reads only the first 15 tokens of 1 of 67 captions ('white wh" in message
    for number, text in enumerate(("?!", "...")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(text)
    config = tiny_config(tmp_path, val_fraction=0)
    with pytest.raises(DataError, match="can read nothing of any of the 2 captions"):
        ClipTask(config, open_splits(config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, "accumulate must be 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"image_size": 18}, "image_size .18. must be divisible by patch_size"),
        ({"image": ImageTowerConfig(embed_dim=18)}, "image: embed_dim .18. must be divisible by num_heads"),
        ({"val_fraction": 0.7, "test_fraction": 0.4}, "together below 1"),
        ({"max_train": 0}, "max_train must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config("emoji", **options)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_the_size_that_ships(name: str) -> None:
    config = RECIPES[name]()
    assert from_dict(ClipConfig, to_dict(config)) == config
    if name == "emoji":
        splits = open_splits(dataclasses.replace(config, max_train=300))
        model = ClipTask(config, splits).model
        assert sum(parameter.numel() for parameter in model.parameters()) < 5.5e6


def test_the_report_of_a_run_shows_held_out_images_and_captions(colour_run: Run, tmp_path: Path) -> None:
    assert main(["report", str(colour_run[0]), "--out", str(tmp_path / "r.html"), "--device", "cpu", "--quiet"]) == 0
    page = Page(tmp_path / "r.html")
    assert_sound(page)
    assert page.texts["h2"] == ["Result", "Curves", "Retrieval", "Settings"]
    assert "right pairs are on the diagonal" in page.texts["figcaption"][-1]
    assert any("split 'test'" in text and "recall@1 " in text and ", by chance " in text for text in page.texts["p"])
