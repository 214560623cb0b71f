"""What the display of progress says of a training run."""

from __future__ import annotations

from opsin.progress import ProgressDisplay, format_duration


class TrainingProgress(ProgressDisplay):
    """Shows share done, step, loss, throughput, share of time spent waiting for data, and time left."""

    def update(
        self, share: float, step: int, loss: float, samples_per_second: float, waiting: float, eta: float
    ) -> None:
        """`share` in [0, 1] of the run, `waiting` in [0, 1] of the time, `eta` in seconds."""
        status = (
            f"step {step}  loss {loss:.4f}  {samples_per_second:.0f} samples/s  "
            f"waiting for data {waiting:.0%}  left {format_duration(eta)}"
        )
        self.show(share, status, last=share >= 1)
