"""Images that look unlike those that a model was trained on: photographs, and drawn noise with their spectrum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from opsin import Captioner, Classifier
from opsin.checkpoint import DOMAIN_FILE, ZOO_DIRECTORY, export_pretrained, read_domain
from opsin.classification.config import ViTConfig
from opsin.classification.inference import ClassifierContent, build_model
from opsin.cli.main import main
from opsin.config import from_dict
from opsin.data.pixels import fit_image, load_pixels
from opsin.domain import FEWEST_IMAGES, MOST_IMAGES, ImageDomain, Watch, watch_of
from opsin.encoders import load
from opsin.errors import CheckpointError, DataError
from opsin.images.preprocessing import Preprocessing
from opsin.sources.opening import open_source
from opsin.systems import SYSTEMS
from opsin.training.config import TrainingConfig
from opsin.training.state import domain_of, record_domain
from opsin.training.trainer import Trainer
from tests.toy_system import ROW
from tests.training.toy import ToyData, ToyTask

EMOJI_MODELS = ("emoji-captioner", "emoji-clip", "emoji-diffusion")


def photo_like(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise whose amplitudes fall with the frequency as those of photographs do, in colors that vary together."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    amplitude = 1 / np.maximum(frequency, 1 / 64) ** 1.5
    images = []
    for _ in range(count):
        noise = np.stack(
            [np.fft.ifft2(np.fft.fft2(plane) * amplitude).real for plane in generator.normal(size=(3, 64, 64))]
        )
        mixed = np.tensordot(0.4 * np.eye(3) + 0.2, noise, axes=1).transpose(1, 2, 0)
        scaled = 0.2 * (mixed - mixed.mean()) / mixed.std() + generator.uniform(0.3, 0.6)
        images.append(Image.fromarray((scaled.clip(0, 1) * 255).astype(np.uint8)))
    return images


def fitted(images: Sequence[Image.Image], size: int = 32) -> Tensor:
    return torch.from_numpy(np.stack([fit_image(image, size) for image in images]))


def photographs() -> list[Image.Image]:
    """Parts of scikit-learn's photographs of a palace and a flower."""
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    corners = [(left, top) for left in (0, 160, 320) for top in (0, 107)]
    return [image.crop((left, top, left + 320, top + 320)) for image in whole for left, top in corners]


def domain_of_zoo(name: str) -> ImageDomain:
    return from_dict(ImageDomain, read_domain(ZOO_DIRECTORY / name) or {}, where=name)


@pytest.fixture(scope="module")
def emoji() -> Tensor:
    return torch.from_numpy(load_pixels(open_source("emoji"), 32)[1])


# ------------------------------------------------------------------------------------------------- telling apart


@pytest.mark.parametrize("name", EMOJI_MODELS)
def test_emoji_models_tell_photographs_from_emoji(name: str, emoji: Tensor) -> None:
    domain = domain_of_zoo(name)
    assert domain.unlike(emoji).float().mean() < 0.02
    assert domain.unlike(fitted(photographs())).float().mean() > 0.8
    assert domain.unlike(fitted(photo_like(50))).float().mean() > 0.9


def test_model_of_tiny_photographs_tells_emoji_from_photographs(emoji: Tensor) -> None:
    domain = domain_of_zoo("cifar10-simclr")
    assert domain.unlike(emoji).float().mean() > 0.9
    assert domain.unlike(fitted(photographs())).float().mean() < 0.2
    assert domain.unlike(fitted(photo_like(50))).float().mean() < 0.2


def test_images_held_out_are_rarely_unlike(emoji: Tensor) -> None:
    order = torch.randperm(len(emoji), generator=torch.Generator().manual_seed(0))
    domain = ImageDomain.of(emoji[order[:1000]])
    assert domain is not None
    assert domain.unlike(emoji[order[1000:]]).float().mean() < 0.02


def test_the_size_of_the_images_hardly_matters(emoji: Tensor) -> None:
    domain = domain_of_zoo("emoji-clip")
    assert domain.unlike(fitted(photographs(), 96)).float().mean() > 0.8
    large = emoji[:400].repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert torch.equal(domain.unlike(large), domain.unlike(emoji[:400]))


@pytest.mark.parametrize("side", [1, 2, 33])
def test_senseless_training_images_break_nothing(side: int) -> None:
    same = torch.full((FEWEST_IMAGES, 3, side, side), 200, dtype=torch.uint8)
    domain = ImageDomain.of(same)
    assert domain is not None
    assert not domain.unlike(same).any()
    assert domain.unlike(torch.zeros_like(same)).all()


def test_of_few_images_nothing_is_told() -> None:
    assert ImageDomain.of(torch.zeros(FEWEST_IMAGES - 1, 3, 8, 8, dtype=torch.uint8)) is None


# ------------------------------------------------------------------------------------------------------- counting


def test_threads_count_together() -> None:
    watch = Watch(domain_of_zoo("emoji-clip"))
    images = fitted(photo_like(4))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(watch.see, [images] * 25))
    assert (watch.seen, watch.unlike) == (100, 100)
    with watch.paused():
        watch.see(images)
    assert watch.seen == 100


@pytest.mark.parametrize(
    ("unlike", "seen", "notable"), [(0, 0, False), (0, 9, False), (1, 1, True), (1, 4, True), (1, 5, False)]
)
def test_from_a_quarter_on_it_is_worth_a_word(unlike: int, seen: int, notable: bool) -> None:
    watch = Watch()
    watch.unlike, watch.seen = unlike, seen
    assert watch.is_notable == notable


def test_what_is_no_model_of_opsin_counts_nothing() -> None:
    watch = watch_of(load("imagenet", "cpu"))
    watch.see(fitted(photo_like(1)))
    assert watch.seen == 0


def test_every_way_through_a_model_counts_once() -> None:
    images = photo_like(40)
    encoder = load("emoji-clip", "cpu")
    encoder.encode_image(images)
    captioner = Captioner.from_pretrained("emoji-captioner", "cpu")
    captioner.caption(images[:3], beams=1, batch_size=2)
    assert [(watch_of(model).seen, watch_of(model).unlike) for model in (encoder, captioner)] == [(40, 40), (3, 3)]


# ------------------------------------------------------------------------------------------------- in directories


class PictureData(ToyData):
    """Toy data that has images as well."""

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(len(indices))
        images = torch.randint(256, (len(indices), 3, 8, 8), generator=generator, dtype=torch.uint8)
        return {**super().__getitems__(indices), "image": images}


class Unreadable(PictureData):
    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        if 0 in indices:
            raise DataError("none of them can be read")
        return super().__getitems__(indices)


def test_every_run_keeps_the_domain_of_its_training_images(tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=1, batch_size=8, device="cpu")
    for name, data, has_domain in (("with", PictureData(FEWEST_IMAGES), True), ("without", ToyData(200), False)):
        Trainer(config, tmp_path / name).fit(ToyTask(), data, {})
        assert (tmp_path / name / "model" / DOMAIN_FILE).is_file() == has_domain


def test_a_run_that_goes_on_keeps_the_domain_that_it_has(tmp_path: Path) -> None:
    asked: list[int] = []

    class Asked(PictureData):
        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            asked.extend(indices)
            return super().__getitems__(indices)

    for steps in (1, 2):
        asked.clear()
        config = TrainingConfig(max_steps=steps, batch_size=8, device="cpu", workers=0)
        Trainer(config, tmp_path / "run").fit(ToyTask(), Asked(FEWEST_IMAGES), {}, resume=steps == 2)
        assert (tmp_path / "run" / "model" / DOMAIN_FILE).is_file()
    assert len(asked) < FEWEST_IMAGES


def test_at_most_some_images_are_looked_at_and_broken_ones_are_passed_over(tmp_path: Path) -> None:
    asked: list[int] = []

    class Asked(PictureData):
        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            asked.extend(indices)
            return super().__getitems__(indices)

    assert domain_of(Asked(3 * MOST_IMAGES)) is not None
    assert len(asked) == len(set(asked)) == MOST_IMAGES
    assert (min(asked), max(asked)) == (0, 3 * MOST_IMAGES - 1)
    assert domain_of(Unreadable(250)) is not None
    record_domain(tmp_path, Unreadable(90))
    assert not (tmp_path / DOMAIN_FILE).exists()


def small_classifier() -> Classifier:
    config = ViTConfig(patch_size=8, embed_dim=8, num_layers=1, num_heads=1, dim_feedforward=8)
    content = ClassifierContent(model=config, class_names=("a", "b"), preprocessing=Preprocessing(image_size=16))
    return Classifier(build_model(config, 16, 2), content)


def test_the_domain_goes_along_with_the_model(tmp_path: Path) -> None:
    classifier = small_classifier()
    classifier.watch = Watch(domain_of_zoo("emoji-clip"))
    classifier.save_pretrained(tmp_path / "model")
    export_pretrained(tmp_path / "model", tmp_path / "exported", half=True)
    loaded = Classifier.from_pretrained(tmp_path / "exported", "cpu")
    assert loaded.watch.domain == classifier.watch.domain
    loaded.classify(photo_like(3))
    assert (loaded.watch.seen, loaded.watch.unlike) == (3, 3)
    encoder = load(str(tmp_path / "exported"), "cpu")
    encoder.encode_image(photo_like(2))
    assert (watch_of(encoder).seen, watch_of(encoder).unlike) == (2, 2)


def test_models_from_before_have_none(tmp_path: Path) -> None:
    small_classifier().save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / DOMAIN_FILE).exists()
    assert Classifier.from_pretrained(tmp_path / "model", "cpu").watch.domain is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"mean": [1], "precision": [[1]], "limit": 1}'])
def test_damaged_file(tmp_path: Path, content: str) -> None:
    small_classifier().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / DOMAIN_FILE).write_text(content)
    with pytest.raises(CheckpointError, match="domain.json"):
        Classifier.from_pretrained(tmp_path / "model", "cpu")


# ---------------------------------------------------------------------------------------------------------- verbs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two classes, as photographs have their files."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for number, image in enumerate(photo_like(12)):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["caption", "PHOTOS", "--beams", "1"],
        ["classify", "PHOTOS", "--labels", "a dog,food", "--model", "emoji-clip"],
        ["index", "PHOTOS", "--out", "OUT", "--model", "emoji-clip"],
        ["embed", "PHOTOS", "--out", "OUT", "--model", "emoji-clip"],
        ["evaluate", "emoji-clip", "--data", "PHOTOS", "--zero-shot"],
    ],
    ids=lambda command: command[0],
)
def test_verbs_say_it(command: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in command]) == 0
    message = capsys.readouterr().err
    assert "12 of 12 images look unlike the training images of emoji-" in message
    assert "; for photographs: " in message


def test_scores_of_features_from_the_cache_say_it_as_well(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert main(["evaluate", "emoji-clip", "--data", str(photos), "--protocol", "knn"]) == 0
        assert "12 of 12 images look unlike the training images of emoji-clip" in capsys.readouterr().err


def test_search_by_an_image_says_it_and_words_do_not(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    assert main(["index", str(photos), "--out", index, "--model", "emoji-clip", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["search", index, "--image", str(photos / "odd" / "1.png"), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["hits"]
    assert "the image looks unlike the training images of emoji-clip" in output.err
    assert main(["search", index, "a dog"]) == 0
    assert "unlike" not in capsys.readouterr().err


def test_nothing_is_said_about_emoji(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source("emoji")
    for row in range(0, 400, 20):
        source.load(row).save(tmp_path / f"{row}.png")
    assert main(["caption", str(tmp_path), "--beams", "1"]) == 0
    assert "unlike" not in capsys.readouterr().err


def test_a_run_of_few_images_says_what_its_model_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SYSTEMS, "toy", ROW)
    generator = np.random.default_rng(0)
    for number in range(8):
        directory = tmp_path / "data" / ("red", "blue")[number % 2]
        directory.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(directory / f"{number}.png")
    command = ["train", "toy", "--data", str(tmp_path / "data"), "--max-steps", "1", "--device", "cpu"]
    for fewest, notes in ((100, 1), (4, 0)):
        monkeypatch.setattr("opsin.domain.FEWEST_IMAGES", fewest)
        run = tmp_path / str(fewest)
        assert main([*command, "--out", str(run)]) == 0
        assert capsys.readouterr().err.count("the model will not say which images are unlike them") == notes
        assert (run / "model" / DOMAIN_FILE).exists() == (not notes)
