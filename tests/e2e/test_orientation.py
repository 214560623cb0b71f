"""A photo reaches every network upright, however the camera was held: each verb does the same with both folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.checkpoint import load_pretrained, read_model_config
from opsin.cli.main import main
from opsin.encoders import load
from opsin.encoders.features import source_features, source_vectors
from opsin.simclr.inference import SimclrEncoder
from opsin.sources.opening import open_source
from tests.images.orientation import save_turned

from . import test_captioning, test_classification, test_clip, test_diffusion, test_simclr
from .test_diffusion import table  # noqa: F401  (a fixture)

SYSTEMS = {
    "vit": test_classification.SHORT,
    "simclr": test_simclr.TINY,
    "clip": test_clip.TINY,
    "captioner": test_captioning.TINY,
    "diffusion": test_diffusion.TINY,
}
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same images with the same names, upright, and as they lie in a file of orientation 6."""
    directory = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (16, 4, 6, 3), dtype=np.uint8)
    for place, values in enumerate(noise):
        image = Image.fromarray(values).resize((60, 40), Image.Resampling.BICUBIC)
        for name, orientation in (("upright", 1), ("turned", 6)):
            path = save_turned(image, orientation, directory / name / "ab"[place % 2] / f"{place}")
            path.with_suffix(".txt").write_text(f"all {('red', 'blue')[place // 2 % 2]}\n")
    return directory / "upright", directory / "turned"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints as JSON."""

    def call(*arguments: object) -> Any:
        capsys.readouterr()
        assert main([*map(str, arguments), "--quiet", "--json"]) == 0
        return documents(capsys.readouterr().out)

    return call


def documents(printed: str) -> Any:
    """One JSON document, or the lines of JSON Lines."""
    try:
        return json.loads(printed)
    except ValueError:
        return [json.loads(line) for line in printed.splitlines()]


def trained(system: str, folder: Path, out: Path, *options: object) -> Path:
    arguments = ["train", system, "--data", folder, "--out", out, "--max-steps", 2, "--quiet", *options]
    assert main(list(map(str, arguments))) == 0
    return out


@pytest.mark.parametrize("system", SYSTEMS)
def test_training(system: str, folders: tuple[Path, Path], table: Path, tmp_path: Path) -> None:  # noqa: F811
    options = (*SYSTEMS[system], *(("--text-encoder", table) if system == "diffusion" else ()))
    runs = [trained(system, folder, tmp_path / folder.name, *options) for folder in folders]
    kind = read_model_config(runs[0] / "model")["kind"]
    (_, upright), (_, turned) = (load_pretrained(path, kind=kind) for path in runs)
    for name, tensor in upright.items():
        assert torch.equal(turned[name], tensor), name


def test_verbs_that_name_images(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    classifier = trained("vit", folders[0], tmp_path / "run", *SYSTEMS["vit"])
    for verb in (
        ("classify", "--model", classifier),
        ("classify", "--labels", "red apple,dog"),
        ("caption", "--beams", 1),
        ("evaluate", classifier, "--split", "all", "--data"),
        ("evaluate", "emoji-captioner", "--split", "all", "--data"),
        ("data", "check"),
    ):
        upright, turned = (json.dumps(run(*verb, folder)).replace(str(folder), "") for folder in folders)
        if verb[:2] == ("evaluate", classifier):  # only of its own training images can it be said that they are such
            upright, turned = (re.sub(r'"training_repeats": \[.*?\], ', "", text) for text in (upright, turned))
        assert turned == upright, verb


def test_index_embed_and_search(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    upright, turned = folders
    run("index", turned, "--out", tmp_path / "index")
    (best, *_) = run("search", tmp_path / "index", "--image", upright / "a" / "0.png")["hits"]
    assert (best["id"], round(best["cosine"], 3)) == ("a/0.png", 1)
    (best, *_) = run("search", tmp_path / "index", "--image", turned / "a" / "0.png")["hits"]
    assert (best["id"], round(best["cosine"], 3)) == ("a/0.png", 1)
    for folder in folders:
        run("embed", folder, "--out", tmp_path / folder.name)
    vectors = [np.load(tmp_path / folder.name / "000000.npy") for folder in folders]
    np.testing.assert_array_equal(*vectors)


def test_generate_from_an_image(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in folders:
        out = tmp_path / folder.name / "grid.png"
        arguments = ["generate", "red apple", "--image", folder / "a" / "0.png", "-n", 1, "--steps", 2, "--out", out]
        assert main([*map(str, arguments), "--quiet"]) == 0
    upright, turned = (Image.open(tmp_path / folder.name / "grid.png") for folder in folders)
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(upright))


def test_python_entrances(folders: tuple[Path, Path]) -> None:
    """Paths, opened images, images that Pillow opened, and sources, to encoders of images, vectors and patches."""
    upright, turned = folders
    names = ["a/0.png", "b/1.png"]
    for encoder in (load("emoji-clip"), SimclrEncoder.from_pretrained("cifar10-simclr")):
        expected = encoder.encode_image([upright / name for name in names])
        for way in (
            [turned / name for name in names],
            [(turned / name).read_bytes() for name in names],
            [Image.open(turned / name) for name in names],
            [open_source(turned).load(row) for row in (0, 8)],
        ):
            assert torch.equal(encoder.encode_image(way), expected)
        for features in (source_vectors, source_features):
            both = [np.asarray(features(open_source(folder), encoder)[1]) for folder in folders]
            np.testing.assert_array_equal(*both)
