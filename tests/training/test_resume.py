"""A run that is stopped, by whatever means, and resumed ends with exactly the weights of one that was not."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opsin.checkpoint import load_training_state
from opsin.errors import TrainingInterrupted
from opsin.training.loggers import read_metrics
from opsin.training.task import Batch, StepOutput
from tests.training.launch import run_toy
from tests.training.toy import Accident, ToyTask, UnluckyTask, train_toy

STEPS = 15
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"max_steps": STEPS, "samples": 30},
    "accumulate": {"max_steps": STEPS, "samples": 30, "accumulate": 4},
    "workers": {"max_steps": STEPS, "samples": 30, "workers": 2},
    "last": {"max_steps": STEPS, "samples": 30, "ema_decay": 0.0, "export": "last", "grad_clip": 0.0},
    "sparse": {"max_steps": STEPS, "samples": 30, "checkpoint_minutes": 1000.0},
}
TIMES = {"seconds", "samples_per_second", "waiting_for_data"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each variant that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    for name, options in VARIANTS.items():
        assert run_toy(folder / name, **options).exit_code == 0
    return {name: folder / name for name in VARIANTS}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For runs in this process: those in others have been forked, and compute on a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_without_times(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(run / "metrics.jsonl")
    ]


def flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = {f"{prefix}/{key}": inner for key, inner in value.items()}
    elif isinstance(value, (list, tuple)):
        items = {f"{prefix}/{index}": inner for index, inner in enumerate(value)}
    else:
        return {prefix: value}
    return {key: leaf for name, inner in items.items() for key, leaf in flat(inner, name).items()}


def assert_same_run(run: Path, expected: Path) -> None:
    """Model, moving average, optimiser, counters, metrics, best weights and exported model are the same bits."""
    for name in ("last.pt", "best.pt"):
        if not (expected / "checkpoints" / name).exists():
            assert not (run / "checkpoints" / name).exists()
            continue
        left, right = (flat(load_training_state(path / "checkpoints" / name)) for path in (run, expected))
        assert left.keys() == right.keys()
        for key, value in right.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(left[key], value), key
            elif not key.endswith(("seconds", "paused", "slowest_validation")):
                assert left[key] == value, key
    weights = Path("model", "model.safetensors")
    assert (run / weights).read_bytes() == (expected / weights).read_bytes()
    assert rows_without_times(run) == rows_without_times(expected)


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.rglob("*.tmp")]


@pytest.mark.parametrize("step", [1, 2, 6, 8, STEPS])
def test_killed_at_a_step(step: int, straight: dict[str, Path], tmp_path: Path) -> None:
    killed = run_toy(tmp_path / "run", **VARIANTS["plain"], accident={"step": step})
    assert killed.exit_code == -signal.SIGKILL
    assert not (tmp_path / "run" / "model").exists()
    assert run_toy(tmp_path / "run", **VARIANTS["plain"], resume=True).exit_code == 0
    assert_same_run(tmp_path / "run", straight["plain"])


@pytest.mark.parametrize("before", ["fsync", "replace"])
@pytest.mark.parametrize("save", [1, 9, STEPS])
def test_killed_during_a_save(before: str, save: int, straight: dict[str, Path], tmp_path: Path) -> None:
    """The new state is in a temporary file, whole or not; what counts is the one before."""
    run = tmp_path / "run"
    killed = run_toy(run, **VARIANTS["plain"], accident={"save": save, "before": before})
    assert killed.exit_code == -signal.SIGKILL
    assert len(leftovers(run)) == 1
    if save == 1:
        assert not (run / "checkpoints" / "last.pt").exists()
    else:
        counters = load_training_state(run / "checkpoints" / "last.pt")["counters"]
        assert counters["step"] == save - 1
    assert run_toy(run, **VARIANTS["plain"], resume=True).exit_code == 0
    assert leftovers(run) == []
    assert_same_run(run, straight["plain"])


@pytest.mark.parametrize("variant", ["accumulate", "workers", "last", "sparse"])
def test_killed_twice_in_other_kinds_of_runs(variant: str, straight: dict[str, Path], tmp_path: Path) -> None:
    options = VARIANTS[variant]
    calls_per_step = int(str(options.get("accumulate", 1)))
    accident = {"step": 4 * calls_per_step}
    assert run_toy(tmp_path / "run", **options, accident=accident).exit_code == -signal.SIGKILL
    assert run_toy(tmp_path / "run", **options, accident=accident, resume=True).exit_code == -signal.SIGKILL
    assert run_toy(tmp_path / "run", **options, resume=True).exit_code == 0
    assert_same_run(tmp_path / "run", straight[variant])


class CannotDraw(ToyTask):
    """The validation after a step ends in an error."""

    def __init__(self, failing_step: int) -> None:
        super().__init__()
        self.failing_step = failing_step

    def save_samples(self, directory: Path, step: int) -> None:
        if step == self.failing_step:
            raise ZeroDivisionError


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("failing_step", [10, STEPS])
@pytest.mark.parametrize("variant", ["sparse", "last"])
def test_a_validation_that_fails_loses_no_step(
    failing_step: int, variant: str, straight: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = {**VARIANTS[variant], "checkpoint_minutes": 1000.0}
    with pytest.raises(ZeroDivisionError):
        train_toy(run, task=CannotDraw(failing_step), **options)
    assert load_training_state(run / "checkpoints" / "last.pt")["counters"]["step"] == failing_step
    train_toy(run, resume=True, **options)
    assert_same_run(run, straight[variant])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("variant", ["sparse", "workers"])
def test_asked_to_stop(name: str, variant: str, straight: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = run_toy(run, **VARIANTS[variant], accident={"step": 7, "kind": name})
    assert stopped.exit_code == 128 + getattr(signal, name)
    assert "Traceback" not in stopped.stderr
    # The last line: on a single core torch warns of the number of workers before it.
    assert stopped.stderr.splitlines()[-1] == (
        f"TrainingInterrupted: stopped by {name} after step 7; the state is saved in {run}, continue with --resume"
    )
    assert load_training_state(run / "checkpoints" / "last.pt")["counters"]["step"] == 7
    assert run_toy(run, **VARIANTS[variant], resume=True).exit_code == 0
    assert_same_run(run, straight[variant])


def test_the_best_weights_keep_their_own_metrics(tmp_path: Path) -> None:
    """The weights of the second sitting are the best, and it ends before it saves its state; the third sitting, as it
    may under a time budget, validates at other points and finds nothing as good."""

    class Failing(ToyTask):
        def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
            if self.calls == 4:
                raise ZeroDivisionError
            return super().training_step(batch, generator)

    run = tmp_path / "run"
    options = {"max_steps": 9, "checkpoint_minutes": 1000.0}
    with pytest.raises(TrainingInterrupted, match="after step 4"):
        train_toy(run, task=UnluckyTask(Accident(step=4, kind="SIGTERM"), validation_losses=[3.0]), **options)
    with pytest.raises(ZeroDivisionError):
        train_toy(run, task=Failing(validation_losses=[1.0]), resume=True, **options)
    best = load_training_state(run / "checkpoints" / "best.pt")
    assert (best["step"], best["metrics"]) == (6, {"val_loss": 1.0})
    result = train_toy(run, task=ToyTask(validation_losses=[4.0, 5.0]), resume=True, **options)
    assert result.metrics == {"val_loss": 1.0}
    exported = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(tensor, best["model"][name]) for name, tensor in exported.items())


def test_asked_to_stop_in_the_last_step(straight: dict[str, Path], tmp_path: Path) -> None:
    stopped = run_toy(tmp_path / "run", **VARIANTS["plain"], accident={"step": STEPS, "kind": "SIGTERM"})
    assert stopped.exit_code == 143
    assert run_toy(tmp_path / "run", **VARIANTS["plain"], resume=True).exit_code == 0
    assert_same_run(tmp_path / "run", straight["plain"])


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    first = train_toy(tmp_path / "run", max_steps=4)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = train_toy(tmp_path / "run", max_steps=4, resume=True)
    assert (again.steps, again.metrics) == (first.steps, first.metrics)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == rows


def test_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    train_toy(tmp_path / "run", max_steps=4, validations=4)
    longer = train_toy(tmp_path / "run", max_steps=12, validations=4, resume=True)
    assert longer.steps == 12
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train_loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "val_loss" in row] == [1, 2, 3, 4, 6, 9, 12]


def test_weights_are_judged_once_more_when_the_end_moves_closer(tmp_path: Path) -> None:
    """The exported metrics belong to the exported weights even where the resumed run has no step left."""
    run_toy(tmp_path / "run", max_steps=100, validations=1, accident={"step": 5, "kind": "SIGTERM"})
    result = train_toy(tmp_path / "run", max_steps=5, validations=1, export="last", resume=True)
    assert result.steps == 5
    exported = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert exported["metrics"] == result.metrics
    assert result.metrics["val_loss"] > 0
