"""Judging encoders by labels: what is measured, what it is measured on, and what cannot be measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from opsin.config import to_dict
from opsin.data.datasets import PixelDataset
from opsin.data.pixels import fit_image
from opsin.errors import ConfigError, DataError
from opsin.runtime import cache_dir, make_generator
from opsin.simclr import evaluation as evaluation_module
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import open_data
from opsin.simclr.evaluation import Protocol, encode, evaluate_encoder, untrained_encoder
from opsin.simclr.evaluation_picture import evaluation_figure
from opsin.simclr.finetune import FinetuneTask, finetune
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.judged_data import JudgedData
from opsin.simclr.linear_probe import accuracy, train_seed_probe
from opsin.simclr.model import SimclrModel
from opsin.simclr.train import build_task
from opsin.simclr.views import random_view
from opsin.sources.opening import open_source
from opsin.training.task import Batch, StepOutput

from .conftest import PERIODS, make_pattern_folder, tiny_config


def arrays(parts: JudgedData, encoder: SimclrEncoder) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of the labelled images, then of the test images, one image after the other."""
    found: list[np.ndarray] = []
    for source in (parts.labelled, parts.test):
        assert source.labels is not None
        rows = [row for row in range(len(source)) if "broken" not in source.ids[row]]
        found.append(torch.cat([encoder.encode_image([source.load(row)]) for row in rows]).numpy())
        found.append(source.labels[rows])
    return found[0], found[1], found[2], found[3]


def test_neighbours_are_scikit_learns_and_all_vote_where_there_are_few(
    encoder: SimclrEncoder, parts: JudgedData
) -> None:
    bank, labels, queries, truths = arrays(parts, encoder)
    for k in (5, 200):
        evaluation = evaluate_encoder(encoder, Protocol(k=k, temperature=0.1))
        used = min(k, len(bank))
        peer = KNeighborsClassifier(used, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1))
        assert evaluation.trained.metrics.accuracy == pytest.approx(peer.fit(bank, labels).score(queries, truths))
        assert evaluation.trained.k == used
    assert evaluation.trained.labelled == 36 and evaluation.trained.metrics.count == 12
    assert [row.id for row in evaluation.trained.skipped] == ["fine/broken.png"]
    assert evaluation.protocol.startswith(
        f"12 images of {parts.data!r}, split 'val': vote of the 36 nearest among 36 of 37 labelled "
    )


def test_the_linear_probe_is_scikit_learns(encoder: SimclrEncoder, parts: JudgedData) -> None:
    features, labels, queries, truths = arrays(parts, encoder)
    evaluation = evaluate_encoder(encoder, Protocol("linear", labels_fraction=1.0))
    scaler = StandardScaler().fit(features)
    strength = evaluation.trained.strength
    assert strength is not None
    peer = LogisticRegression(C=1 / (strength * len(features)), tol=1e-8, max_iter=10_000)
    expected = peer.fit(scaler.transform(features), labels).score(scaler.transform(queries), truths)
    assert evaluation.trained.metrics.accuracy == pytest.approx(expected)
    words = "logistic regression on frozen features of 36 of 37 labelled images, its strength chosen on 6 "
    assert words + "of them" in evaluation.protocol and evaluation.trained.held_out == 6


def test_the_untrained_encoder_is_what_the_run_began_with(encoder: SimclrEncoder, pattern_folder: Path) -> None:
    config = tiny_config(pattern_folder, encoder=encoder.description.encoder)
    model = build_task(config, open_data(open_source(config.data), config)).model
    assert isinstance(model, SimclrModel)
    began = model.encoder.state_dict()
    ours = untrained_encoder(encoder)
    assert not ours.model.training
    for name, tensor in ours.model.encoder.state_dict().items():
        assert torch.equal(tensor, began[name]), name
    evaluation = evaluate_encoder(encoder, Protocol())
    again = evaluate_encoder(ours, Protocol())
    assert evaluation.untrained is not None
    assert evaluation.untrained.metrics.accuracy == again.trained.metrics.accuracy


@pytest.mark.parametrize("name", ["linear-seed", "finetune"])
def test_training_protocols_give_the_same_twice_and_change_nothing(small: SimclrEncoder, name: str) -> None:
    before = {key: tensor.clone() for key, tensor in small.model.state_dict().items()}
    protocol = Protocol(name, labels_fraction=0.5, epochs=2)  # type: ignore[arg-type]
    first, second = (evaluate_encoder(small, protocol) for _ in range(2))
    assert first.trained.metrics.accuracy == second.trained.metrics.accuracy
    assert first.trained.labelled == 19 and first.untrained is not None
    assert first.trained.curve == second.trained.curve
    assert len(first.trained.curve) == (10 if name == "linear-seed" else 0)
    figure = evaluation_figure(small, protocol, first)
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert drawn == ([list(first.trained.curve), list(first.untrained.curve)] if name == "linear-seed" else [])
    for key, tensor in small.model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not small.model.training and not any(weight.requires_grad for weight in small.model.parameters())


def test_fine_tuning_learns_what_the_encoder_has_not(small: SimclrEncoder, tmp_path: Path) -> None:
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(tmp_path / name / f"{number}.png")
    protocol = Protocol("finetune", labels_fraction=1.0, epochs=30)
    evaluation = evaluate_encoder(small, protocol, str(tmp_path))
    assert evaluation.trained.metrics.accuracy == 1 and evaluation.trained.metrics.count == 4
    assert "all weights fine-tuned on 16 of 16 labelled images, 30 epochs" in evaluation.protocol


def test_an_interrupted_evaluation_goes_on(
    encoder: SimclrEncoder, parts: JudgedData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was encoded before an interruption is not encoded again, and the result is that of one piece."""
    whole = encode(parts.labelled, encoder)
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    monkeypatch.setattr(evaluation_module, "IMAGES_AT_A_TIME", 10)
    encoded: list[int] = []
    real = type(encoder).encode_image

    def counted(self: SimclrEncoder, images: Iterable[Image.Image], **options: bool) -> torch.Tensor:
        if len(encoded) == 2:
            encoded.append(0)
            raise KeyboardInterrupt
        found = real(self, images, **options)
        encoded.append(len(found))
        return found

    monkeypatch.setattr(type(encoder), "encode_image", counted)
    with pytest.raises(KeyboardInterrupt):
        encode(parts.labelled, encoder)
    kept = len(list((cache_dir() / "features").glob("*.npy")))
    assert kept == 2
    resumed = encode(parts.labelled, encoder)
    assert sum(encoded) == len(whole.labels) == 36
    torch.testing.assert_close(resumed.features, whole.features)
    assert torch.equal(resumed.labels, whole.labels) and list(resumed.source.ids) == list(whole.source.ids)
    assert [row.id for row in resumed.source.skipped] == ["fine/broken.png"]


def test_a_block_without_a_readable_image_ends_nothing(
    parts: JudgedData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    broken = next(row for row in range(len(parts.labelled)) if "broken" in parts.labelled.ids[row])
    good = [row for row in range(4) if row != broken]
    source = parts.labelled.select(np.array([*good[:3], broken]))
    whole = encode(source, MeanColour())
    monkeypatch.setattr(evaluation_module, "IMAGES_AT_A_TIME", 3)
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "other"))
    blocks = encode(source, MeanColour())
    torch.testing.assert_close(blocks.features, whole.features)
    assert list(blocks.source.ids) == list(whole.source.ids) and len(blocks.labels) == 3
    assert blocks.source.skipped == whole.source.skipped and len(blocks.source.skipped) == 1
    with pytest.raises(DataError, match=r"none of the 4 images of .* can be read; the first: .*broken"):
        encode(parts.labelled.select(np.array([broken] * 4)), MeanColour())


def test_the_courses_linear_layer_sees_views_and_raw_features(small: SimclrEncoder, parts: JudgedData) -> None:
    """Step by step: ten random views of each labelled image, through the frozen encoder; test images as they are."""
    evaluation = evaluate_encoder(small, Protocol("linear-seed", labels_fraction=1.0))
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
    probes = train_seed_probe(views, len(parts.class_names), make_generator(0, "linear-seed"))
    truth = torch.from_numpy(parts.test.labels)
    assert evaluation.trained.curve == tuple(accuracy(probe.scores(tested), truth) for probe in probes)


def test_shares_of_the_labels_by_default() -> None:
    assert Protocol("knn").fraction == 1.0
    assert {Protocol(name).fraction for name in ("linear", "linear-seed", "finetune")} == {0.1}  # type: ignore[arg-type]


def test_images_that_were_trained_on_are_called_so(small: SimclrEncoder, pattern_folder: Path) -> None:
    training = to_dict(tiny_config(pattern_folder, val_fraction=0.0))
    content = replace(small.description, training=training)
    evaluation = evaluate_encoder(SimclrEncoder("all", small.model, content, "32"), Protocol())
    assert "the encoder may have been trained on these images" in evaluation.protocol
    assert "trained on" not in evaluate_encoder(small, Protocol()).protocol


def test_no_last_batch_of_fine_tuning_is_a_single_image(small: SimclrEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = FinetuneTask.training_step

    def counted(self: FinetuneTask, batch: Batch, generator: torch.Generator) -> StepOutput:
        sizes.append(len(batch["image"]))
        return real(self, batch, generator)

    monkeypatch.setattr(FinetuneTask, "training_step", counted)
    pixels = np.zeros((129, 3, 16, 16), dtype=np.uint8)
    finetune(small, PixelDataset(pixels, np.arange(129) % 2), 2, epochs=2, quiet=True)
    assert sizes == [128, 128]


@pytest.mark.parametrize("name", ["linear-seed", "finetune"])
def test_broken_files_are_not_counted_as_labelled(
    name: str, small: SimclrEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are found only as they are read."""
    monkeypatch.setattr("opsin.data.datasets.MEMORY_LIMIT", 0)
    evaluation = evaluate_encoder(small, Protocol(name, labels_fraction=1.0, epochs=1))  # type: ignore[arg-type]
    assert evaluation.trained.labelled == 36 and "36 of 37 labelled images" in evaluation.protocol
    assert [row.id for row in evaluation.trained.skipped] == ["fine/broken.png"]


class MeanColour:
    """An encoder that is no network."""

    name, fingerprint = "mean colour", "mean colour"

    def encode_image(self, images: Iterable[Image.Image], *, normalize: bool = True) -> torch.Tensor:
        means = torch.tensor(np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]), dtype=torch.float32)
        return torch.nn.functional.normalize(means, dim=1) if normalize else means


def test_any_encoder_of_images_is_judged_and_has_no_untrained_twin(pattern_folder: Path) -> None:
    evaluation = evaluate_encoder(MeanColour(), Protocol(k=3), str(pattern_folder))
    assert evaluation.untrained is None and evaluation.trained.metrics.count == 9
    linear = evaluate_encoder(MeanColour(), Protocol("linear", labels_fraction=1.0), str(pattern_folder))
    assert linear.class_names == tuple(sorted(PERIODS))
    with pytest.raises(ConfigError, match="for models of SimCLR; judge mean colour by knn or linear"):
        evaluate_encoder(MeanColour(), Protocol("finetune"), str(pattern_folder))
    with pytest.raises(DataError, match="mean colour does not say what it was trained on"):
        evaluate_encoder(MeanColour(), Protocol())


def test_what_cannot_be_judged_says_why(
    encoder: SimclrEncoder, pattern_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, single = tmp_path / "flat", tmp_path / "single"
    flat.mkdir()
    shutil.copy(pattern_folder / "fine" / "00.png", flat / "a.png")
    shutil.copytree(pattern_folder / "coarse", single / "coarse")
    with pytest.raises(DataError, match="has no labels; name one with class folders"):
        evaluate_encoder(encoder, Protocol(), str(flat))
    with pytest.raises(DataError, match=r"one class only \(coarse\)"):
        evaluate_encoder(encoder, Protocol(), str(single))
    with pytest.raises(DataError, match="no split 'test' to judge on"):
        evaluate_encoder(encoder, Protocol(), split="test")
    with pytest.raises(ConfigError, match="not on 'train'"):
        evaluate_encoder(encoder, Protocol(), split="train")
    with pytest.raises(ConfigError, match="share of the labels"):
        evaluate_encoder(encoder, Protocol("linear", labels_fraction=0.0))
    monkeypatch.setattr(type(encoder), "encode_image", None)  # refused before anything is computed
    with pytest.raises(DataError, match="3 of 37 labelled images are too few .* more of them by --labels-fraction"):
        evaluate_encoder(encoder, Protocol("linear", labels_fraction=0.01))
    alone = make_pattern_folder(tmp_path / "alone", 2)  # of each class one to judge on
    (alone / "fine" / "broken.png").unlink()
    with pytest.raises(DataError, match="3 of 3 labelled images are too few .* judge by --protocol knn"):
        evaluate_encoder(encoder, Protocol("linear", labels_fraction=1.0), str(alone))


def test_a_protocol_that_cannot_work_is_not_proposed(tmp_path: Path) -> None:
    for per_class, expected in ((2, None), (5, Protocol("linear", labels_fraction=1.0)), (25, Protocol("linear"))):
        folder = make_pattern_folder(tmp_path / str(per_class), per_class)
        (folder / "fine" / "broken.png").unlink()
        assert evaluate_encoder(MeanColour(), Protocol(), str(folder)).other == expected
        if expected is not None:
            assert evaluate_encoder(MeanColour(), expected, str(folder)).other == Protocol()
