"""A head for people's own classes on a pretrained encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from opsin import Classifier
from opsin.classification.config import AugmentConfig, FinetuneConfig
from opsin.classification.descriptors import describe_images, descriptor_blocks
from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.finetune import stages_of, train_finetuned
from opsin.classification.finetuned import FinetunedClassifier
from opsin.classification.heads import FOLDS, class_weights, fit_head, fold_numbers
from opsin.cli.main import main
from opsin.encoders import imagenet, load
from opsin.encoders.base import DenseEncoder
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.training.config import TrainingConfig
from opsin.training.optim import build_optimizer
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


def test_a_self_contained_head_answers_as_one_by_reference(
    head_run: Run, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig(data=str(colour_folder), val_fraction=0.25, self_contained=True, training=ONE_EPOCH)
    report = train_finetuned(config, tmp_path / "run")
    assert report.needs is None
    photos = [colour_folder / name / "00.png" for name in ("blue", "red")]
    expected = Classifier.from_pretrained(head_run[0], device="cpu", precision="32").classify(photos)
    monkeypatch.setattr(imagenet, "WEIGHTS", "gone")
    classifier = Classifier.from_pretrained(tmp_path / "run", device="cpu", precision="32")
    for own, other in zip(classifier.classify(photos), expected, strict=True):
        assert own.labels == other.labels and own.probabilities == pytest.approx(other.probabilities, abs=1e-3)
    dense = load(str(tmp_path / "run"), "cpu", "32")
    assert isinstance(dense, DenseEncoder)
    assert next(iter(dense.encode_dense(photos))).grid == (7, 7)


@pytest.fixture(scope="module")
def tuned_run(colour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The last stage, on images far smaller than usual, for speed."""
    directory = tmp_path_factory.mktemp("tuned") / "run"
    return directory, train_finetuned(tuned_config(colour_folder), directory)


def tuned_config(folder: Path, **settings: object) -> FinetuneConfig:
    training = TrainingConfig(
        max_steps=3, batch_size=9, learning_rate=1e-3, validations=1, device="cpu", precision="32"
    )
    options: dict = {"tune": "last", "image_size": 64, "val_fraction": 0.25, "augment": AugmentConfig(shift=4)}
    return FinetuneConfig(data=str(folder), training=training, **options | settings)


def test_the_last_stage_and_the_head_learn(tuned_run: Run) -> None:
    directory, report = tuned_run
    assert report.steps == 3 and report.needs is None and report.metrics.keys() >= {"val_accuracy", "val_loss"}
    classifier = Classifier.from_pretrained(directory, device="cpu", precision="32")
    assert isinstance(classifier, FinetunedClassifier) and classifier.is_tuned
    before, after = imagenet.load_network().state_dict(), classifier.model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[f"backbone.{name}"])}
    blocks = {name.split(".")[1] for name in before if not torch.equal(before[name], after[f"backbone.{name}"])}
    assert changed == {"blocks", "conv_head", "bn2"} and blocks <= {"6", "weight", "bias"}
    assert not any(
        name.endswith("running_mean") and not torch.equal(before[name], after[f"backbone.{name}"]) for name in before
    )


def test_a_tuned_model_is_a_classifier_and_an_encoder(tuned_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(tuned_run[0], device="cpu", precision="32")
    evaluation = evaluate_classifier(classifier)
    assert evaluation.metrics.accuracy == pytest.approx(tuned_run[1].metrics["val_accuracy"])
    assert "one centre crop" in evaluation.protocol
    photos = [colour_folder / name / "00.png" for name in ("blue", "red")]
    encoder = load(str(tuned_run[0]), "cpu", "32")
    vectors = encoder.encode_image(photos, normalize=False)
    scores = classifier.model.head(vectors).softmax(dim=1).max(dim=1).values
    answers = [result.probabilities[0] for result in classifier.classify(photos)]
    assert answers == pytest.approx(scores.tolist(), abs=1e-4)
    assert encoder.fingerprint != load("imagenet", "cpu").fingerprint


def test_a_tuned_run_resumes_bit_for_bit(tuned_run: Run, colour_folder: Path, tmp_path: Path) -> None:
    config = tuned_config(colour_folder)
    train_finetuned(replace(config, training=replace(config.training, max_steps=1)), tmp_path / "run")
    train_finetuned(config, tmp_path / "run", resume=True)
    files = [directory / "model" / "model.safetensors" for directory in (tmp_path / "run", tuned_run[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_earlier_stages_learn_more_slowly() -> None:
    names = ["conv_stem.weight", "bn1.weight", "blocks.0.0.conv.weight", "blocks.1.0.bn.weight", "conv_head.weight"]
    assert list(stages_of(names).values()) == [0, 1, 2, 3, 4]
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.11.mlp.fc1.bias"]
    assert list(stages_of(names).values()) == [0, 1, 2, 3, 4]
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    training = TrainingConfig(max_steps=1, learning_rate=1.0)
    optimizer = build_optimizer(network, training, lambda name: 0.5 if name.startswith("0") else 1.0)
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert [scales[id(p)] for p in network.parameters()] == [0.5, 0.5, 1.0, 1.0]


def test_an_encoder_that_cannot_be_tuned_is_refused(colour_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="that takes imagenet or timm:NAME"):
        train_finetuned(tuned_config(colour_folder, backbone="cifar10-simclr"), tmp_path / "run")
