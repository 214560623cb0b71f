"""Judging a captioner on a dataset: its captions, their scores, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.captioning.data import CaptionDataset, all_captions
from opsin.captioning.inference import Caption, Captioner
from opsin.captioning.metrics import CaptionMetrics, caption_metrics
from opsin.runtime import autocast


@dataclass(frozen=True)
class DatasetEvaluation:
    """`captions[i]` was written about the image in row `rows[i]` of the dataset's table.

    `loss` is the mean cross-entropy in nats per token, over all captions of all images.
    """

    metrics: CaptionMetrics
    loss: float
    captions: tuple[Caption, ...]
    rows: tuple[int, ...]

    def summary(self, prefix: str) -> dict[str, float]:
        """The scores as named numbers, for logs and model cards."""
        names = ("bleu1", "bleu4", "rouge_l", "cider_d", "exact_match", "distinct_ratio")
        scores = {f"{prefix}_{name}": float(getattr(self.metrics, name)) for name in names}
        return {**scores, f"{prefix}_loss": self.loss}


@torch.no_grad()
def evaluate_dataset(
    captioner: Captioner, dataset: CaptionDataset, *, beams: int = 1, batch_size: int = 64
) -> DatasetEvaluation:
    """Caption every image and compare with all its captions. Raises DataError when no caption has a word in it."""
    captions: list[Caption] = []
    rows: list[int] = []
    loss, tokens = 0.0, 0
    for start in range(0, len(dataset), batch_size):
        batch = dataset.__getitems__(list(range(start, min(start + batch_size, len(dataset)))))
        features = captioner.encode(batch["image"] if "image" in batch else batch["feature"])
        captions += captioner.write(features, beams=beams)
        rows += batch["row"].tolist()
        every, images = all_captions(batch["captions"], batch["num_captions"])
        every, images = every.to(captioner.device), images.to(captioner.device)
        with autocast(captioner.device):
            scores = captioner.model.decoder(features[images], every[:, :-1])
        null = captioner.model.decoder.null_index
        loss += float(caption_loss(scores, every[:, 1:], null, reduction="sum"))
        tokens += int((every[:, 1:] != null).sum())
    metrics = caption_metrics([caption.text for caption in captions], [dataset.table.references(row) for row in rows])
    return DatasetEvaluation(metrics, loss / tokens, tuple(captions), tuple(rows))


def caption_loss(
    scores: Tensor, targets: Tensor, null_index: int, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of scores (N, T, V) against words (N, T), over the places that are not `<NULL>`."""
    return F.cross_entropy(
        scores.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=null_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
