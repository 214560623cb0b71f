"""The notebook's section 11: one batch learnt by heart, then the solver."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

from icv83551.classification_solver_vit import ClassificationSolverViT
from icv83551.classifiers.transformer import VisionTransformer


def test_overfits_one_batch() -> None:
    """The cell says: you should get perfect 1.00 accuracy. Its learning rate of 1e-4, to be tuned, ended at 0.28."""
    torch.manual_seed(231)
    images, target = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))
    model = VisionTransformer(dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(100):
        out = model(images)
        loss = nn.functional.cross_entropy(out, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        top1 = (out.argmax(-1) == target).float().mean().item()
        if top1 == 1.0:
            break
    assert top1 == 1.0


class Coloured(Dataset):
    """As torchvision's data sets: (image tensor, int label). One colour channel a class, with noise over it."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(3, (count,), generator=generator).tolist()
        self.images = torch.rand(count, 3, 8, 8, generator=generator) / 2
        for image, label in zip(self.images, self.labels, strict=True):
            image[label] += 0.5

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def tiny_vit() -> VisionTransformer:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=16, num_layers=1, num_heads=2, num_classes=3)


def test_solver_learns_and_reports(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal would cut the progress text
    torch.manual_seed(0)
    solver = ClassificationSolverViT(
        train_data=Coloured(150, 0),
        test_data=Coloured(45, 1),
        model=tiny_vit(),
        num_epochs=3,
        learning_rate=1e-2,
        weight_decay=1e-4,
        batch_size=16,
    )
    assert solver.train("cpu") is None
    results = solver.results
    assert set(results) == {"train_loss", "train_acc@1", "test_loss", "test_acc@1", "best_test_acc"}
    accuracies = results["train_acc@1"] + results["test_acc@1"]
    assert len(results["train_loss"]) == len(results["test_loss"]) == 3
    assert len(accuracies) == 6
    assert all(0 <= value <= 1 for value in accuracies)
    assert results["best_test_acc"] == max(results["test_acc@1"]) > 0.9
    assert results["test_loss"][-1] < 0.5 < results["train_loss"][0]

    printed = capsys.readouterr()
    assert printed.out == ""
    for epoch in range(3):
        for name, total in (("train", 10), ("test", 3)):
            text = (
                f"{name.title()} Epoch: [{epoch}/3] Loss: {results[f'{name}_loss'][epoch]:.4f} "
                f"ACC@1: {results[f'{name}_acc@1'][epoch]:.3f}%: 100%"
            )
            assert text in printed.err
            assert re.search(re.escape(text) + rf"\|.*\| {total}/{total} ", printed.err)


def test_test_pass_is_per_example_and_without_dropout() -> None:
    """Against the whole test set at once, with batches of unequal size; a rate of zero leaves the weights alone."""
    torch.manual_seed(0)
    model, test_data = tiny_vit(), Coloured(21, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    solver = ClassificationSolverViT(Coloured(21, 0), test_data, model, learning_rate=0.0, batch_size=16, num_epochs=1)
    solver.train("cpu")
    model.eval()
    with torch.no_grad():
        scores, labels = model(test_data.images), torch.tensor(test_data.labels)
    assert solver.results["test_loss"][0] == pytest.approx(nn.functional.cross_entropy(scores, labels).item(), rel=1e-5)
    assert solver.results["test_acc@1"][0] == int((scores.argmax(1) == labels).sum()) / 21
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_is_adam_on_shuffled_batches() -> None:
    """One epoch equals the same steps written out, from the same seed."""
    images, labels = torch.rand(10, 3, 8, 8), torch.arange(10) % 3
    options = {"learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 4, "num_epochs": 1}
    torch.manual_seed(0)
    model, by_hand = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    by_hand.load_state_dict(model.state_dict())

    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    dataset = TensorDataset(images, labels)
    ClassificationSolverViT(dataset, dataset, model, **options).train("cpu")
    order = [int((images == image).flatten(1).all(1).nonzero()) for batch in seen for image in batch]
    assert sorted(order) == list(range(10))
    assert order != list(range(10))
    assert [len(batch) for batch in seen] == [4, 4, 2]

    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3, weight_decay=0.1)
    for start in (0, 4, 8):
        rows = order[start : start + 4]
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(images[rows]), labels[rows]).backward()
        optimizer.step()
    for value, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(value, expected)


def test_solver_takes_torchvision_data_sets() -> None:
    data = FakeData(size=6, image_size=(3, 32, 32), num_classes=10, transform=ToTensor())
    solver = ClassificationSolverViT(train_data=data, test_data=data, model=VisionTransformer(num_layers=1))
    solver.train("cuda" if torch.cuda.is_available() else "cpu")
    assert len(solver.results["test_loss"]) == 2


def test_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="'momentum'"):
        ClassificationSolverViT(Coloured(1, 0), Coloured(1, 1), tiny_vit(), momentum=0.9)
