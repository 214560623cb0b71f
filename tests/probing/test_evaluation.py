"""Evaluating encoders by labels: what is measured, what it is measured on, and what cannot be measured."""

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

from opsin.errors import ConfigError, DataError
from opsin.pretrained import RunRecord
from opsin.probing import evaluation_set
from opsin.probing.evaluation import Knn, Linear, evaluate_encoder
from opsin.probing.evaluation_set import EvaluationSet, encode, enough_labels
from opsin.runtime import cache_dir
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.protocols import Finetune, LinearCourse

from ..simclr.conftest import PERIODS, make_pattern_folder, tiny_config


def arrays(parts: EvaluationSet, encoder: SimclrEncoder) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of the labelled images, then of the test images, one image after the other."""
    found: list[np.ndarray] = []
    for source in (parts.labelled, parts.test):
        assert source.labels is not None
        rows = [row for row in range(len(source)) if "broken" not in source.ids[row]]
        found.append(torch.cat([encoder.encode_image([source.load(row)]) for row in rows]).numpy())
        found.append(source.labels[rows])
    return found[0], found[1], found[2], found[3]


def test_neighbours_are_scikit_learns_and_all_vote_where_there_are_few(
    encoder: SimclrEncoder, parts: EvaluationSet
) -> None:
    bank, labels, queries, truths = arrays(parts, encoder)
    for k in (5, 200):
        evaluation = evaluate_encoder(encoder, Knn(k=k, temperature=0.1))
        used = min(k, len(bank))
        peer = KNeighborsClassifier(used, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1))
        assert evaluation.trained.metrics.accuracy == pytest.approx(peer.fit(bank, labels).score(queries, truths))
        assert evaluation.trained.k == used
    assert evaluation.trained.labelled == 36 and evaluation.trained.metrics.count == 12
    assert [row.id for row in evaluation.trained.skipped] == ["fine/broken.png"]
    assert evaluation.protocol.startswith(
        f"12 images of {parts.data!r}, split 'val': vote of the 36 nearest among 36 of 37 labelled "
    )


def test_the_linear_probe_is_scikit_learns(encoder: SimclrEncoder, parts: EvaluationSet) -> None:
    features, labels, queries, truths = arrays(parts, encoder)
    evaluation = evaluate_encoder(encoder, Linear(labels_fraction=1.0))
    scaler = StandardScaler().fit(features)
    strength = evaluation.trained.strength
    assert strength is not None
    peer = LogisticRegression(C=1 / (strength * len(features)), tol=1e-8, max_iter=10_000)
    expected = peer.fit(scaler.transform(features), labels).score(scaler.transform(queries), truths)
    assert evaluation.trained.metrics.accuracy == pytest.approx(expected)
    words = "logistic regression on frozen features of 36 of 37 labelled images, its strength chosen on 6 "
    assert words + "of them" in evaluation.protocol and evaluation.trained.held_out == 6


def test_an_interrupted_evaluation_goes_on(
    encoder: SimclrEncoder, parts: EvaluationSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was encoded before an interruption is not encoded again, and the result is that of one piece."""
    whole = encode(parts.labelled, encoder)
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    monkeypatch.setattr(evaluation_set, "IMAGES_AT_A_TIME", 10)
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
    parts: EvaluationSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    broken = next(row for row in range(len(parts.labelled)) if "broken" in parts.labelled.ids[row])
    good = [row for row in range(4) if row != broken]
    source = parts.labelled.select(np.array([*good[:3], broken]))
    whole = encode(source, MeanColour())
    monkeypatch.setattr(evaluation_set, "IMAGES_AT_A_TIME", 3)
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "other"))
    blocks = encode(source, MeanColour())
    torch.testing.assert_close(blocks.features, whole.features)
    assert list(blocks.source.ids) == list(whole.source.ids) and len(blocks.labels) == 3
    assert blocks.source.skipped == whole.source.skipped and len(blocks.source.skipped) == 1
    with pytest.raises(DataError, match=r"none of the 4 images of .* can be read; the first: .*broken"):
        encode(parts.labelled.select(np.array([broken] * 4)), MeanColour())


def test_shares_of_the_labels_by_default() -> None:
    assert Knn().fraction == 1.0
    assert {protocol.fraction for protocol in (LinearCourse(), Finetune())} == {0.1}
    assert Linear().fraction is None  # it follows their number


def test_images_that_were_trained_on_are_called_so(small: SimclrEncoder, pattern_folder: Path) -> None:
    run = RunRecord(config=tiny_config(pattern_folder, val_fraction=0.0))
    encoder = SimclrEncoder(small.model, replace(small.content, run=run), name="all", precision="32")
    evaluation = evaluate_encoder(encoder, Knn())
    assert "the encoder may have been trained on these images" in evaluation.protocol
    assert "trained on" not in evaluate_encoder(small, Knn()).protocol


class MeanColour:
    """An encoder that is no network."""

    name, fingerprint = "mean colour", "mean colour"

    def encode_image(self, images: Iterable[Image.Image], *, normalize: bool = True) -> torch.Tensor:
        means = torch.tensor(np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]), dtype=torch.float32)
        return torch.nn.functional.normalize(means, dim=1) if normalize else means


def test_any_encoder_of_images_is_evaluated_and_has_no_untrained_twin(pattern_folder: Path) -> None:
    evaluation = evaluate_encoder(MeanColour(), Knn(k=3), str(pattern_folder))
    assert evaluation.untrained is None and evaluation.trained.metrics.count == 9
    linear = evaluate_encoder(MeanColour(), Linear(labels_fraction=1.0), str(pattern_folder))
    assert linear.class_names == tuple(sorted(PERIODS))
    with pytest.raises(ConfigError, match="for models of SimCLR; evaluate mean colour by knn or linear"):
        evaluate_encoder(MeanColour(), Finetune(), str(pattern_folder))
    with pytest.raises(DataError, match="mean colour does not say what it was trained on"):
        evaluate_encoder(MeanColour(), Knn())


def test_what_cannot_be_evaluated_says_why(
    encoder: SimclrEncoder, pattern_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, single = tmp_path / "flat", tmp_path / "single"
    flat.mkdir()
    shutil.copy(pattern_folder / "fine" / "00.png", flat / "a.png")
    shutil.copytree(pattern_folder / "coarse", single / "coarse")
    with pytest.raises(DataError, match="has no labels; name one with class folders"):
        evaluate_encoder(encoder, Knn(), str(flat))
    with pytest.raises(DataError, match=r"one class only \(coarse\)"):
        evaluate_encoder(encoder, Knn(), str(single))
    with pytest.raises(DataError, match="no split 'test' to evaluate on"):
        evaluate_encoder(encoder, Knn(), split="test")
    with pytest.raises(ConfigError, match="not on 'train'"):
        evaluate_encoder(encoder, Knn(), split="train")
    with pytest.raises(ConfigError, match="share of the labels"):
        evaluate_encoder(encoder, Linear(labels_fraction=0.0))
    monkeypatch.setattr(type(encoder), "encode_image", None)  # refused before anything is computed
    with pytest.raises(DataError, match="3 of 37 labelled images are too few .* more of them by --labels-fraction"):
        evaluate_encoder(encoder, Linear(labels_fraction=0.01))
    alone = make_pattern_folder(tmp_path / "alone", 2)  # of each class one to evaluate on
    (alone / "fine" / "broken.png").unlink()
    with pytest.raises(DataError, match="3 of 3 labelled images are too few .* evaluate by --protocol knn"):
        evaluate_encoder(encoder, Linear(labels_fraction=1.0), str(alone))


def test_a_protocol_that_cannot_work_is_not_proposed(tmp_path: Path) -> None:
    for per_class, expected in ((2, None), (5, Linear())):
        folder = make_pattern_folder(tmp_path / str(per_class), per_class)
        (folder / "fine" / "broken.png").unlink()
        assert evaluate_encoder(MeanColour(), Knn(), str(folder)).other == expected
        if expected is not None:
            assert evaluate_encoder(MeanColour(), expected, str(folder)).other == Knn()


def test_the_linear_probe_uses_a_tenth_of_many_labels_and_all_of_few() -> None:
    assert enough_labels(np.repeat(np.arange(10), 5000)) == 0.1
    assert enough_labels(np.repeat([0, 1, 2], [100, 100, 1])) == 0.1  # a single rare class does not count
    assert enough_labels(np.repeat(np.arange(27), 10)) == enough_labels(np.repeat([0, 1], 99)) == 1.0
