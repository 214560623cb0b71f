"""What `emoji-clip` makes of prompts that are no plain words, and what is said about it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from opsin.cli.main import main
from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.model import DiffusionContent
from opsin.encoders.base import TextEncoder
from opsin.encoders.loading import load_image_text


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_image_text("emoji-clip", "cpu", "32")


@pytest.fixture(scope="module")
def model(encoder: TextEncoder) -> TextToImage:
    config, process = UnetConfig(dim=4, dim_mults=(1,)), ProcessConfig(timesteps=3)
    content = DiffusionContent(model=config, process=process, image_size=8, text_encoder="emoji-clip", text_dim=256)
    return TextToImage(TextToImage.build(content), content, loaded_encoder=encoder)


def test_an_emoji_is_drawn_as_its_name(model: TextToImage) -> None:
    pairs = model.encode_prompts(["🍎", "red apple", "green apple", "a 🤠dog", "a cowboy hat face dog"])
    # Equal but for the last bits: a row of a matrix product can depend on its place in the batch.
    torch.testing.assert_close(pairs[0], pairs[1])
    torch.testing.assert_close(pairs[3], pairs[4])
    assert not pairs[0].allclose(pairs[2])


def test_a_prompt_with_nothing_to_see_is_the_empty_one(model: TextToImage, caplog: pytest.LogCaptureFixture) -> None:
    assert not model.encode_prompts(["", " \n", "\u200b", "\u2060\ufeff \u200d", "\x07"]).any()
    assert caplog.records == []


def test_prompts_that_cannot_be_read_are_named_once(model: TextToImage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model.encode_prompts(["red apple", "🍎", "9", "x", "café", "apple 日本", "six o’clock"])
        assert caplog.messages == []
        prompts = ["red apple", "日本語", "зима", "?!", "Ωραία", "hat " * 32 + "dog", "hat " * 31]
        model.encode_prompts(prompts)
        model.encode_prompts(prompts)
    (message,) = caplog.messages
    assert "emoji-clip can read nothing of 4 of 7 prompts ('日本語', 'зима', '?!' and 1 more)" in message
    assert "reads only the first 31 tokens of 1 of 7 prompts ('hat hat " in message
    caplog.clear()
    model.encode_prompts(["雪"])
    (message,) = caplog.messages
    assert "can read nothing of the prompt '雪'; the drawings have nothing to do with" in message


def test_words_that_are_cut_have_no_say(model: TextToImage) -> None:
    whole, longer, much_longer = model.encode_prompts(["hat " * 31, "hat " * 32 + "dog", "hat " * 31 + "red apple"])
    assert whole.equal(longer) and whole.equal(much_longer)


def test_an_image_and_several_prompts_are_spoken_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "noise.png")
    arguments = ["--image", str(tmp_path / "noise.png"), "--out", str(tmp_path / "out.png"), "--steps", "1", "-n", "1"]
    assert main(["generate", "日本", "雪", *arguments]) == 0
    assert len(caplog.messages) == 1 and "can read nothing of 2 of 2 prompts" in caplog.messages[0]
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("the image looks unlike")]) == 1
