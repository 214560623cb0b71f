"""Naming what is in photographs, without training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from opsin import Classifier
from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.imagenet import ImagenetClassifier
from opsin.cli.main import main
from opsin.encoders import load
from opsin.encoders.imagenet import ImagenetEncoder
from opsin.encoders.imagenet_classes import class_names, classes_of
from opsin.errors import ConfigError
from opsin.results import Classification


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Chinese palace and a flower, from scikit-learn; the second in a folder and with a name for tables to quote."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "palace.jpg", folder / 'a, "flower".png']
    for path, pixels in zip(paths, load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def test_classifier_in_python(photos: list[Path]) -> None:
    classifier = Classifier.from_pretrained("imagenet", device="cpu", precision="32")
    results = classifier.classify(photos, top_k=3)
    assert [type(result) for result in results] == [Classification, Classification]
    assert [result.labels[0] for result in results] == ["palace", "daisy"]
    assert len(classifier.class_names) == 1000
    encoder = load("imagenet", device="cpu", precision="32")
    assert isinstance(encoder, ImagenetEncoder)
    expected = encoder.class_scores(photos).softmax(dim=1).topk(3).values
    torch.testing.assert_close(torch.tensor([result.probabilities for result in results]), expected)
    one_by_one = classifier.classify(photos, top_k=3, batch_size=1)
    assert [result.labels for result in one_by_one] == [result.labels for result in results]
    assert classifier.classify(photos[1])[0].labels == classifier.classify(photos[1:])[0].labels
    assert classifier.classify([]) == []


def test_it_is_evaluated_as_any_classifier(photos: list[Path], tmp_path: Path) -> None:
    for name, photo in zip(("palace", "daisy"), photos, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / photo.name).write_bytes(photo.read_bytes())
    classifier = Classifier.from_pretrained("imagenet", device="cpu")
    assert evaluate_classifier(classifier, str(tmp_path / "photos")).metrics.accuracy == 1


def test_what_only_a_model_directory_can_do(photos: list[Path], tmp_path: Path) -> None:
    classifier = Classifier.from_pretrained("imagenet", device="cpu")
    with pytest.raises(ConfigError, match="has no attention"):
        classifier.attention_maps(photos)
    with pytest.raises(ConfigError, match="not saved as a model directory"):
        classifier.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="not uploaded"):
        classifier.push_to_hub("org/name")


@pytest.mark.parametrize("model", [[], ["--model", "imagenet"]])
def test_classify_without_a_model(
    photos: list[Path], model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    command = ["classify", *map(str, photos), *model, "-k", "2", "--csv", str(table)]
    assert main([*command, "--json"]) == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert document["model"] == "imagenet"
    assert [image["labels"][0] for image in document["images"]] == ["palace", "daisy"]
    assert ("for classes of your own: --labels" in output.err) == (not model)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["label"]) for row in rows] == [
        (image["image"], label) for image in document["images"] for label in image["labels"]
    ]
    assert [float(row["probability"]) for row in rows] == [
        pytest.approx(probability, abs=1e-6) for image in document["images"] for probability in image["probabilities"]
    ]


def test_labels_of_ones_own_as_a_table(photos: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    command = ["classify", str(photos[0]), "--labels", "a house,a flower", "--csv", str(table), "--quiet"]
    assert main(command) == 0
    with open(table, encoding="utf-8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"a house", "a flower"}


def test_attention_of_a_convolutional_network_is_refused(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(photos[0]), "--attention", str(tmp_path / "looks")]) == 2
    assert "has no attention" in capsys.readouterr().err


def test_labels_are_sums_of_classes(photos: list[Path]) -> None:
    """With a label for all other classes they are the sums themselves."""
    classifier = Classifier.from_pretrained("imagenet", device="cpu")
    classes = [dict(zip(one.labels, one.probabilities, strict=True)) for one in classifier.classify(photos, top_k=1000)]
    assert isinstance(classifier, ImagenetClassifier)
    classifier.use_labels(["flower", "Building"], other="other")
    flowers = [class_names()[number] for number in classes_of("flower")]
    for found, probabilities in zip(classifier.classify(photos, top_k=3), classes, strict=True):
        by_label = dict(zip(found.labels, found.probabilities, strict=True))
        assert sum(by_label.values()) == pytest.approx(1)
        assert by_label["flower"] == pytest.approx(sum(probabilities[name] for name in flowers), abs=1e-5)
    with pytest.raises(ConfigError, match="no class and no group 'unicorn'"):
        classifier.use_labels(["dog", "unicorn"])


def test_labels_of_imagenet_on_the_command_line(photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["classify", str(photos[0]), "--model", "imagenet", "--labels", "flower,building", "--device", "cpu"]
    assert main([*ask, "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert sorted(image["labels"]) == ["building", "flower"]
    assert main([*ask, "--template", "a {}"]) == 2
    assert "--template is for models of images and texts" in capsys.readouterr().err
