"""Zero-shot classification with a small network of open_clip, compared with the formulas written out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from opsin.clip.evaluation import evaluate_retrieval
from opsin.clip.zero_shot import DEFAULT_TEMPLATES, NULL_PROMPTS, ZeroShotClassifier
from opsin.clip.zero_shot_evaluation import evaluate_zero_shot
from opsin.encoders.loading import load_image_text
from opsin.encoders.open_clip import OpenClipEncoder, wrap
from opsin.errors import ConfigError, DataError
from tests.classification.conftest import make_colour_folder
from tests.encoders.clip_models import tiny_clip
from tests.search.colours import ColourEncoder

LABELS = ["a person", "an animal", "food"]


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    encoder = wrap("tiny", tiny_clip(), torch.device("cpu"))
    encoder.precision = "32"
    return encoder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(256, size=(40, 50, 3), dtype=np.uint8)) for _ in range(6)]


def test_classes_of_images(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    """Label by label and image by image, as the paper has it."""
    classifier = opsin.ZeroShotClassifier(encoder, LABELS, templates=["a photo of {}", "{}!"])
    centres = []
    for label in LABELS:
        centre = encoder.encode_text([f"a photo of {label}", f"{label}!"]).mean(dim=0)
        centres.append(centre / centre.norm())
    for image, result in zip(images, classifier.classify(images, top_k=2), strict=True):
        (feature,) = encoder.encode_image([image])
        cosines = torch.stack([(feature * centre).sum() for centre in centres])
        probabilities = (encoder.logit_scale * cosines).softmax(dim=0)
        order = probabilities.argsort(descending=True).tolist()[:2]
        assert result.labels == tuple(LABELS[index] for index in order)
        assert result.probabilities == pytest.approx([float(probabilities[index]) for index in order], abs=1e-5)
        assert result.cosines == pytest.approx([float(cosines[index]) for index in order], abs=1e-5)


def test_top_k(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    classifier = ZeroShotClassifier(encoder, LABELS)
    (result,) = classifier.classify(images[:1], top_k=99)
    assert sorted(result.labels) == sorted(LABELS)
    assert sum(result.probabilities) == pytest.approx(1)
    assert list(result.probabilities) == sorted(result.probabilities, reverse=True)
    with pytest.raises(ValueError, match="top_k"):
        classifier.classify(images, top_k=0)


def test_words_of_a_label(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    """A mapping says what stands in the templates; braces in a label are letters."""
    words = {"cat": ["a cat", "a kitten"], "{dog}": ["{0} {dog}"]}
    classifier = ZeroShotClassifier(encoder, words, templates=["photo: {}"])
    assert classifier.prompts == {"cat": ("photo: a cat", "photo: a kitten"), "{dog}": ("photo: {0} {dog}",)}
    assert set(classifier.classify(images)[0].labels) == {"cat", "{dog}"}


def test_other_is_what_texts_about_nothing_fit_better(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    classifier = ZeroShotClassifier(encoder, LABELS, other="none of these")
    assert classifier.labels == (*LABELS, "none of these")
    without = ZeroShotClassifier(encoder, LABELS)
    null = encoder.encode_text(NULL_PROMPTS).mean(dim=0)
    null = null / null.norm()
    for image, with_other, plain in zip(images, classifier.classify(images), without.classify(images), strict=True):
        nothing = float((encoder.encode_image([image])[0] * null).sum())
        assert (with_other.labels[0] == "none of these") == (nothing > plain.cosines[0])
    alone = ZeroShotClassifier(encoder, ["a person"], other="other", null_prompts=["a photo of a person"])
    assert alone.labels == ("a person", "other")


def test_calibration_changes_probabilities_and_no_ranks(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    classifier = ZeroShotClassifier(encoder, LABELS)
    before = classifier.classify(images)
    best = [result.labels[0] for result in before]
    truths = [*best[:-2], *[result.labels[1] for result in before[-2:]]]
    calibration = classifier.calibrate(images, truths)
    assert calibration.logit_scale == classifier.logit_scale != encoder.logit_scale
    assert calibration.loss[1] <= calibration.loss[0]
    assert calibration.count == 6
    assert [result.labels for result in classifier.classify(images)] == [result.labels for result in before]
    with pytest.raises(ConfigError, match="'car' is none of the labels"):
        classifier.calibrate(images, ["car"] * 6)
    with pytest.raises(ValueError, match="6 images and 2 labels"):
        classifier.calibrate(images, truths[:2])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "none is given"),
        (["a dog"], {}, "only 'a dog' is given"),
        (["a dog", " "], {}, "is empty"),
        (["a dog", "A Dog "], {}, "there twice"),
        (["a dog", "other"], {"other": "other"}, "there twice"),
        ("a dog", {}, r"write \['a dog'\]"),
        (LABELS, {"templates": ["a photo"]}, "has no {}"),
        (LABELS, {"templates": []}, "at least one"),
        (LABELS, {"templates": "a {}"}, "are a list"),
        (LABELS, {"logit_scale": 0.0}, "above zero"),
        (LABELS, {"logit_scale": float("nan")}, "above zero"),
        ({"a": ["x"], "b": []}, {}, "'b'"),
        ({"a": "x", "b": ["y"]}, {}, "'a'"),
    ],
)
def test_what_is_refused(encoder: OpenClipEncoder, labels: list[str], options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ZeroShotClassifier(encoder, labels, **options)


def test_images_that_cannot_be_classified(encoder: OpenClipEncoder) -> None:
    classifier = ZeroShotClassifier(encoder, LABELS)
    with pytest.raises(DataError, match=r"there is no file missing\.png"):
        classifier.classify(["missing.png"])
    with pytest.raises(ValueError, match="at least one image"):
        classifier.classify([])


def test_evaluation_of_a_folder(encoder: OpenClipEncoder, tmp_path: Path) -> None:
    """Counts as they come from classifying the files one by one; a broken one shifts nothing."""
    folder = make_colour_folder(tmp_path / "colours", per_class=13)
    (folder / "green").rename(folder / "dark_green")
    (folder / "blue" / "05.png").write_bytes(b"no image")
    evaluation = evaluate_zero_shot(encoder, str(folder))
    names = ("blue", "dark_green", "red")
    assert evaluation.class_names == names
    words = dict(zip(names, (["blue"], ["dark green"], ["red"]), strict=True))
    classifier = ZeroShotClassifier(encoder, words, templates=DEFAULT_TEMPLATES)
    confusion = np.zeros((3, 3), dtype=int)
    for row, name in enumerate(names):
        for file in sorted((folder / name).iterdir()):
            if file.stat().st_size > 8:
                (result,) = classifier.classify([file], top_k=1)
                confusion[row, names.index(result.labels[0])] += 1
    np.testing.assert_array_equal(evaluation.metrics.confusion, confusion)
    assert confusion.sum() == evaluation.metrics.count == 38
    assert [row.id for row in evaluation.skipped] == ["blue/05.png"]
    assert evaluation.metrics.accuracy == pytest.approx(np.trace(confusion) / 38)
    assert 0 <= evaluation.calibration_error <= 1
    assert evaluation.fitted_calibration_error is not None
    assert "38 images" in evaluation.protocol and "split 'all'" in evaluation.protocol


def test_a_second_evaluation_runs_no_image_encoder(tmp_path: Path) -> None:
    """But for the image by which it is known, one an evaluation. Also with other templates; retrieval and zero-shot
    classification share what is kept."""
    folder = make_colour_folder(tmp_path / "colours", per_class=13)
    (folder / "blue" / "05.png").write_bytes(b"no image")
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("*/*.png"))]
    captioned = tmp_path / "captioned"
    shutil.copytree(folder, captioned)
    (captioned / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    encoder = ColourEncoder()
    first = evaluate_zero_shot(encoder, str(folder))
    assert (first.metrics.count, encoder.images_encoded) == (38, 38 + 1)
    second = evaluate_zero_shot(encoder, str(folder))
    np.testing.assert_array_equal(first.metrics.confusion, second.metrics.confusion)
    assert [row.id for row in second.skipped] == ["blue/05.png"]
    assert evaluate_zero_shot(encoder, str(folder), templates=["{}!"]).metrics.count == 38
    retrieval = evaluate_retrieval(encoder, None, str(captioned))
    assert retrieval.styles["all"].image_to_text.queries == 38
    assert [row.id for row in retrieval.skipped] == ["blue/05.png"]
    assert encoder.images_encoded == 38 + 4
    retrained = ColourEncoder("colours/2")
    evaluate_retrieval(retrained, None, str(captioned))
    assert retrained.images_encoded == 38 + 1


def test_sources_that_cannot_be_evaluated(encoder: OpenClipEncoder, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="has no labels"):
        evaluate_zero_shot(encoder, str(tmp_path))
    for name in ("cat", "dog"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images"):
        evaluate_zero_shot(encoder, str(tmp_path / "broken"))
    with pytest.raises(DataError, match="no split 'val'"):
        evaluate_zero_shot(encoder, str(tmp_path / "broken"), "val")


def test_labels_that_cannot_be_read_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_image_text("emoji-clip", "cpu", "32")
    ZeroShotClassifier(encoder, ["café", "naïve", "🍎", "dog"])
    assert caplog.messages == []
    ZeroShotClassifier(encoder, ["café", "naïve", "犬", "long " * 40])
    (message,) = caplog.messages
    assert "emoji-clip can read nothing of 1 of 4 labels ('犬')" in message
    assert "only the first 31 tokens of 1 of 4 labels ('long long" in message
    caplog.clear()
    ZeroShotClassifier(encoder, {"犬": ["dog", "犬"], "cat": ["cat"]})
    assert caplog.messages == []


def test_labels_that_are_the_same_to_the_encoder_are_refused(encoder: OpenClipEncoder) -> None:
    emoji = load_image_text("emoji-clip", "cpu", "32")
    for labels in (["🍎", "red apple", "dog"], ["ｆish", "fish"], ["hat " * 40 + "a", "hat " * 40 + "b"]):
        with pytest.raises(ConfigError, match="as the same, so that it cannot tell them apart"):
            ZeroShotClassifier(emoji, labels)
    with pytest.raises(ConfigError, match="as the same"):
        ZeroShotClassifier(encoder, ["hat " * 20 + "a", "hat " * 20 + "b"])
    with pytest.raises(ConfigError, match="can read nothing of any label"):
        ZeroShotClassifier(emoji, ["犬", "猫"])
    with pytest.raises(ConfigError, match="there twice"):
        ZeroShotClassifier(emoji, ["caf\u00e9", "cafe\u0301"])
