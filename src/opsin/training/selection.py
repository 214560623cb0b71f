"""Which of a run's validations has the best weights, as far as its scores can tell, and how sure that is.

A score of few images moves by chance: its standard error says by how much. A difference in the monitored score decides
alone where it is larger than that error. Elsewhere the other metrics decide, as in the one-standard-error rule of
Breiman et al. (1984), and where there are none, the later validation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ERROR = "_se"
"""Ends the name of a metric that is the standard error of the one before the ending."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Criterion:
    """What the validations of a run are compared by: the monitored score and the other metrics, each with whether
    higher is better."""

    monitor: str
    higher_is_better: bool
    others: Mapping[str, bool]

    def can_use(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the validation measured the monitored score."""
        value = metrics.get(self.monitor)
        return isinstance(value, int | float) and math.isfinite(value)

    def gain(self, new: Metrics, old: Metrics) -> float:
        """By how much the score of `new` is better than that of `old`."""
        difference = new[self.monitor] - old[self.monitor]
        return difference if self.higher_is_better else -difference

    def error_of_difference(self, one: Metrics, other: Metrics) -> float:
        """Standard error of the difference between two scores; 0 where none was measured."""
        return _error_of_difference(self.monitor, one, other)

    def supersedes(self, new: Metrics, best: Metrics, top: Metrics) -> bool:
        """Whether the weights of the validation `new` take the place of the `best` so far.

        `top` is the earlier validation with the highest score. What is chosen keeps up with the highest score: it is
        behind by no more than the error of the difference, times the number of other metrics in which it is ahead.
        Among two that keep up it is the one that more of the other metrics prefer, then the one of the higher score,
        then the later one.
        """
        if self.gain(new, top) > 0:
            if self.gain(new, best) > self._votes(best, new)[0] * self.error_of_difference(best, new):
                return True
        elif self.gain(top, new) > self._votes(top, new)[1] * self.error_of_difference(top, new):
            return False
        for_best, for_new = self._votes(best, new)
        return for_new > for_best or (for_new == for_best and self.gain(new, best) >= 0)

    def _votes(self, earlier: Metrics, later: Metrics) -> tuple[int, int]:
        """In how many of the other metrics each of the two is ahead, by more than the error where that was measured.
        Without any other metric, being later counts as one."""
        common = [name for name in self.others if name in earlier and name in later and name != self.monitor]
        if not common:
            return 0, 1
        gains = [(later[name] - earlier[name]) * (1 if self.others[name] else -1) for name in common]
        errors = [_error_of_difference(name, earlier, later) for name in common]
        ahead = [gain for gain, error in zip(gains, errors, strict=True) if abs(gain) > error]
        return sum(gain < 0 for gain in ahead), sum(gain > 0 for gain in ahead)


def _error_of_difference(name: str, one: Metrics, other: Metrics) -> float:
    return math.hypot(one.get(name + ERROR, 0.0), other.get(name + ERROR, 0.0))


def error_of_share(share: float, count: int) -> float:
    """Standard error of a share of `count` samples (Agresti-Coull estimate, which is not 0 for all and for none)."""
    estimate = (share * count + 1) / (count + 2)
    return math.sqrt(estimate * (1 - estimate) / (count + 2))


def error_of_mean(values: Sequence[float]) -> float:
    """Standard error of the mean of these values; 0 of a single one, whose spread is not known."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def without_errors(metrics: Metrics) -> dict[str, float]:
    """The metrics that are no standard errors of others: the scores of a model."""
    return {name: value for name, value in metrics.items() if not name.endswith(ERROR)}


def describe_metrics(metrics: Metrics) -> str:
    """`val_accuracy 0.8750 ± 0.0565  val_loss 0.4000`: one line, with the errors beside what they belong to."""
    parts = []
    for name, value in without_errors(metrics).items():
        error = metrics.get(name + ERROR)
        parts.append(f"{name} {value:.4f}" + ("" if error is None else f" ± {error:.4f}"))
    return "  ".join(parts)


def describe_choice(rows: Sequence[Mapping[str, Any]], step: int | None, criterion: Criterion) -> str:
    """A sentence on why the weights of the validation after `step` are the best, and how sure that is.

    `rows` are those of metrics.jsonl, `step` is None where no validation measured the monitored score.
    """
    validations = {int(row["step"]): row for row in rows if criterion.can_use(row)}
    if step is None or step not in validations:
        return f"the last, for no validation measured {criterion.monitor}, which tells which ones are best"
    chosen = validations.pop(step)
    score = describe_metrics({k: v for k, v in chosen.items() if k in (criterion.monitor, criterion.monitor + ERROR)})
    if not validations:
        return f"{score} at step {step}, the only validation"
    if criterion.monitor + ERROR not in chosen:
        return f"{score} at step {step}, the best of {len(validations) + 1} validations"
    leader = max(validations.values(), key=lambda row: criterion.gain(row, chosen))
    if criterion.gain(leader, chosen) > 0:
        names = (criterion.monitor, criterion.monitor + ERROR)
        ahead = describe_metrics({name: value for name, value in leader.items() if name in names})
        return (
            f"{score} at step {step}, though {ahead} at step {int(leader['step'])} is better: the scores are too "
            "uncertain to decide alone, so the other metrics or the later step did; more validation images would tell "
            "them apart"
        )
    rivals = [
        row
        for row in validations.values()
        if abs(criterion.gain(row, chosen)) <= criterion.error_of_difference(row, chosen)
    ]
    if not rivals:
        return f"{score} at step {step}; it differs from all other validations by more than the standard error"
    others = [name for name in criterion.others if name in chosen and name != criterion.monitor]
    by = " and ".join(others) if others else "the later step"
    return (
        f"{score} at step {step}; within the standard error: {len(rivals)} of the other {len(validations)} "
        f"validations. Among them {by} decided; more validation images would tell them apart"
    )
