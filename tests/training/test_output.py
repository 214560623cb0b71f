"""metrics.jsonl, and signals."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from opsin.errors import CheckpointError
from opsin.training.failures import StopSignals
from opsin.training.loggers import MetricsLog, read_metrics, wandb_id


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.write(step, {"train_loss": step / 10})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "train_l')  # killed while writing
    with MetricsLog(tmp_path, start_step=2) as log:
        log.write(3, {"train_loss": 9.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train_loss": 0.1},
        {"step": 2, "train_loss": 0.2},
        {"step": 3, "train_loss": 9.0},
    ]


def test_damaged_rows_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    damaged = [
        b"",
        b"\xff\xfe{}",
        b"[1]",
        b'{"train_loss": 1.0}',
        b'{"step": "2"}',
        b'{"step": 1, "x": {}}',
        b"[" * 9999,
    ]
    path.write_bytes(
        b"\n".join([b'{"step": 1, "train_loss": 0.5}', *damaged, b'{"step": 2, "train_loss": 0.25}', b'{"st'])
    )
    rows = [{"step": 1, "train_loss": 0.5}, {"step": 2, "train_loss": 0.25}]
    assert read_metrics(path) == rows
    assert caplog.messages == [
        f"{path} is damaged: 7 of its 10 lines are no metrics and are left out, the first is line 2"
    ]
    with MetricsLog(tmp_path, start_step=2):
        pass
    assert read_metrics(path) == rows and len(path.read_bytes().splitlines()) == 2
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="metrics.jsonl cannot be read"):
        read_metrics(path)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file, where the events should go")
    with pytest.raises(CheckpointError, match="the metrics in .* cannot be written"), MetricsLog(tmp_path):
        pass


def test_a_run_keeps_its_wandb_id_and_shares_it_with_no_other(tmp_path: Path) -> None:
    runs = [tmp_path / parent / "run" for parent in ("one", "two")]
    ids = [wandb_id(run) for run in runs]
    assert ids[0] != ids[1]
    assert [wandb_id(run) for run in runs] == ids


def test_metrics_of_no_run() -> None:
    assert read_metrics(Path("does not exist")) == []


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(1, {"train_loss": 0.5})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "train_loss": 0.5}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_and_the_next_one_acts_as_usual(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = []
    previous = signal.signal(number, lambda *_: calls.append(1))
    try:
        with StopSignals(announce=True) as signals:
            assert signals.received == 0
            os.kill(os.getpid(), number)
            assert (signals.received, calls) == (number, [])
            answer = "stopping after this step" + (
                "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            )
            assert capfd.readouterr().err == answer + "\n"
            os.kill(os.getpid(), number)
            assert calls == [1]
        os.kill(os.getpid(), number)
        assert calls == [1, 1]
    finally:
        signal.signal(number, previous)


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    seen = []

    def body() -> None:
        with StopSignals() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [0]
