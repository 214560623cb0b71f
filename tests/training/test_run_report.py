"""The page that shows a training run: done, stopped, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from opsin.cli.main import main
from opsin.errors import CheckpointError, TrainingInterrupted
from opsin.training.curves import course_curves, score_curves
from opsin.training.loggers import tensorboard_command, tensorboard_tag
from opsin.training.run_directory import RunDirectory
from opsin.training.run_report import run_report
from tests.html_page import Page, assert_sound
from tests.training.toy import Accident, ToyTask, UnluckyTask, train_toy


class DrawingTask(ToyTask):
    def save_samples(self, directory: Path, step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (step, 0, 0)).save(directory / f"step-{step:07d}.png")


def page_of(run: Path) -> Page:
    page = Page(run_report(RunDirectory(run)).write(run / "report.html"))
    assert_sound(page)
    return page


def test_a_run_that_is_done(tmp_path: Path) -> None:
    run = tmp_path / "a <run> & more"
    task = DrawingTask(validation_losses=[3.0, 1.0, 2.0])
    result = train_toy(run, task=task, max_steps=9)
    (run / "samples" / "step-0000003.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    page = page_of(run)
    assert page.texts["h1"] == ["Training run a <run> & more"]
    assert page.texts["h2"] == ["Result", "Curves", "Samples", "Settings"]
    assert f"The model has the best weights: {result.choice}." in page.texts["p"]
    assert "1.0000" in page.texts["td"]
    captions = page.texts["figcaption"]
    assert len(page.images) == len(captions) == 4
    assert captions[2:] == ["After step 6.", "After step 9."]


def test_a_run_that_was_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="holds no run"):
        run_report(RunDirectory(run))
    with pytest.raises(TrainingInterrupted):
        task = UnluckyTask(Accident(step=5, kind="SIGTERM"), validation_losses=[3.0])
        train_toy(run, task=task, max_steps=9)
    page = page_of(run)
    assert page.texts["h2"] == ["Result", "Curves", "Settings"]
    assert any("has not ended" in text and "after step 3" in text for text in page.texts["p"])
    assert "3.0000" in page.texts["td"]
    (run / "metrics.jsonl").unlink()
    assert page_of(run).texts["h2"] == ["Result", "Settings"]
    (run / "environment.json").write_text("{")
    with pytest.raises(CheckpointError, match="environment.json is not valid JSON"):
        page_of(run)


def test_curves_name_what_they_show() -> None:
    rows = [
        {"step": 2, "train_loss": 3.0, "learning_rate": 0.1, "seconds": 1.0},
        {"step": 2, "val_recall_at_1": 0.1, "val_recall_at_5": 0.4, "val_recall_at_5_se": 0.1, "val_loss": 2.0},
        {"step": 4, "val_recall_at_1": 0.2, "val_recall_at_5": 0.5, "val_recall_at_5_se": 0.1, "val_loss": 1.0},
    ]
    figure = score_curves(rows, chosen=4)
    assert figure is not None
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert panels.keys() == {"recall at", "loss"}
    legends = {title: axes.get_legend_handles_labels()[1] for title, axes in panels.items()}
    chosen = "weights of the model, step 4"
    assert legends["loss"] == ["held-out images", "training batches", chosen]
    assert legends["recall at"] == ["held-out images, 1", "held-out images, 5", "standard error", chosen]
    assert all(axes.get_xlabel() == "optimizer step" for axes in figure.axes)
    assert list(panels["loss"].lines[0].get_ydata()) == [2.0, 1.0]
    course = course_curves(rows)
    assert course is not None and [axes.get_title() for axes in course.axes] == ["learning rate"]
    assert score_curves([]) is None and course_curves([{"step": 1, "val_loss": 1.0}]) is None


def test_tensorboard_has_groups_and_names(tmp_path: Path) -> None:
    names = ("train_loss", "val_recall_at_1", "seen_loss_t3", "learning_rate", "epoch")
    tags = ["train/loss", "val/recall_at_1", "seen/loss_t3", "run/learning_rate", "run/epoch"]
    assert [tensorboard_tag(name) for name in names] == tags
    assert tensorboard_command(RunDirectory("runs/my photos")) == (
        "tensorboard --logdir_spec 'my photos:runs/my photos/tensorboard'"
    )
    assert tensorboard_command(RunDirectory("a,b")) == "tensorboard --logdir a,b/tensorboard"


def test_the_command_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_toy(tmp_path / "run", max_steps=2)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "page.html")}
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
