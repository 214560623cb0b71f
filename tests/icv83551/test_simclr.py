"""The notebook's cells of self-supervised learning on a small CIFAR-10, and its loops against themselves by hand."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import CIFAR10

from icv83551.simclr import utils
from icv83551.simclr.data_utils import CIFAR10Pair, compute_test_transform, compute_train_transform
from icv83551.simclr.model import Model
from opsin.errors import ConfigError
from opsin.simclr.loss import simclr_loss_naive

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a CIFAR-10 with two random images in each."""
    directory = tmp_path_factory.mktemp("data")
    folder = directory / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, name in enumerate(FILES):
        pixels = generator.integers(0, 256, (2, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [number, (number + 5) % 10]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    return directory


@pytest.fixture(autouse=True)
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test cannot have the checksums of the real ones."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal would cut the progress text


# ---------------------------------------------------------------------------------------------------- imports


def test_star_imports_bring_what_the_cells_use() -> None:
    names: dict[str, Any] = {}
    for module in ("data_utils", "contrastive_loss", "model", "utils"):
        exec(f"from icv83551.simclr.{module} import *", names)
    assert names["torch"] is torch and names["np"] is np
    used = {"compute_train_transform", "compute_test_transform", "CIFAR10Pair", "rel_error", "Model"}
    used |= {"sim", "simclr_loss_naive", "sim_positive_pairs", "compute_sim_matrix", "simclr_loss_vectorized"}
    assert used | {"train", "train_val", "test"} <= names.keys()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (compute_train_transform, {"seed": 123456}),
        (compute_test_transform, {}),
        (Model, {"feature_dim": 128}),
        (utils.train, {"batch_size": 32, "temperature": 0.5, "device": "cuda"}),
        (utils.train_val, {"device": "cuda"}),
        (utils.test, {"temperature": 0.5, "k": 200, "device": "cuda"}),
    ],
)
def test_defaults(function: Any, expected: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == expected


# ------------------------------------------------------------------------------------------------------- data


def test_pairs_are_two_views_made_one_after_the_other(root: Path) -> None:
    transform = compute_train_transform()
    pairs = CIFAR10Pair(root=root, train=True, transform=transform, download=True)
    images = CIFAR10(root=root, train=True, transform=transform)
    assert isinstance(pairs, torchvision.datasets.CIFAR10)
    assert len(pairs) == 10 and pairs.classes == CLASSES and pairs.targets == images.targets
    torch.manual_seed(0)
    left, right, target = pairs[3]
    torch.manual_seed(0)
    assert torch.equal(left, images[3][0]) and torch.equal(right, images[3][0]) and target == images[3][1] == 6
    assert left.shape == right.shape == (3, 32, 32) and not torch.equal(left, right)


# ----------------------------------------------------------------------------------------------------- network


def test_network_gives_features_and_projections_of_length_one() -> None:
    torch.manual_seed(0)
    model = Model(feature_dim=16).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        feature, out = model(images)
        encoded = model.f(images)
    assert encoded.shape == (2, 2048, 1, 1)
    torch.testing.assert_close(feature, F.normalize(encoded.flatten(1)))
    torch.testing.assert_close(out, F.normalize(model.g(encoded.flatten(1))))
    assert feature.shape == (2, 2048) and out.shape == (2, 16)


def test_keys_are_those_of_the_courses_checkpoints() -> None:
    """A first convolution, a batch norm, four stages; and three layers with weights in the head, one without a bias."""
    keys = Model().state_dict().keys()
    assert {key.split(".")[1] for key in keys if key.startswith("f.")} == {"0", "1", "3", "4", "5", "6"}
    batch_norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    head = {"g.0.weight", "g.3.weight", "g.3.bias"} | {f"g.1.{name}" for name in batch_norm}
    assert {key for key in keys if not key.startswith("f.")} == head


class Classifier(nn.Module):
    """The notebook's: the encoder, and a linear layer on its features."""

    def __init__(self, num_class: int) -> None:
        super().__init__()
        self.f = Model().f
        self.fc = nn.Linear(2048, num_class, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.f(x), start_dim=1))


def test_the_cells(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sections 5 and 6: go on from a checkpoint that a profiler has added entries to, test, save, and fit a probe."""
    torch.manual_seed(0)
    first = Model(128)
    added = {f"{name}.{entry}": torch.zeros(1) for name in ("f.0", "g.3") for entry in ("total_ops", "total_params")}
    torch.save(first.state_dict() | added, tmp_path / "pretrained.pth")

    train_transform, test_transform = compute_train_transform(), compute_test_transform()
    train_data = CIFAR10Pair(root=root, train=True, transform=train_transform, download=True)
    train_data = Subset(train_data, list(np.arange(int(len(train_data) * 0.5))))
    train_loader = DataLoader(train_data, batch_size=2, shuffle=True, drop_last=True)
    memory_data = CIFAR10Pair(root=root, train=True, transform=test_transform, download=True)
    memory_loader = DataLoader(memory_data, batch_size=4, shuffle=False)
    test_data = CIFAR10Pair(root=root, train=False, transform=test_transform, download=True)
    test_loader = DataLoader(test_data, batch_size=4, shuffle=False)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model(128)
    weights = torch.load(tmp_path / "pretrained.pth", map_location="cpu")
    loaded = model.load_state_dict(weights, strict=False)
    assert loaded.missing_keys == [] and set(loaded.unexpected_keys) == set(added)
    model = model.to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    c = len(memory_data.classes)
    loss = utils.train(model, train_loader, optimizer, 1, 1, batch_size=2, temperature=0.5, device=device)
    top1, top5 = utils.test(model, memory_loader, test_loader, 1, 1, c, k=8, temperature=0.5, device=device)
    torch.save(model.state_dict(), tmp_path / "trained.pth")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"Train Epoch: [1/1] Loss: {loss:.4f}: 100%" in printed.err
    assert "Feature extracting: 100%" in printed.err
    assert f"Test Epoch: [1/1] Acc@1:{top1:.2f}% Acc@5:{top5:.2f}%: 100%" in printed.err
    assert top1 in (0.0, 50.0, 100.0) and top1 <= top5

    probe = Classifier(num_class=len(CLASSES))
    loaded = probe.load_state_dict(torch.load(tmp_path / "trained.pth", map_location="cpu"), strict=False)
    assert set(loaded.missing_keys) == {"fc.weight", "fc.bias"}
    probe = probe.to(device)
    for parameter in probe.f.parameters():
        parameter.requires_grad = False
    labelled = Subset(CIFAR10(root=root, train=True, transform=train_transform, download=True), range(4))
    optimizer = optim.Adam(probe.fc.parameters(), lr=1e-3, weight_decay=1e-6)
    tested = CIFAR10(root=root, train=False, transform=test_transform, download=True)
    results = {
        "Train": utils.train_val(probe, DataLoader(labelled, batch_size=4), optimizer, 1, 10, device="cuda"),
        "Test": utils.train_val(probe, DataLoader(tested, batch_size=4), None, 1, 10),
    }
    printed = capsys.readouterr()
    for name, (loss, top1, top5) in results.items():
        text = f"{name} Epoch: [1/10] Loss: {loss:.4f} ACC@1: {top1:.2f}% ACC@5: {top5:.2f}%: 100%"
        assert text in printed.err


# ------------------------------------------------------------------------------------------------------- loops


class Items(Dataset):
    """`views` random views of each image, and its label."""

    def __init__(self, count: int, views: int, num_classes: int = 7) -> None:
        generator = torch.Generator().manual_seed(count)
        self.views = torch.randn(views, count, 3, 4, 4, generator=generator)
        self.targets = torch.randint(num_classes, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return (*self.views[:, index], self.targets[index])


class TinyModel(nn.Module):
    """As `Model`, and it notes what it was given, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.g = nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), nn.Linear(6, 5)
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((x, self.training))
        feature = self.f(x)
        return F.normalize(feature), F.normalize(self.g(feature))


def test_train_is_adam_on_the_loss_of_both_branches() -> None:
    model, by_hand = TinyModel().eval(), TinyModel()
    items = Items(7, 2)
    loader = DataLoader(items, batch_size=4)
    loss = utils.train(model, loader, optim.Adam(model.parameters(), lr=1e-2), 1, 3, temperature=0.2, device="cpu")

    optimizer = optim.Adam(by_hand.parameters(), lr=1e-2)
    losses = []
    for start in (0, 4):
        left, right = items.views[:, start : start + 4]
        expected = simclr_loss_naive(by_hand(left)[1], by_hand(right)[1], 0.2)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        losses.append(expected.item())
    assert loss == pytest.approx(sum(losses) / 2, rel=1e-5)  # batches count alike, whatever their size
    for value, expected_value in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-5)
    assert all(training for _, training in model.seen)
    assert all(torch.equal(given, wanted) for (given, _), (wanted, _) in zip(model.seen, by_hand.seen, strict=True))


def test_train_val_is_per_example_and_tests_without_an_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 7))
    items = Items(21, 1)
    loader = DataLoader(items, batch_size=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss, top1, top5 = utils.train_val(model, loader, None, 2, 10, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        scores, labels = model.eval()(items.views[0]), torch.tensor(items.targets)
    assert loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
    ranks = (scores > scores.gather(1, labels[:, None])).sum(dim=1)  # how many classes are before the right one
    assert top1 == pytest.approx(100 * float((ranks == 0).float().mean()))
    assert top5 == pytest.approx(100 * float((ranks < 5).float().mean()))
    assert top1 < top5 < 100
    text = f"Test Epoch: [2/10] Loss: {loss:.4f} ACC@1: {top1:.2f}% ACC@5: {top5:.2f}%: 100%"
    assert text in capsys.readouterr().err

    for epoch in range(1, 41):
        trained = utils.train_val(model, loader, optim.Adam(model.parameters(), lr=1e-2), epoch, 40, device="cpu")
    assert model.training and trained[1] > top1
    loss, top1, top5 = trained
    text = f"Train Epoch: [40/40] Loss: {loss:.4f} ACC@1: {top1:.2f}% ACC@5: {top5:.2f}%: 100%"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.5), (9, 0.5), (30, 0.1)])
def test_test_votes_among_the_nearest_features_of_the_first_view(k: int, temperature: float) -> None:
    model = TinyModel()
    memory, tested = Items(30, 2), Items(23, 2)
    loaders = DataLoader(memory, batch_size=8), DataLoader(tested, batch_size=8)
    top1, top5 = utils.test(model, *loaders, 1, 1, 7, k=k, temperature=temperature, device="cpu")
    assert not any(training for _, training in model.seen)

    with torch.no_grad():
        bank, features = (model(items.views[0])[0] for items in (memory, tested))
    hits = np.zeros(2)
    for feature, label in zip(features, tested.targets, strict=True):
        similarities = (bank @ feature).tolist()
        votes = [0.0] * 7
        for index in sorted(range(30), key=lambda index: -similarities[index])[:k]:
            votes[memory.targets[index]] += np.exp(similarities[index] / temperature)
        order = sorted(range(7), key=lambda name: -votes[name])
        if votes[label] > 0:  # classes without any vote are guesses in no order
            hits += [label == order[0], label in order[:5]]
    assert top1 == pytest.approx(100 * hits[0] / 23)
    assert top5 >= 100 * hits[1] / 23 - 1e-9
    if k == 30:
        assert top5 == pytest.approx(100 * hits[1] / 23)


def test_what_cannot_be_done_is_said() -> None:
    items = Items(5, 2)
    loader = DataLoader(items, batch_size=5)
    with pytest.raises(ConfigError, match="200 nearest neighbours"):
        utils.test(TinyModel(), loader, loader, 1, 1, 7, device="cpu")
    model = TinyModel()
    too_few = DataLoader(items, batch_size=8, drop_last=True)
    with pytest.raises(ValueError, match="gave no batch"):
        utils.train(model, too_few, optim.Adam(model.parameters()), 1, 1, device="cpu")
