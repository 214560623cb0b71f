"""What `emoji-clip` makes of prompts that are no plain words, and what is said about it."""

from __future__ import annotations

import logging

import pytest

from opsin.data.emoji import list_emoji
from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.model import build_model
from opsin.diffusion.prompts import spoken
from opsin.encoders.base import TextEncoder
from opsin.encoders.loading import load_image_text


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_image_text("emoji-clip", "cpu", "32")


@pytest.fixture(scope="module")
def model(encoder: TextEncoder) -> TextToImage:
    config, process = UnetConfig(dim=4, dim_mults=(1,)), ProcessConfig(timesteps=3)
    return TextToImage(build_model(config, process, 8, 256), config, process, "emoji-clip", loaded_encoder=encoder)


def test_an_emoji_is_read_as_its_name(model: TextToImage, encoder: TextEncoder) -> None:
    known = {"🍎": "red apple", "❤️": "red heart", "👩‍🚀": "woman astronaut", "🇩🇪": "Germany"}
    assert spoken(encoder, list(known)) == list(known.values())
    assert spoken(encoder, ["a 🤠dog", "naïve™ 日本"]) == ["a cowboy hat face dog", "naïve™ 日本"]
    pairs = model.encode_prompts(["🍎", "red apple", "green apple"])
    assert pairs[0].equal(pairs[1]) and not pairs[0].allclose(pairs[2])


def test_the_names_of_emoji_stay_as_they_are(encoder: TextEncoder) -> None:
    names = [name for emoji in list_emoji() for name in emoji.names]
    assert len(names) > 3000 and spoken(encoder, names) == names


def test_a_prompt_with_nothing_to_see_is_the_empty_one(model: TextToImage, caplog: pytest.LogCaptureFixture) -> None:
    assert not model.encode_prompts(["", " \n", "\u200b", "\u2060\ufeff \u200d", "\x07"]).any()
    assert caplog.records == []


def test_prompts_that_cannot_be_read_are_named(model: TextToImage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model.encode_prompts(["red apple", "🍎", "9", "x", "café", "apple 日本", "six o’clock"])
        assert caplog.messages == []
        model.encode_prompts(["red apple", "日本語", "зима", "?!", "Ωραία", "apple " * 15 + "tree"])
        unread = "emoji-clip can read nothing of '日本語', 'зима', '?!' and 1 more"
        assert [unread in message for message in caplog.messages] == [True]
        caplog.clear()
        model.encode_prompts(["hat " * 31, "hat " * 32 + "dog"])
    (message,) = caplog.messages
    assert "reads the first 31 parts of words" in message and "the end of 'hat hat " in message
    assert "and" not in message and message.count("hat hat") > 1


def test_words_that_are_cut_have_no_say(model: TextToImage) -> None:
    whole, longer, much_longer = model.encode_prompts(["hat " * 31, "hat " * 32 + "dog", "hat " * 31 + "red apple"])
    assert whole.equal(longer) and whole.equal(much_longer)
