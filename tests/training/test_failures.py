"""What goes wrong in a run costs no more than the steps since the last save, and is said in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from opsin.checkpoint import load_training_state, save_training_state
from opsin.errors import CheckpointError, ConfigError, DataError, TrainingError, TrainingInterrupted
from opsin.training.loggers import read_metrics
from opsin.training.run_directory import RunDirectory
from opsin.training.task import Batch, StepOutput
from opsin.training.trainer import Trainer
from tests.training.launch import run_toy
from tests.training.toy import Accident, ToyData, ToyTask, UnluckyTask, toy_config, train_toy


def saved_step(run: Path) -> int:
    return int(load_training_state(run / "checkpoints" / "last.pt")["counters"]["step"])


def last_weights_are_finite(run: Path) -> bool:
    state = load_training_state(run / "checkpoints" / "last.pt")
    return all(bool(tensor.isfinite().all()) for part in ("model", "ema") for tensor in state[part].values())


# ------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("nan", {}, r"the loss became nan at step 9 \(epoch 2, batch 2\)"),
        ("nan", {"precision": "bf16"}, r"the loss became nan at step 9 \(epoch 2, batch 2\)"),
        ("nan", {"accumulate": 2}, r"the loss became nan at step 5 \(epoch 1, batch 5\)"),
        ("nan", {"log_every": 1000, "grad_clip": 0.0}, r"the loss became nan at step 9 \(epoch 2, batch 2\)"),
        ("infinite_gradient", {}, r"the norm of the gradient became (nan|inf) at step 9 \(epoch 2, batch 2\)"),
        ("infinite_gradient", {"grad_clip": 0.0}, r"the norm of the gradient became (nan|inf) at step 9"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run(kind: str, options: dict, message: str, tmp_path: Path) -> None:
    """The weights on disk are those from before it, even though the state is saved after every step."""
    task = UnluckyTask(Accident(step=9, kind=kind))
    with pytest.raises(TrainingError, match=message) as caught:
        train_toy(tmp_path / "run", task=task, **options)
    assert "last.pt" in str(caught.value)
    assert saved_step(tmp_path / "run") == (4 if "accumulate" in options else 8)
    assert last_weights_are_finite(tmp_path / "run")
    assert all(bool(parameter.isfinite().all()) for parameter in task.parameters())
    assert not (tmp_path / "run" / "model").exists()
    result = train_toy(tmp_path / "run", resume=True, **options)
    assert result.steps == 30


def test_the_message_says_when_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no state was saved yet"):
        train_toy(tmp_path / "run", task=UnluckyTask(Accident(step=1, kind="nan")))


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = ToyTask(validation_losses=[float("nan"), 2.0, float("-inf")])
    result = train_toy(tmp_path / "run", task=task)
    assert result.metrics == {"val_loss": 2.0}
    assert "val_loss is not finite" in caplog.text
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_without_any_finite_validation_the_last_weights_are_exported(tmp_path: Path) -> None:
    result = train_toy(tmp_path / "run", task=ToyTask(validation_losses=[float("nan")] * 3))
    assert result.metrics == {}
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


# -------------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize(
    ("log_every", "hidden", "file"), [(1, 32, "metrics"), (1000, 32, "last.pt"), (1000, 999, "last.pt")]
)
def test_a_full_disk_keeps_the_previous_state(log_every: int, hidden: int, file: str, tmp_path: Path) -> None:
    """The first thing that cannot be written is the log, or with fewer rows in it the state, at its end or, where it is
    large, in torch's midst."""
    run = tmp_path / "run"
    options = {"max_steps": 12, "log_every": log_every, "task": {"hidden": hidden}}
    full = run_toy(run, **options, accident={"step": 6, "kind": "full_disk"})
    assert full.exit_code == 1
    assert len(full.stderr.splitlines()) == 1
    assert full.stderr.startswith("CheckpointError: the disk is full: ")
    assert file in full.stderr and "File too large" in full.stderr and "unexpected pos" not in full.stderr
    assert f"The state after step 5 is kept in {run}; continue with --resume" in full.stderr
    assert saved_step(run) == 5
    assert list(run.rglob("*.tmp")) == []
    assert run_toy(run, **options, resume=True).exit_code == 0
    assert run_toy(tmp_path / "straight", **options).exit_code == 0
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (run, tmp_path / "straight")]
    assert weights[0] == weights[1]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="cannot be used as the run directory"):
            train_toy(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be used as the run directory"):
        train_toy(tmp_path / "run")


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run").locked(resume=False):
        second = run_toy(tmp_path / "run", max_steps=3)
        with pytest.raises(ConfigError, match="another process is training"):
            train_toy(tmp_path / "run", max_steps=3)
    assert second.exit_code == 1
    assert second.stderr.splitlines() == [
        f"ConfigError: another process is training into {tmp_path / 'run'}; wait for it, or choose another --out"
    ]
    assert train_toy(tmp_path / "run", max_steps=3).steps == 3


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    assert run_toy(tmp_path / "run", accident={"step": 2}).exit_code == -signal.SIGKILL
    assert (tmp_path / "run" / ".lock").exists()
    assert train_toy(tmp_path / "run", resume=True).steps == 30


def test_a_run_is_not_begun_on_top_of_another(tmp_path: Path) -> None:
    train_toy(tmp_path / "run", max_steps=2)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.pt")}
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        train_toy(tmp_path / "run", max_steps=2)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.pt")} == before


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run to continue"):
        train_toy(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_only_leftovers_of_the_run_itself_are_removed(tmp_path: Path) -> None:
    """Another run may be going on below, and the directory may hold what others have put there."""
    own = [
        ".config.json.1.tmp",
        "checkpoints/.last.pt.1.tmp",
        "samples/.step-3.png.1.tmp",
        ".model.1.tmp/model.safetensors",
    ]
    others = [".notes.tmp", "checkpoints/.mine.tmp", "second/checkpoints/.last.pt.2.tmp", "second/.model.2.tmp/x"]
    for name in own + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    train_toy(tmp_path, max_steps=1)
    assert [name for name in own + others if (tmp_path / name).exists()] == others
    assert not (tmp_path / ".model.1.tmp").exists()


# -------------------------------------------------------------------------------- data that cannot be read


class PatchyData(ToyData):
    """Cannot read its first samples, as a data set whose files went missing; keeps the row of every batch it gave."""

    def __init__(self, unreadable: int) -> None:
        super().__init__(20)
        self.unreadable = unreadable
        self.given: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        readable = [index for index in indices if index >= self.unreadable]
        if not readable:
            raise DataError(f"sample {indices[0]} cannot be read")
        self.given.append(readable)
        return super().__getitems__(readable)


def test_a_batch_that_cannot_be_read_does_not_end_the_run(tmp_path: Path) -> None:
    """The next sample that can be read takes its place."""
    data = PatchyData(unreadable=12)
    trainer = Trainer(toy_config(max_steps=20, batch_size=1), tmp_path / "run")
    assert trainer.fit(ToyTask(), data, {}).steps == 20
    counts = [data.given.count([index]) for index in range(20)]
    assert counts == [0] * 12 + [13] + [1] * 7


def test_data_of_which_nothing_can_be_read_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Trainer(toy_config(), tmp_path / "run").fit(ToyTask(), PatchyData(unreadable=20), {})


class DeadlyData(ToyData):
    """The worker process that reads the sixth batch is killed, as by a system that is out of memory."""

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        if get_worker_info() is not None and self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_worker_is_said_to_be_one(tmp_path: Path) -> None:
    trainer = Trainer(toy_config(workers=1, max_steps=9), tmp_path / "run")
    with pytest.raises(TrainingError) as caught:
        trainer.fit(ToyTask(), DeadlyData(), {})
    message = (
        r"a data-loading worker (was killed \(Killed\)|ended unexpectedly), probably out of memory; use fewer --workers"
    )
    assert re.match(message, str(caught.value))
    assert f"is kept in {tmp_path / 'run'}; continue with --resume" in str(caught.value)
    subprocess.run(["true"], check=True)  # the end of another child is no error of the lost one's again
    trainer = Trainer(toy_config(max_steps=9), tmp_path / "run")
    assert trainer.fit(ToyTask(), DeadlyData(), {}, resume=True).steps == 9


# -------------------------------------------------------------------------------- states that do not fit


def refused(run: Path, message: str, **options: object) -> None:
    """Resuming fails with the message, and changes neither the state nor the config of the run."""
    before = [(run / name).read_bytes() for name in ("config.json", "checkpoints/last.pt", "metrics.jsonl")]
    with pytest.raises(CheckpointError, match=message):
        train_toy(run, resume=True, **options)
    assert [(run / name).read_bytes() for name in ("config.json", "checkpoints/last.pt", "metrics.jsonl")] == before


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_toy(run, max_steps=2)
    last = run / "checkpoints" / "last.pt"
    good = load_training_state(last)
    refused(run, "belong to another model: 3 tensors differ", task=ToyTask(hidden=16))
    refused(run, r"written with averaged weights \(ema_decay\)", ema_decay=0.0)

    for name in ("model", "optimizer", "ema", "precision", "counters"):
        save_training_state(last, {key: value for key, value in good.items() if key != name})
        refused(run, f"it has no '{name}'")
    for part in ("model", "ema"):
        weights = dict(good[part])
        weights.popitem()
        save_training_state(last, {**good, part: weights})
        refused(run, "belong to another model" if part == "model" else "averaged weights differ")
    for part, name in (("model", "model.3.bias"), ("ema", "3.bias")):
        for value in (float("nan"), float("inf")):
            save_training_state(last, {**good, part: {**good[part], name: good[part][name] * value}})
            refused(run, f"last.pt are damaged, or .*: 1 of 4 tensors holds NaN or Inf, the first is {name}")
    save_training_state(last, {**good, "counters": {**good["counters"], "stepp": 1}})
    refused(run, "did you mean 'step'")
    save_training_state(last, {**good, "optimizer": {"state": {}, "param_groups": []}})
    refused(run, "does not fit this run")
    last.write_bytes(last.read_bytes()[:-100])
    refused(run, "last.pt")


# ---------------------------------------------------------------------------------- the caller's process


class FailingTask(ToyTask):
    """Fails in its second validation."""

    def evaluate(self) -> dict[str, float]:
        if self.calls > 15:
            raise ZeroDivisionError("in evaluate")
        return super().evaluate()


def test_an_exception_leaves_everything_in_order(tmp_path: Path) -> None:
    """Lock, signal handlers and random numbers are as before; the model has its own weights, not the averaged ones."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    task = FailingTask()
    with pytest.raises(ZeroDivisionError):
        train_toy(tmp_path / "run", task=task)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.equal(torch.get_rng_state(), state)
    # The state was saved after the last step, before the validation that failed.
    assert saved_step(tmp_path / "run") == task.calls
    result = train_toy(tmp_path / "run", resume=True)
    straight = train_toy(tmp_path / "straight")
    assert result.metrics == straight.metrics


def test_a_finished_run_leaves_everything_in_order(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    state = torch.get_rng_state()
    task = ToyTask()
    train_toy(tmp_path / "run", task=task)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.equal(torch.get_rng_state(), state)
    model = load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    assert all(torch.equal(tensor, model[name]) for name, tensor in task.state_dict().items())


def test_the_callers_random_numbers_do_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(1)
    train_toy(tmp_path / "one", max_steps=5)
    torch.manual_seed(2)
    train_toy(tmp_path / "two", max_steps=5)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    train_toy(tmp_path / "three", max_steps=5, seed=1)
    assert (tmp_path / "three" / "model" / "model.safetensors").read_bytes() != weights[0]


def test_no_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training data"):
        Trainer(toy_config(), tmp_path / "run").fit(ToyTask(), ToyData(0), {})
    assert not (tmp_path / "run").exists()


class Impatient(ToyTask):
    """Ctrl-C is pressed twice in the fifth step."""

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        if self.calls == 4:
            signal.raise_signal(signal.SIGINT)  # unlike a signal from outside, handled before the second one
            signal.raise_signal(signal.SIGINT)
        return super().training_step(batch, generator)


def test_a_second_interrupt_stops_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingInterrupted) as caught:
        train_toy(tmp_path / "run", task=Impatient())
    assert caught.value.exit_code == 130
    assert str(caught.value) == (
        f"stopped at once; the state after step 4 is kept in {tmp_path / 'run'}; continue with --resume"
    )
    assert capfd.readouterr().err == "stopping after this step; press Ctrl-C again to stop now\n"
    assert saved_step(tmp_path / "run") == 4
    train_toy(tmp_path / "run", resume=True)
    train_toy(tmp_path / "straight")
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "straight")]
    assert weights[0] == weights[1]


def test_an_interrupted_run_in_the_same_process_can_be_resumed(tmp_path: Path) -> None:
    """As in a notebook: the signal becomes an exception with the exit code, and the next call goes on."""
    with pytest.raises(TrainingInterrupted, match="SIGINT after step 3") as caught:
        train_toy(tmp_path / "run", task=UnluckyTask(Accident(step=3, kind="SIGINT")))
    assert caught.value.exit_code == 130
    train_toy(tmp_path / "run", resume=True)
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train_loss" in row]
    assert steps == list(range(1, 31))
