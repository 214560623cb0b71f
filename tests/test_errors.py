"""Errors of opsin are also the built-in errors that callers expect, and code that catches those keeps the message."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

import opsin.errors
from opsin import Classifier
from opsin.cli.main import main
from opsin.config import load_json
from opsin.errors import ConfigError, DataError, DataNotFoundError, MissingExtraError, OpsinError
from opsin.files import atomic_write
from opsin.images.opening import open_image
from opsin.sources.opening import list_inputs, open_source
from opsin.state_dicts import read_safetensors, read_torch_file


@pytest.mark.parametrize(
    "missing",
    [
        open_image,
        open_source,
        load_json,
        read_torch_file,
        read_safetensors,
        Classifier.from_pretrained,
        lambda path: list_inputs([path], ()),
    ],
)
def test_a_path_that_does_not_exist_is_a_file_not_found_error(missing, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        missing(str(tmp_path / "nothing.here"))
    assert isinstance(caught.value, OpsinError) and "nothing.here" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_kinds_of_errors() -> None:
    assert issubclass(ConfigError, ValueError) and issubclass(DataError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    for error in vars(opsin.errors).values():
        if isinstance(error, type) and issubclass(error, OpsinError) and error is not opsin.errors.TrainingInterrupted:
            assert str(error("a sentence")) == "a sentence"


def test_an_error_of_a_block_is_no_failure_to_write(tmp_path: Path) -> None:
    """Although a missing image is an OSError, too."""
    with pytest.raises(DataNotFoundError, match="there is no file"), atomic_write(tmp_path / "file"):
        open_image(tmp_path / "missing.png")
    assert list(tmp_path.iterdir()) == []


def test_what_a_config_refuses_is_said_as_it_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser of arguments catches the ValueError that a ConfigError is."""
    for options, words in (
        (["--image-size", "0"], "image_size must be at least 1"),
        (["--learning-rate", "-1"], "learning_rate must be above 0"),
    ):
        assert main(["train", "vit", "--data", "emoji", "--out", str(tmp_path / "run"), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("opsin: ") and words in error


def test_labels_without_a_readable_image_and_wrong_settings_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    command = ["classify", "--labels", "red,blue", "--device", "cpu", "--quiet"]
    assert main([*command, str(tmp_path / "broken.png")]) == 1
    assert "the only file is a readable image; the first: " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "good.png"), "--top-k", "0"]) in (1, 2)
    assert "top-k" in capsys.readouterr().err
