"""When a run ends, what it writes, and which weights it exports."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from opsin import progress
from opsin.checkpoint import load_training_state
from opsin.errors import CheckpointError, TrainingInterrupted
from opsin.training.loggers import read_metrics
from opsin.training.run_directory import write_weights
from opsin.training.trainer import Trainer
from tests.training.toy import Accident, ToyData, ToyTask, UnluckyTask, toy_config, train_toy


def train_rows(run: Path) -> list[dict]:
    return [row for row in read_metrics(run / "metrics.jsonl") if "train_loss" in row]


def validation_steps(run: Path) -> list[int]:
    return [row["step"] for row in read_metrics(run / "metrics.jsonl") if "val_loss" in row]


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 9}, 9),
        ({"max_steps": None, "epochs": 2}, 14),  # 50 samples in batches of 8: the 7th has 2
        ({"max_steps": 9, "epochs": 2}, 9),
        ({"max_steps": 90, "epochs": 1}, 7),
        ({"max_steps": 9, "max_minutes": 1000}, 9),
        ({"max_steps": None, "epochs": 3, "batch_size": 100}, 3),
    ],
)
def test_the_first_limit_ends_the_run(limits: dict, steps: int, tmp_path: Path) -> None:
    result = train_toy(tmp_path / "run", **limits)
    assert result.steps == steps
    rows = train_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert validation_steps(tmp_path / "run")[-1] == steps
    assert load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")["counters"]["step"] == steps


def test_learning_rates_are_those_of_the_formula(tmp_path: Path) -> None:
    train_toy(tmp_path / "run", max_steps=20, warmup=0.25, learning_rate=0.5)
    for row in train_rows(tmp_path / "run"):
        done = (row["step"] - 1) / 20
        factor = done / 0.25 if done < 0.25 else (1 + math.cos(math.pi * (done - 0.25) / 0.75)) / 2
        assert row["learning_rate"] == pytest.approx(0.5 * factor, abs=1e-12)


def test_a_time_budget_takes_the_learning_rate_up_and_down_to_zero(tmp_path: Path) -> None:
    result = train_toy(tmp_path / "run", max_steps=None, max_minutes=0.03, warmup=0.3, checkpoint_minutes=1)
    rows = train_rows(tmp_path / "run")
    assert result.steps == len(rows) > 5
    rates = [row["learning_rate"] for row in rows]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    # How close to zero the last one comes depends on how long a step takes here; test_schedule has the formula.
    assert rates[-1] < max(rates)
    assert validation_steps(tmp_path / "run")[-1] == result.steps
    again = train_toy(tmp_path / "run", max_steps=None, max_minutes=0.03, resume=True)
    assert again.steps == result.steps


@pytest.mark.parametrize(("validations", "expected"), [(0, [10]), (1, [10]), (2, [5, 10]), (4, [3, 5, 8, 10])])
def test_validations_are_spread_evenly(validations: int, expected: list[int], tmp_path: Path) -> None:
    train_toy(tmp_path / "run", max_steps=10, validations=validations)
    assert validation_steps(tmp_path / "run") == expected


def test_log_every(tmp_path: Path) -> None:
    train_toy(tmp_path / "run", max_steps=10, log_every=4)
    assert [row["step"] for row in train_rows(tmp_path / "run")] == [4, 8, 10]


def test_what_a_run_directory_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_toy(tmp_path / "run", max_steps=4, validations=2)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"toy": True}
    assert "torch" in json.loads((tmp_path / "run" / "environment.json").read_text())["packages"]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = train_rows(tmp_path / "run")
    points = events.Scalars("train/loss")
    assert [point.step for point in points] == [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [point.value for point in points] == pytest.approx([row["train_loss"] for row in rows])
    assert [point.step for point in events.Scalars("val/loss")] == [2, 4]
    for row in rows:
        assert row["epoch"] == pytest.approx(row["step"] / 7)
        assert row["train_error"] > 0 and row["samples_per_second"] > 0 and 0 <= row["waiting_for_data"] <= 1
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")  # quiet


def test_progress_goes_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    console = progress.ConsoleProgress()
    Trainer(toy_config(max_steps=4), tmp_path / "run", progress=console).fit(ToyTask(), ToyData(), {})
    output = capfd.readouterr()
    assert output.out == ""
    assert "training 100%  step 4" in output.err
    assert "val_loss" in output.err


def exported(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_best_and_last_weights(tmp_path: Path) -> None:
    """The second of three validations is the best: its weights are those of the run that ends there."""
    losses = [3.0, 1.0, 2.0]
    best = train_toy(tmp_path / "best", task=ToyTask(validation_losses=losses), max_steps=9)
    last = train_toy(tmp_path / "last", task=ToyTask(validation_losses=losses), max_steps=9, export="last")
    assert (best.metrics, last.metrics) == ({"val_loss": 1.0}, {"val_loss": 2.0})
    kept = load_training_state(tmp_path / "best" / "checkpoints" / "best.pt")
    assert kept["step"] == 6
    averages = load_training_state(tmp_path / "last" / "checkpoints" / "last.pt")["ema"]
    for name, tensor in exported(tmp_path / "best").items():
        assert torch.equal(tensor, kept["model"][name])
    for name, tensor in exported(tmp_path / "last").items():
        assert torch.equal(tensor, averages[name])
        assert not torch.equal(tensor, exported(tmp_path / "best")[name])
    choices = [json.loads((tmp_path / run / "weights.json").read_text()) for run in ("best", "last")]
    assert [(choice["weights"], choice["step"]) for choice in choices] == [("best", 6), ("last", 9)]
    assert [choice["choice"] for choice in choices] == [best.choice, last.choice]


@pytest.mark.parametrize("export", ["best", "last"])
@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
def test_a_run_keeps_both_weights(export: str, ema_decay: float, tmp_path: Path) -> None:
    """Either can be written afterwards, with its own scores, whichever the model has."""
    run = tmp_path / "run"
    task = ToyTask(validation_losses=[3.0, 1.0, 2.0])
    train_toy(run, task=task, max_steps=9, export=export, ema_decay=ema_decay, checkpoint_minutes=1)
    state = load_training_state(run / "checkpoints" / "last.pt")
    own = {name.removeprefix("model."): value for name, value in state["model"].items()}
    kept = {"best": load_training_state(run / "checkpoints" / "best.pt")["model"], "last": state["ema"] or own}
    for which, loss in {"best": 1.0, "last": 2.0}.items():
        written = write_weights(run, which, tmp_path / which)  # type: ignore[arg-type]
        assert (written == run / "model") == (which == export)
        tensors = load_file(written / "model.safetensors")
        assert tensors.keys() == kept[which].keys()
        assert all(torch.equal(tensor, kept[which][name]) for name, tensor in tensors.items())
        assert json.loads((written / "config.json").read_text())["metrics"] == {"val_loss": loss}


def test_weights_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="is not a run directory"):
        write_weights(run, "last", tmp_path / "none")
    with pytest.raises(TrainingInterrupted):
        train_toy(run, task=UnluckyTask(Accident(step=2, kind="SIGTERM")), max_steps=9)
    with pytest.raises(CheckpointError, match="no best weights: it was not validated yet"):
        write_weights(run, "best", tmp_path / "none")
    with pytest.raises(TrainingInterrupted):
        task = UnluckyTask(Accident(step=3, kind="SIGTERM"), validation_losses=[3.0])
        train_toy(run, task=task, max_steps=9, resume=True)
    assert not (run / "model").exists()
    best = write_weights(run, "best", tmp_path / "best")
    last = write_weights(run, "last", tmp_path / "last")
    assert json.loads((best / "config.json").read_text())["metrics"] == {"val_loss": 3.0}
    assert json.loads((last / "config.json").read_text())["metrics"] == {}  # nothing was measured after step 5
    averages = load_training_state(run / "checkpoints" / "last.pt")["ema"]
    assert torch.equal(load_file(last / "model.safetensors")["3.bias"], averages["3.bias"])


def test_a_higher_metric_can_be_the_better_one(tmp_path: Path) -> None:
    task = ToyTask(validation_losses=[1.0, 3.0, 2.0])
    task.higher_is_better = True
    assert train_toy(tmp_path / "run", task=task, max_steps=9).metrics == {"val_loss": 3.0}


@pytest.mark.parametrize("losses", [(3.0, 1.0, 2.0), (3.0, 2.0, 1.0)])
def test_equals_in_the_monitor_are_told_apart_by_the_loss(tmp_path: Path, losses: tuple[float, ...]) -> None:
    class TiedTask(ToyTask):
        monitor = "val_score"
        higher_is_better = True

        def evaluate(self) -> dict[str, float]:
            return {"val_score": 0.0, **super().evaluate()}

    result = train_toy(tmp_path / "run", task=TiedTask(validation_losses=losses), max_steps=9)
    assert result.metrics == {"val_score": 0.0, "val_loss": 1.0}
    kept = load_training_state(tmp_path / "run" / "checkpoints" / "best.pt")
    assert kept["step"] == 3 * (losses.index(1.0) + 1)


def test_without_validation_data_the_last_weights_are_exported(tmp_path: Path) -> None:
    class Unjudged(ToyTask):
        def evaluate(self) -> dict[str, float]:
            return {}

    result = train_toy(tmp_path / "run", task=Unjudged(), max_steps=3, ema_decay=0.0)
    assert result.metrics == {}
    weights = load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    for name, tensor in exported(tmp_path / "run").items():
        assert torch.equal(tensor, weights[f"model.{name}"])


def test_averaged_weights_follow_the_formula(tmp_path: Path) -> None:
    """Every weight of a run, averaged by a loop over numbers."""

    class Recording(ToyTask):
        def training_step(self, batch, generator):  # type: ignore[no-untyped-def]
            weights.append(self.model[3].bias.detach().tolist())
            return super().training_step(batch, generator)

    weights: list[list[float]] = []
    train_toy(tmp_path / "run", task=Recording(), max_steps=12, ema_decay=0.5)
    state = load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")
    weights.append(state["model"]["model.3.bias"].tolist())
    average = weights[0]
    for step, new in enumerate(weights[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = [decay * old + (1 - decay) * value for old, value in zip(average, new, strict=True)]
    assert state["ema"]["3.bias"].tolist() == pytest.approx(average, rel=1e-5)


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """AdamW does not see the scale of the gradient, so look at the gradient itself."""
    task = ToyTask()
    train_toy(tmp_path / "run", task=task, max_steps=1, grad_clip=0.01)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in task.parameters()))  # type: ignore[union-attr]
    assert train_rows(tmp_path / "run")[0]["train_grad_norm"] > 1
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_it_learns(tmp_path: Path) -> None:
    result = train_toy(tmp_path / "run", max_steps=200, learning_rate=0.02, checkpoint_minutes=1)
    rows = train_rows(tmp_path / "run")
    assert result.metrics["val_loss"] < 0.1 * rows[0]["train_loss"]


def test_convolutional_networks_run_channels_last(tmp_path: Path) -> None:
    class Images(ToyData):
        def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
            rows = super().__getitems__(indices)
            return {"x": rows["x"].view(-1, 2, 2, 2), "y": rows["y"]}

    task = ToyTask(noise=0.0)
    task.model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten())
    task.validation.x = task.validation.x.view(-1, 2, 2, 2)
    trainer = Trainer(toy_config(max_steps=2, export="last"), tmp_path / "run")
    trainer.fit(task, Images(), {})
    assert task.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert exported(tmp_path / "run")["1.num_batches_tracked"] == 2
