"""Training on a small folder, drawing with the result, and what can go wrong on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.checkpoint import load_pretrained, load_training_state, save_training_state
from opsin.config import from_dict, to_dict
from opsin.diffusion.config import DiffusionConfig, ProcessConfig, UnetConfig
from opsin.diffusion.data import open_splits
from opsin.diffusion.model import build_model
from opsin.diffusion.recipes import RECIPES
from opsin.diffusion.text import TextTable, load_text_encoder
from opsin.diffusion.train import DiffusionTask, train_diffusion
from opsin.errors import CheckpointError, ConfigError, DataError, TrainingInterrupted
from opsin.training.run import TrainReport
from opsin.training.task import Batch, StepOutput
from opsin.training.trainer import Trainer

from .conftest import BagOfWords, tiny_config

Run = tuple[Path, TrainReport]


def test_report_and_run_directory(colour_run: Run) -> None:
    directory, report = colour_run
    assert (report.steps, report.num_train, len(report.splits.texts)) == (150, 24, 6 + 1)
    assert {row.id for row in report.skipped} == {"silent.png", "broken.png"}
    assert report.metrics["val_loss"] < 0.6
    assert [name for name in report.metrics if name.startswith("val_loss_t")] == [
        f"val_loss_t{step}" for step in (2, 12, 24, 37, 47)
    ]
    averaged = sorted(path.name for path in (directory / "samples").glob("*.png"))
    assert averaged == sorted(path.name for path in (directory / "samples" / "raw").glob("*.png"))
    assert averaged == ["step-0000075.png", "step-0000150.png"]
    first, last = ((directory / "samples" / folder / averaged[0]).read_bytes() for folder in (".", "raw"))
    assert first != last
    assert (directory / "model" / "README.md").read_text().count("val_loss |") == 1


def test_the_validation_loss_stands_beside_that_without_prompts(colour_run: Run, prompted_folder: Path) -> None:
    """Without prompts is with the mean embedding for every image, which the network sees as zeros."""
    (comparison,) = colour_run[1].baselines
    config = tiny_config(prompted_folder)
    task = DiffusionTask(config, open_splits(config, BagOfWords())).eval()
    trained = load_pretrained(colour_run[0] / "model", kind="text-diffusion")[1]
    task.model.load_state_dict({**task.model.state_dict(), **trained})
    assert task.evaluate()["val_loss"] == pytest.approx(comparison.score, rel=1e-5)
    assert comparison.score == pytest.approx(colour_run[1].metrics["val_loss"], rel=1e-5)
    task.text_features.copy_(task.model.text_mean.expand_as(task.text_features))
    assert task.evaluate()["val_loss"] == pytest.approx(comparison.value, rel=1e-5)
    assert comparison.score < 0.9 * comparison.value  # the captions name the colors of the images
    assert "below the same network without prompts" in comparison.sentence


@pytest.mark.parametrize(
    "options", [{"val_fraction": 0.0}, {"model": UnetConfig(dim=16, dim_mults=(1, 2), uncond_prob=0.0)}]
)
def test_runs_without_that_baseline(options: dict, prompted_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(prompted_folder, max_steps=1, **options)
    assert train_diffusion(config, tmp_path, text_encoder=BagOfWords()).baselines == ()


class StoppingTask(DiffusionTask):
    """Dies in its sixth step."""

    steps = 0

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.steps += 1
        if self.steps == 6:
            raise KeyboardInterrupt
        return super().training_step(batch, generator)


def test_interrupted_run_ends_like_a_straight_one(prompted_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(prompted_folder, max_steps=8, checkpoint_minutes=0.0, flip=True)
    train_diffusion(config, tmp_path / "straight", text_encoder=BagOfWords())
    splits = open_splits(config, BagOfWords())
    task = StoppingTask(config, splits)
    with pytest.raises(TrainingInterrupted):
        Trainer(config.training, tmp_path / "stopped").fit(task, splits.train, to_dict(config))
    train_diffusion(config, tmp_path / "stopped", resume=True, text_encoder=BagOfWords())
    straight, stopped = (load_pretrained(tmp_path / name, kind="text-diffusion")[1] for name in ("straight", "stopped"))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_run_is_not_continued_with_another_text_encoder(prompted_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(prompted_folder, max_steps=2, validations=1)
    train_diffusion(config, tmp_path, text_encoder=BagOfWords())
    other = BagOfWords()
    other.fingerprint = "another bag"
    with pytest.raises(
        CheckpointError, match="the text encoder is not the one that .* another bag and was bag of word"
    ):
        train_diffusion(config, tmp_path, resume=True, text_encoder=other)
    assert train_diffusion(config, tmp_path, resume=True, text_encoder=BagOfWords()).steps == 2

    state = load_training_state(tmp_path / "checkpoints" / "last.pt")
    assert state.pop("foundations")["text encoder"] == "bag of words"
    save_training_state(tmp_path / "checkpoints" / "last.pt", state)  # as versions before wrote it
    assert train_diffusion(config, tmp_path, resume=True, text_encoder=BagOfWords()).steps == 2
    assert "foundations" in load_training_state(tmp_path / "checkpoints" / "last.pt")


def test_every_parameter_gets_a_gradient(prompted_folder: Path) -> None:
    splits = open_splits(tiny_config(prompted_folder), BagOfWords())
    task = DiffusionTask(tiny_config(prompted_folder), splits).train()
    task.training_step(splits.train.__getitems__([0, 9, 17]), torch.Generator().manual_seed(0)).loss.backward()
    assert [name for name, value in task.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_texts_are_encoded_once(prompted_folder: Path) -> None:
    encoder = BagOfWords()
    splits = open_splits(tiny_config(prompted_folder), encoder)
    assert encoder.calls == 1
    batch = splits.train.__getitems__([0, 20])
    for texts, count in zip(batch["texts"], batch["num_texts"], strict=True):
        first, second = (splits.texts[row] for row in texts[:count].tolist())
        assert second == f"all {first}"
    torch.testing.assert_close(splits.features, BagOfWords().encode_text(splits.texts))
    scaled = DiffusionTask(tiny_config(prompted_folder), splits).model.scaled(splits.features)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.square().mean(), torch.tensor(1.0))


def test_only_first_captions(prompted_folder: Path) -> None:
    splits = open_splits(tiny_config(prompted_folder, captions="first"), BagOfWords())
    assert set(splits.texts) == {"blue", "green", "red", "a broken picture"}


class WatchedTask(DiffusionTask):
    """Keeps what reaches the network, and trains nothing."""

    def __init__(self, config: DiffusionConfig) -> None:
        splits = open_splits(config, BagOfWords())
        super().__init__(config, splits)
        self.batch = splits.train.__getitems__(list(range(len(splits.train))))
        self.rows: list[int] = []
        self.images: list[torch.Tensor] = []
        self.model.diffusion.p_losses = self._loss  # type: ignore[method-assign]

    def watch(self, steps: int) -> WatchedTask:
        for seed in range(steps):
            self.training_step(self.batch, torch.Generator().manual_seed(seed))
        return self

    def _conditions(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        self.rows += rows.tolist()
        return super()._conditions(rows)

    def _loss(self, images: torch.Tensor, conditions: object) -> torch.Tensor:
        self.images.append(images)
        return images.mean()


def test_all_captions_of_an_image_are_trained_on(prompted_folder: Path) -> None:
    task = WatchedTask(tiny_config(prompted_folder)).watch(20)
    texts = {
        row
        for own, count in zip(task.batch["texts"], task.batch["num_texts"], strict=True)
        for row in own[:count].tolist()
    }
    assert set(task.rows) == texts and len(texts) == 6


@pytest.mark.parametrize("flip", [False, True])
def test_half_of_the_images_are_mirrored(prompted_folder: Path, flip: bool) -> None:
    task = WatchedTask(tiny_config(prompted_folder, flip=flip)).watch(10)
    plain = task.batch["image"].float() / 255
    for images in task.images:
        same = (images == plain).flatten(1).all(dim=1)
        mirrored = (images == plain.flip(3)).flatten(1).all(dim=1)
        assert (same | mirrored).all()
        assert bool(same.all()) == (not flip) and bool(mirrored.any()) == flip


def test_samples_are_drawn_with_their_guidance(prompted_folder: Path, tmp_path: Path) -> None:
    def picture(scale: float) -> bytes:
        config = tiny_config(prompted_folder, sample_guidance=scale, process=ProcessConfig(timesteps=4))
        DiffusionTask(config, open_splits(config, BagOfWords())).eval().save_samples(tmp_path, 1)
        return (tmp_path / "step-0000001.png").read_bytes()

    assert picture(-1.0) == picture(-1.0) != picture(50.0)


def test_share_of_texts_left_out_reaches_the_network() -> None:
    model = build_model(UnetConfig(dim=4, dim_mults=(1,), uncond_prob=1.0), ProcessConfig(timesteps=4), 8, 5).train()
    x, times = torch.zeros(3, 3, 8, 8), torch.zeros(3)
    model.diffusion.model.apply(lambda module: module.eval() if type(module).__name__ == "Dropout" else None)
    with_text = model.diffusion.model(x, times, {"text_emb": torch.randn(3, 5)})
    torch.testing.assert_close(with_text, model.diffusion.model(x, times))


def test_all_images_are_trained_on(prompted_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(prompted_folder, train_on="all", max_steps=2, validations=1)
    report = train_diffusion(config, tmp_path / "run", text_encoder=BagOfWords())
    assert report.num_train == 30
    assert list(report.metrics) == ["seen_loss", *(f"seen_loss_t{step}" for step in (2, 12, 24, 37, 47))]


def test_validation_looks_all_over_the_held_out_images(prompted_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.diffusion.train.MOST_VALIDATED", 3)
    config = tiny_config(prompted_folder, val_fraction=0.5)
    splits = open_splits(config, BagOfWords())
    assert splits.val is not None
    seen = []
    ask = splits.val.images.__getitems__
    monkeypatch.setattr(splits.val.images, "__getitems__", lambda indices: seen.extend(indices) or ask(indices))
    DiffusionTask(config, splits).evaluate()
    assert len(seen) <= 3
    assert max(seen) > len(splits.val) / 2


def test_weights_of_the_losses_reach_training(prompted_folder: Path) -> None:
    batch, losses = None, []
    for gamma in (None, 5.0):
        config = tiny_config(prompted_folder, process=ProcessConfig(timesteps=50, min_snr_gamma=gamma))
        splits = open_splits(config, BagOfWords())
        task = DiffusionTask(config, splits).eval()
        batch = splits.train.__getitems__(list(range(24)))
        torch.manual_seed(0)
        losses.append(float(task.training_step(batch, torch.Generator().manual_seed(0)).loss.detach()))
        assert task.evaluate()["val_loss"] == pytest.approx(DiffusionTask(config, splits).eval().evaluate()["val_loss"])
    assert losses[1] < 0.9 * losses[0]


def test_sources_without_captions(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="has no captions; give them as"):
        DiffusionConfig(data=str(tmp_path)).open()
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(DataError, match="caption"):
        DiffusionConfig(data=str(tmp_path)).open()


def test_captions_that_the_text_encoder_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All of them: nothing could be learned; some of them: said once, with their number."""
    encoder = load_text_encoder("emoji-clip", "cpu")
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("红色的圆" if number % 2 else "蓝色的方块", encoding="utf-8")
    config = tiny_config(tmp_path, val_fraction=0)
    with pytest.raises(
        DataError,
        match="emoji-clip can read nothing of any of the 6 captions .'蓝色的方块', '红色的圆'.;.*--text-encoder",
    ):
        open_splits(config, encoder)
    assert caplog.messages == []
    (tmp_path / "0.txt").write_text("a red circle")
    (tmp_path / "2.txt").write_text("circle " * 40)
    open_splits(config, encoder)
    (message,) = caplog.messages
    assert (
        "can read nothing of 4 of 6 captions ('红色的圆', '蓝色的方块'), and reads only the first 31 tokens of 1"
        in message
    )


def test_wrong_configs() -> None:
    for options, message in (
        ({"image_size": 30}, "image_size .30. must be divisible by 16"),
        ({"image_size": 0}, "image_size"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"max_train": 0}, "max_train"),
    ):
        with pytest.raises(ConfigError, match=message):
            DiffusionConfig(**options)  # type: ignore[arg-type]
    for section, options, message in (
        (UnetConfig, {"dim": 7}, "even number"),
        (UnetConfig, {"dim_mults": ()}, "dim_mults"),
        (UnetConfig, {"uncond_prob": 2.0}, "uncond_prob"),
        (ProcessConfig, {"timesteps": 0}, "timesteps"),
        (ProcessConfig, {"min_snr_gamma": 0.0}, "min_snr_gamma"),
    ):
        with pytest.raises(ConfigError, match=message):
            section(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_configs(name: str) -> None:
    config = RECIPES[name]()
    assert from_dict(DiffusionConfig, json.loads(json.dumps(to_dict(config)))) == config


def write_table(path: Path, **changes: object) -> Path:
    content = {
        "idx_mapping": {"red": 0, "blue": 1},
        "embs": torch.randn(2, 6).half(),
        "pca_components": torch.eye(6),
        "mean": torch.zeros(6),
        **changes,
    }
    torch.save(content, path)
    return path


def test_precomputed_table(tmp_path: Path) -> None:
    encoder = load_text_encoder(str(write_table(tmp_path / "t.pt")))
    assert encoder.encode_text(["blue", "red", "blue"]).shape == (3, 6)
    torch.testing.assert_close(encoder.encode_text(["red"]).norm(), torch.tensor(1.0))
    with pytest.raises(DataError, match="did you mean 'red'"):
        encoder.encode_text(["redd"])
    arrays = write_table(tmp_path / "n.pt", embs=np.ones((2, 6), np.float16), pca_components=np.eye(6, dtype="f4"))
    assert TextTable.load(arrays).embs.dtype == torch.float32


class Hostile:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched"),))


def test_tables_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for changes, message in (
        ({"idx_mapping": Hostile()}, "was refused"),
        ({"mean": torch.zeros(5)}, "do not fit together"),
        ({"idx_mapping": {"red": 7}}, "rows of embs"),
    ):
        with pytest.raises(DataError, match=message):
            TextTable.load(write_table(tmp_path / "t.pt", **changes))
    assert not (tmp_path / "touched").exists()
    with pytest.raises(DataError, match="absent.pt cannot be read: No such file"):
        TextTable.load(tmp_path / "absent.pt")
    torch.save({"embs": torch.zeros(2)}, tmp_path / "t.pt")
    with pytest.raises(DataError, match="no table of text embeddings"):
        TextTable.load(tmp_path / "t.pt")


def test_text_encoders_that_are_none(colour_run: Run) -> None:
    with pytest.raises(CheckpointError, match="there is no model"):
        load_text_encoder("no-such-model")
    with pytest.raises(CheckpointError, match="kind 'text-diffusion'"):
        load_text_encoder(str(colour_run[0]))
