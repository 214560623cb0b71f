"""The course's training loop for image classifiers. `opsin train vit` is the one for real use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class ClassificationSolverViT:
    """Trains a classifier with Adam and cross-entropy, and tests it after every epoch.

    `results` holds the lists `train_loss`, `train_acc@1`, `test_loss` and `test_acc@1`, one entry an epoch (mean loss
    per example in nats; accuracies as fractions; the training values are taken while the weights still change), and
    after `train` also `best_test_acc`, the highest test accuracy of an epoch.
    """

    def __init__(
        self,
        train_data: Dataset,
        test_data: Dataset,
        model: nn.Module,
        *,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        batch_size: int = 64,
        num_epochs: int = 2,
    ) -> None:
        """Both data sets give (image tensor (C, H, W), integer label); `model` maps (N, C, H, W) to scores (N, K)."""
        self.model = model
        self.num_epochs = num_epochs
        self.train_loader: DataLoader = DataLoader(train_data, batch_size=batch_size, shuffle=True)
        self.test_loader: DataLoader = DataLoader(test_data, batch_size=batch_size)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self.results: dict = {"train_loss": [], "train_acc@1": [], "test_loss": [], "test_acc@1": []}

    def train(self, device: str | torch.device = "cpu") -> None:
        """Run all epochs on `device`, where the model stays; progress is shown on stderr."""
        self.model.to(device)
        for epoch in range(self.num_epochs):
            for name, loader in (("train", self.train_loader), ("test", self.test_loader)):
                loss, accuracy = self._run_epoch(loader, device, epoch, training=name == "train")
                self.results[f"{name}_loss"].append(loss)
                self.results[f"{name}_acc@1"].append(accuracy)
        self.results["best_test_acc"] = max(self.results["test_acc@1"], default=0.0)

    def _run_epoch(
        self, loader: DataLoader, device: str | torch.device, epoch: int, *, training: bool
    ) -> tuple[float, float]:
        """One pass over the data; mean loss and share of right answers."""
        self.model.train(training)
        name = "Train" if training else "Test"
        loss_sum, correct, count = 0.0, 0, 0
        with tqdm(loader) as progress, torch.set_grad_enabled(training):
            for images, labels in progress:
                images, labels = images.to(device), labels.to(device)
                scores = self.model(images)
                loss = F.cross_entropy(scores, labels)
                if training:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                loss_sum += loss.item() * len(labels)
                correct += int((scores.argmax(dim=1) == labels).sum())
                count += len(labels)
                progress.set_description(
                    # The percent sign after a fraction is the course's.
                    f"{name} Epoch: [{epoch}/{self.num_epochs}] "
                    f"Loss: {loss_sum / count:.4f} ACC@1: {correct / count:.3f}%",
                    refresh=False,
                )
        return loss_sum / count, correct / count
