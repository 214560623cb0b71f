"""The course's training loop for the captioning transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icv83551.coco_utils import sample_coco_minibatch


class CaptioningSolverTransformer:
    """Adam on random minibatches of the training captions; `loss_history` has the loss of each step."""

    def __init__(
        self,
        model: nn.Module,
        data: dict[str, Any],
        idx_to_word: Sequence[str],
        *,
        learning_rate: float = 0.001,
        batch_size: int = 100,
        num_epochs: int = 10,
        print_every: int = 10,
        verbose: bool = True,
    ) -> None:
        """`data` is what `load_coco_data` gives. With `verbose`, every `print_every`-th loss is printed."""
        self.model = model
        self.data = data
        self.idx_to_word = idx_to_word
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.print_every = print_every
        self.verbose = verbose
        self.optim = torch.optim.Adam(model.parameters(), lr=learning_rate)
        self.loss_history: list[float] = []

    def train(self) -> None:
        """As many steps as `num_epochs` passes over the training captions take; an incomplete last batch is no step."""
        steps = self.num_epochs * max(len(self.data["train_captions"]) // self.batch_size, 1)
        for step in range(steps):
            self._step()
            if self.verbose and step % self.print_every == 0:
                print(f"(Iteration {step + 1} / {steps}) loss: {self.loss_history[-1]:.6f}")

    def transformer_temporal_softmax_loss(self, scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of scores (N, T, V) against words (N, T) where `mask` is true, divided by N * T."""
        losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses * mask.flatten()).mean()

    def _step(self) -> None:
        captions, features, _ = sample_coco_minibatch(self.data, self.batch_size, "train")
        device = next(self.model.parameters()).device
        words = torch.from_numpy(captions.astype(np.int64)).to(device)
        targets = words[:, 1:]
        scores = self.model(torch.from_numpy(features).to(device), words[:, :-1])
        loss = self.transformer_temporal_softmax_loss(scores, targets, targets != self.data["word_to_idx"]["<NULL>"])
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        self.loss_history.append(loss.item())
