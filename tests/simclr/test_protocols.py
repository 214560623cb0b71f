"""The protocols of SimCLR, which train on augmented images, and the network that a run began with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.neural_network import MLPClassifier

from opsin.cli.main import main
from opsin.data.datasets import PixelDataset
from opsin.data.pixels import fit_image
from opsin.probing.evaluation import Knn, evaluate_encoder
from opsin.probing.evaluation_set import EvaluationSet
from opsin.probing.linear_probe import accuracy
from opsin.runtime import make_generator
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import open_splits, random_view
from opsin.simclr.finetune import FinetuneTask, finetune
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.model import SimclrModel
from opsin.simclr.protocols import Finetune, LinearCourse, train_course_probe
from opsin.simclr.train import SimclrTask
from opsin.training.task import Batch, StepOutput
from tests.html_page import Page, assert_sound

from ..probing.test_linear_probe import clouds
from .conftest import Run, tiny_config


def test_the_untrained_encoder_is_what_the_run_began_with(encoder: SimclrEncoder, pattern_folder: Path) -> None:
    config = tiny_config(pattern_folder, encoder=encoder.content.encoder)
    model = SimclrTask(config, open_splits(config)).model
    assert isinstance(model, SimclrModel)
    began = model.encoder.state_dict()
    ours = encoder.untrained()
    assert not ours.model.training
    for name, tensor in ours.model.encoder.state_dict().items():
        assert torch.equal(tensor, began[name]), name
    evaluation = evaluate_encoder(encoder, Knn())
    again = evaluate_encoder(ours, Knn())
    assert evaluation.untrained is not None
    assert evaluation.untrained.metrics.accuracy == again.trained.metrics.accuracy


@pytest.mark.parametrize("protocol", [LinearCourse(labels_fraction=0.5), Finetune(labels_fraction=0.5, epochs=2)])
def test_training_protocols_give_the_same_twice_and_change_nothing(
    small: SimclrEncoder, protocol: LinearCourse | Finetune
) -> None:
    before = {key: tensor.clone() for key, tensor in small.model.state_dict().items()}
    first, second = (evaluate_encoder(small, protocol) for _ in range(2))
    assert first.trained.metrics.accuracy == second.trained.metrics.accuracy
    assert first.trained.labelled == 19 and first.untrained is not None
    assert first.trained.curve == second.trained.curve
    assert len(first.trained.curve) == (10 if isinstance(protocol, LinearCourse) else 0)
    figure = protocol.figure(small, first)
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    curves = [list(result.curve) for result in (first.trained, first.untrained)]
    assert drawn == (curves if isinstance(protocol, LinearCourse) else [])
    for key, tensor in small.model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not small.model.training and not any(weight.requires_grad for weight in small.model.parameters())


def test_fine_tuning_learns_what_the_encoder_has_not(small: SimclrEncoder, tmp_path: Path) -> None:
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(tmp_path / name / f"{number}.png")
    protocol = Finetune(labels_fraction=1.0, epochs=30)
    evaluation = evaluate_encoder(small, protocol, str(tmp_path))
    assert evaluation.trained.metrics.accuracy == 1 and evaluation.trained.metrics.count == 4
    assert "all weights fine-tuned on 16 of 16 labelled images, 30 epochs" in evaluation.protocol


def test_the_courses_linear_layer_sees_views_and_raw_features(small: SimclrEncoder, parts: EvaluationSet) -> None:
    """Step by step: ten random views of each labelled image, through the frozen encoder; test images as they are."""
    evaluation = evaluate_encoder(small, LinearCourse(labels_fraction=1.0))
    readable = [row for row in range(len(parts.labelled)) if "broken" not in parts.labelled.ids[row]]
    labelled = parts.labelled.select(np.array(readable))
    assert labelled.labels is not None and parts.test.labels is not None
    images = torch.stack([torch.from_numpy(fit_image(labelled.load(row), 16)) for row in range(len(labelled))])
    generator = make_generator(0, "views")
    views = []
    for _ in range(10):
        cut = random_view(images.float() / 255, 16, AugmentConfig(), generator)
        with torch.no_grad():
            views.append((small.model.encoder((cut - 0.5) / 0.5), torch.from_numpy(labelled.labels)))
    plain = torch.stack([torch.from_numpy(fit_image(parts.test.load(row), 16)) for row in range(len(parts.test))])
    with torch.no_grad():
        tested = small.model.encoder((plain.float() / 255 - 0.5) / 0.5).half().float()
    probes = train_course_probe(views, len(parts.class_names), make_generator(0, "linear-seed"))
    truth = torch.from_numpy(parts.test.labels)
    assert evaluation.trained.curve == tuple(accuracy(probe.scores(tested), truth) for probe in probes)


def test_no_last_batch_of_fine_tuning_is_a_single_image(small: SimclrEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = FinetuneTask.training_step

    def counted(self: FinetuneTask, batch: Batch, generator: torch.Generator) -> StepOutput:
        sizes.append(len(batch["image"]))
        return real(self, batch, generator)

    monkeypatch.setattr(FinetuneTask, "training_step", counted)
    pixels = np.zeros((129, 3, 16, 16), dtype=np.uint8)
    finetune(small, PixelDataset(pixels, np.arange(129) % 2), 2, epochs=2)
    assert sizes == [128, 128]


@pytest.mark.parametrize("protocol", [LinearCourse(labels_fraction=1.0), Finetune(labels_fraction=1.0, epochs=1)])
def test_broken_files_are_not_counted_as_labelled(
    protocol: LinearCourse | Finetune, small: SimclrEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are found only as they are read."""
    monkeypatch.setattr("opsin.data.datasets.MEMORY_LIMIT", 0)
    evaluation = evaluate_encoder(small, protocol)
    assert evaluation.trained.labelled == 36 and "36 of 37 labelled images" in evaluation.protocol
    assert [row.id for row in evaluation.trained.skipped] == ["fine/broken.png"]


def test_the_courses_training_is_scikit_learns_adam() -> None:
    """From the same weights over the same batches: its perceptron without hidden layers is a linear classifier."""
    features, labels = clouds(300, 3)
    views = [features, features.flip(1)]
    labelled = [(view.float(), labels) for view in views]
    probes = list(train_course_probe(labelled, 3, torch.Generator().manual_seed(5)))
    generator = torch.Generator().manual_seed(5)
    weight, bias = ((2 * torch.rand(shape, generator=generator) - 1) / 12**0.5 for shape in ((3, 12), (3,)))
    peer = MLPClassifier((), learning_rate_init=1e-3, alpha=128e-6, shuffle=False)
    peer.partial_fit(features[:128].numpy(), labels[:128].numpy(), classes=[0, 1, 2])
    peer.coefs_[0][:], peer.intercepts_[0][:] = weight.T.numpy(), bias.numpy()
    del peer._optimizer  # begins anew from these weights
    for view, probe in zip(views, probes, strict=True):
        for rows in torch.randperm(300, generator=generator).split(128):
            peer.partial_fit(view[rows].numpy(), labels[rows].numpy())
        np.testing.assert_allclose(probe.weight.numpy(), peer.coefs_[0].T, atol=1e-4)
        np.testing.assert_allclose(probe.bias.numpy(), peer.intercepts_[0], atol=1e-4)
    assert float((probes[0].weight - weight).abs().min()) > 1e-4


def test_the_courses_training_learns() -> None:
    clouded, labels = clouds(600, 3, width=500)
    features = clouded.float()
    probes = list(train_course_probe([(features, labels)] * 10, 3, torch.Generator().manual_seed(0)))
    assert accuracy(probes[-1].scores(features), labels) > 0.9
    losses = [float(F.cross_entropy(probe.scores(features), labels)) for probe in probes]
    assert losses == sorted(losses, reverse=True) and len(losses) == 10


def test_the_report_of_a_run_shows_neighbours_and_confusions(pattern_run: Run, tmp_path: Path) -> None:
    assert main(["report", str(pattern_run[0]), "--out", str(tmp_path / "r.html"), "--device", "cpu", "--quiet"]) == 0
    page = Page(tmp_path / "r.html")
    assert_sound(page)
    assert page.texts["h2"] == ["Result", "Curves", "Nearest neighbors", "Settings"]
    shown = page.texts["figcaption"][-2:]
    assert "nearest to them" in shown[0] and "taken for which" in shown[1]
