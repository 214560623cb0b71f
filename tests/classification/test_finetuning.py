"""A head for people's own classes on a pretrained encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from opsin import Classifier
from opsin.classification.config import FinetuneConfig
from opsin.classification.descriptors import describe_images, descriptor_blocks
from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.finetune import train_finetuned
from opsin.classification.finetuned import FinetunedClassifier
from opsin.classification.heads import FOLDS, class_weights, fit_head, fold_numbers
from opsin.cli.main import main
from opsin.encoders import load
from opsin.errors import CheckpointError, DataError
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

from .conftest import make_colour_folder

Run = tuple[Path, TrainReport]
ONE_EPOCH = TrainingConfig(epochs=1, device="cpu", precision="32")


@pytest.fixture(scope="module")
def head_run(colour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("heads") / "run"
    config = FinetuneConfig(data=str(colour_folder), val_fraction=0.25, training=ONE_EPOCH)
    return directory, train_finetuned(config, directory)


def test_a_head_is_the_logistic_regression_of_its_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    descriptors = torch.randn(60, 90, generator=generator)
    descriptors[:, 2] += 2 * labels
    choices = (((4, 1.0), (86, 0.0)), ((4, 1.0), (86, 3.0)))
    head = fit_head(descriptors, labels, 3, choices)
    columns = []
    for (width, weight), block in zip(choices[0], descriptors.double().split([4, 86], dim=1), strict=True):
        centered = block - block.mean(dim=0)
        columns.append(weight * centered / (centered.square().sum() / 60).sqrt())
        assert centered.shape[1] == width
    scaled = torch.cat(columns, dim=1).numpy()
    expected = LogisticRegression(C=1 / (head.strength * 60), tol=1e-8, max_iter=10_000).fit(scaled, labels.numpy())
    probabilities = head.probe.scores(descriptors).softmax(dim=1)
    np.testing.assert_allclose(probabilities, expected.predict_proba(scaled), atol=1e-4)
    # The second block is noise: the choice that leaves it out is the better one.
    assert (head.probe.weight[:, 4:] == 0).all()


def test_folds_are_even_in_classes_and_keep_groups_together() -> None:
    labels = np.repeat([0, 1, 2], [23, 7, 1])
    folds = fold_numbers(labels, None, seed=3)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert (np.bincount(folds, minlength=FOLDS) >= 6).all()
    groups = np.array([f"g{index // 3}" for index in range(31)])
    folds = fold_numbers(np.zeros(31, dtype=np.int64), groups, seed=3)
    assert all(len(set(folds[groups == group])) == 1 for group in groups)


def test_balanced_classes_weigh_the_same() -> None:
    labels = torch.tensor([0] * 8 + [2] * 2)
    weights = class_weights(labels, 3)
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels.numpy())
    np.testing.assert_allclose(weights[[0, 2]], expected)
    assert weights[labels].mean() == pytest.approx(1)


def test_descriptors_do_not_depend_on_the_batch() -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 90, 3), dtype=np.uint8)) for _ in range(3)]
    encoder = load("imagenet", "cpu", "32")
    descriptors = describe_images(encoder, images)
    torch.testing.assert_close(torch.cat([describe_images(encoder, [image]) for image in images]), descriptors)
    for blocks in descriptor_blocks(encoder, descriptors.shape[1]):
        assert sum(width for width, _ in blocks) == descriptors.shape[1]
        features, classes, groups = descriptors.split([width for width, _ in blocks], dim=1)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(classes.exp().sum(dim=1), torch.full((3,), 1 + 1000 * 1e-4))
        assert (groups.exp() < 1 + 0.011).all() and (groups.exp() > 0.0099).all()


def test_a_run_leaves_a_classifier(head_run: Run, colour_folder: Path) -> None:
    directory, report = head_run
    assert report.needs == "imagenet" and report.steps == 0 and report.num_train == 27
    classifier = Classifier.from_pretrained(directory, device="cpu", precision="32")
    assert isinstance(classifier, FinetunedClassifier)
    assert classifier.class_names == ("blue", "green", "red")
    assert (directory / "model" / "model.safetensors").stat().st_size < 100_000
    evaluation = evaluate_classifier(classifier)
    assert evaluation.metrics.accuracy == pytest.approx(report.metrics["val_accuracy"])
    assert "9 images" in evaluation.protocol and "split 'val', a centre crop and the whole image" in evaluation.protocol
    paths = [evaluation.source.file(row) for row in range(len(evaluation.source))]
    results = classifier.classify([path for path in paths if path is not None], batch_size=2)
    predicted = [classifier.class_names[index] for index in evaluation.metrics.predicted]
    assert [result.labels[0] for result in results] == predicted
    confidences = [result.probabilities[0] for result in results]
    np.testing.assert_allclose(confidences, evaluation.metrics.confidences, atol=0.01)  # the cache has half precision


def test_as_an_encoder_it_is_its_backbone(head_run: Run, colour_folder: Path) -> None:
    photo = [colour_folder / "red" / "00.png"]
    own, backbone = load(str(head_run[0]), "cpu", "32"), load("imagenet", "cpu", "32")
    torch.testing.assert_close(own.encode_image(photo), backbone.encode_image(photo))
    assert own.fingerprint == backbone.fingerprint


def test_another_backbone_under_its_name_is_refused(head_run: Run, colour_folder: Path, tmp_path: Path) -> None:
    copy = Classifier.from_pretrained(head_run[0], device="cpu").save_pretrained(tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["backbone_fingerprint"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="imagenet is not the one that the model was trained with"):
        Classifier.from_pretrained(copy, device="cpu").classify(colour_folder / "red" / "00.png")


def test_from_the_command_line(colour_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a classifier of opsin's own, and again with --resume."""
    run = tmp_path / "run"
    command = ["train", "classifier", "--data", str(colour_folder), "--out", str(run), "--backbone", "cifar10-simclr"]
    assert main([*command, "--balance", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["needs"] == "cifar10-simclr" and document["metrics"].keys() >= {"cv_accuracy", "val_accuracy"}
    assert main(command) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "classifier", "--out", str(run), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == document["metrics"]
    assert main(["classify", str(colour_folder / "red"), "--model", str(run), "--attention", str(tmp_path / "a")]) == 2
    assert "is a head on another encoder" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "regularization" in page and "Confusion" in page


@pytest.mark.parametrize("per_class", [1, 2])
def test_as_few_images_as_there_can_be(per_class: int, tmp_path: Path) -> None:
    folder = make_colour_folder(tmp_path / "few", per_class)
    report = train_finetuned(FinetuneConfig(data=str(folder), training=ONE_EPOCH), tmp_path / "run")
    results = Classifier.from_pretrained(tmp_path / "run", device="cpu").classify(sorted(folder.rglob("*.png")))
    assert all(sum(result.probabilities) == pytest.approx(1) for result in results)
    assert report.num_train == 3


def test_what_cannot_be_trained_on(colour_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "only").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "only" / "one.png")
    with pytest.raises(DataError, match="of one class only"):
        train_finetuned(FinetuneConfig(data=str(tmp_path / "photos")), tmp_path / "run")
    with pytest.raises(DataError, match="has no labels"):
        train_finetuned(FinetuneConfig(data=str(tmp_path / "photos" / "only")), tmp_path / "run")
    with pytest.raises(CheckpointError, match="no model 'imagnet'.*did you mean 'imagenet'"):
        train_finetuned(FinetuneConfig(data=str(colour_folder), backbone="imagnet"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_from_scratch_on_few_images_says_what_else_there_is(
    colour_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max-steps", "1", "--image-size", "16", "--patch-size", "8", "--device", "cpu"]
    assert main(["train", "vit", "--data", str(colour_folder), "--out", str(tmp_path / "run"), *options]) == 0
    assert f"opsin train classifier --data {colour_folder} --out DIR" in capsys.readouterr().err
