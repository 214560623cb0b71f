"""Drawing with a trained model, and what one can ask of it that makes no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.drawings import Sampling
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.model import DiffusionContent
from opsin.diffusion.pictures import MOST_ROWS, drawings_shown, filmstrip_figure, generations_figure
from opsin.diffusion.samplers import SAMPLERS
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.training.run import TrainReport

from .conftest import COLOURS, BagOfWords

Run = tuple[Path, TrainReport]


@pytest.fixture(scope="module")
def model(colour_run: Run) -> TextToImage:
    return TextToImage.from_pretrained(colour_run[0], device="cpu", precision="32", text_encoder=BagOfWords())


def colour_of(image: Image.Image) -> str:
    mean = np.asarray(image).astype(float).mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: float(np.abs(mean - np.array(COLOURS[name])).sum()))


def drawings_in(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_what_the_prompt_says(model: TextToImage, sampler: str) -> None:
    drawn = model.generate(list(COLOURS), num_images=3, sampler=sampler, guidance_scale=1.0)  # type: ignore[arg-type]
    assert [generation.prompt for generation in drawn] == list(COLOURS)
    right = [colour_of(image) == generation.prompt for generation in drawn for image in generation.images]
    assert sum(right) >= 8
    assert all(image.size == (8, 8) for generation in drawn for image in generation.images)


def test_generator_decides(model: TextToImage) -> None:
    def pixels(seed: int, **options: object) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        (drawn,) = model.generate("red", num_images=4, generator=generator, **options)  # type: ignore[arg-type]
        return np.stack([np.asarray(image) for image in drawn.images]).astype(int)

    assert (pixels(3) == pixels(3)).all()
    assert (pixels(3) != pixels(4)).any()
    assert np.abs(pixels(3) - pixels(3, batch_size=3)).max() <= 1
    assert len({image.tobytes() for image in pixels(3)}) == 4


@pytest.mark.parametrize("guidance", [-1e6, -3.0, -1.0, 0.0, 50.0, 1e6])
@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_any_guidance_gives_pictures(model: TextToImage, guidance: float, threshold: str) -> None:
    sampling = Sampling(guidance_scale=guidance, threshold=threshold, steps=5)  # type: ignore[arg-type]
    for sampler in SAMPLERS:
        chosen = Sampling(**{**vars(sampling), "sampler": sampler})
        assert model.draw(model.encode_prompts(["red"]), chosen).isfinite().all()


def test_guidance_in_lower_precision(colour_run: Run, model: TextToImage) -> None:
    lower = TextToImage.from_pretrained(colour_run[0], device="cpu", precision="bf16", text_encoder=BagOfWords())
    sampling = Sampling(guidance_scale=2.0, steps=10)
    vectors = model.encode_prompts(list(COLOURS))
    drawn, exact = (artist.draw(vectors, sampling)[:, -1] for artist in (lower, model))
    assert (drawn - exact).abs().max() > 0 and (drawn - exact).abs().mean() < 0.05


def test_settings_of_drawing_count(model: TextToImage) -> None:
    def pixels(**options: object) -> np.ndarray:
        (drawn,) = model.generate("red", steps=7, guidance_scale=20.0, **options)  # type: ignore[arg-type]
        return np.asarray(drawn.images[0])

    usual = pixels()
    assert (usual == pixels(threshold="static", spacing="trailing")).all()
    assert (usual != pixels(threshold="dynamic")).any()
    assert (usual != pixels(spacing="leading")).any()


def test_steps_of_a_model_with_few_time_steps() -> None:
    process = ProcessConfig(timesteps=3)
    config = UnetConfig(dim=4, dim_mults=(1,))
    content = DiffusionContent(model=config, process=process, image_size=8, text_encoder="words", text_dim=16)
    few = TextToImage(TextToImage.build(content), content, loaded_encoder=BagOfWords())
    (drawn,) = few.generate("red", trajectory=True)
    assert len(drawn.trajectory[0]) == 1 + 3
    assert few.interpolate("red", "blue").images and few.vary(drawn.images[0], "red").images
    assert (Sampling().steps_of(3), Sampling().steps_of(100), Sampling(steps=4).steps_of(3)) == (3, 20, 4)
    with pytest.raises(ConfigError, match="at least 1 and at most 3"):
        few.generate("red", steps=20)


def test_odd_prompts(model: TextToImage) -> None:
    prompts = ["", "   ", "word " * 5000, "Ωραία 猫 🐱"]
    drawn = model.generate(prompts, steps=3)
    assert drawn == model.generate(prompts, sampling=Sampling(steps=3))
    assert [generation.prompt for generation in drawn] == prompts
    assert model.encode_prompts(["", "red"])[0].abs().max() == 0
    assert model.generate([]) == []


def test_no_look_at_the_prompt_at_minus_one(model: TextToImage) -> None:
    red, blue = (model.generate(prompt, guidance_scale=-1.0, steps=4)[0].images[0] for prompt in ("red", "blue"))
    assert np.abs(np.asarray(red).astype(int) - np.asarray(blue)).max() <= 1


def test_settings_that_make_no_sense(model: TextToImage) -> None:
    for options, message in (
        ({"steps": 0}, "steps must be at least 1 and at most 50"),
        ({"steps": 51}, "steps must be at least 1 and at most 50"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be"),
        ({"guidance_scale": 1e9}, "guidance_scale must be"),
        ({"sampler": "euler"}, "unknown sampler"),
        ({"threshold": "none"}, "static or dynamic"),
        ({"num_images": 0}, "num_images"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.generate("red", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="strength"):
        model.vary(Image.new("RGB", (8, 8)), "red", strength=0)
    with pytest.raises(ConfigError, match="at least 2"):
        model.interpolate("red", "blue", num_images=1)


def test_trajectory_and_pictures(model: TextToImage) -> None:
    generations = model.generate(["red", "$x_1$"], num_images=2, steps=6, trajectory=True)
    assert [len(states) for states in generations[0].trajectory] == [7, 7]
    assert generations[0].trajectory[1][-1] == generations[0].images[1]
    noisy, clean = (np.asarray(generations[0].trajectory[0][place]).std(axis=(0, 1)).mean() for place in (0, -1))
    assert noisy > 2 * clean
    assert len(drawings_in(generations_figure(generations))) == 4
    assert generations_figure(generations).get_suptitle() == ""
    alone = generations_figure(model.generate("$x_1$", num_images=9, steps=1))
    assert alone.get_suptitle() == "$x_1$"
    assert len(drawings_in(alone)) == 9
    assert not any(axes.axison for axes in alone.axes)
    assert drawings_shown(generations) == drawings_shown(generations, in_a_row=1) == 4
    odd = generations_figure([replace(generations[0], prompt=text) for text in ("bad \udcff cap", "two\nlines")])
    assert {text.get_text() for axes in odd.axes for text in axes.texts} >= {"bad \\udcff cap", "two lines"}
    many = [generations[0]] * (MOST_ROWS + 5)
    assert drawings_shown(many) == 2 * MOST_ROWS
    assert drawings_shown(many, in_a_row=1) == MOST_ROWS
    assert len(drawings_in(generations_figure(many))) == 2 * MOST_ROWS
    assert len(drawings_in(filmstrip_figure(generations))) == 4 * 7
    with pytest.raises(ValueError, match="without trajectory"):
        filmstrip_figure(model.generate("red", steps=2))


def test_variations_of_an_image(model: TextToImage) -> None:
    image = Image.new("RGB", (20, 20), COLOURS["green"])
    pixels = np.asarray(image.resize((8, 8))).astype(int)
    little, much = (model.vary(image, "red", strength=strength).images[0] for strength in (0.05, 1.0))
    assert colour_of(little) == "green"
    assert colour_of(much) == "red"
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[:, 10:] = 255
    (changed,) = model.vary(image, "red", strength=1.0, mask=mask).images
    np.testing.assert_allclose(np.asarray(changed).astype(int)[:, :4], pixels[:, :4], atol=1)
    assert np.abs(np.asarray(changed).astype(int)[:, 4:] - pixels[:, 4:]).max() > 20


def test_strength_holds_with_few_steps(model: TextToImage) -> None:
    image = Image.new("RGB", (8, 8), COLOURS["green"])
    for steps in (1, 2, 5):
        little, much = (
            model.vary(image, "red", strength=strength, sampling=Sampling(steps=steps)).images[0]
            for strength in (0.1, 1.0)
        )
        assert (colour_of(little), colour_of(much)) == ("green", "red")


def test_a_mask_without_white(model: TextToImage) -> None:
    image = Image.new("RGB", (64, 64), COLOURS["green"])
    spot, ones, edge = (np.zeros((64, 64), dtype=np.uint8) for _ in range(3))
    spot[30:33, 30:33] = 255
    ones[:] = 1
    for mask in (spot, ones, edge):
        with pytest.raises(ConfigError, match=r"nothing in the mask is white .* 8 x 8 pixels.*make the white part"):
            model.vary(image, "red", mask=mask)
    spot[24:40, 24:40] = 255
    (changed,) = model.vary(image, "red", mask=spot).images
    assert (np.asarray(changed) != np.array(COLOURS["green"])).any(axis=2).sum() == 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_can_be_seen_through_is_not_white(model: TextToImage, mode: str, tmp_path: Path) -> None:
    strokes = Image.new("LA", (32, 32), (255, 0))
    strokes.paste((255, 255), (16, 0, 32, 32))
    if mode == "P":
        mask = Image.new("P", (32, 32), 0)
        mask.putpalette([255, 255, 255, 255, 255, 255])
        mask.paste(1, (16, 0, 32, 32))
        mask.save(tmp_path / "mask.png", transparency=0)
    else:
        strokes.convert(mode).save(tmp_path / "mask.png")
    image = Image.new("RGB", (32, 32), COLOURS["green"])
    (changed,) = model.vary(image, "red", mask=tmp_path / "mask.png").images
    is_kept = (np.asarray(changed) == np.array(COLOURS["green"])).all(axis=2)
    assert is_kept[:, :4].all() and not is_kept[:, 4:].all(axis=1).any()


def test_a_mask_of_another_shape_than_the_image(model: TextToImage) -> None:
    image = Image.new("RGB", (40, 30), COLOURS["green"])
    for size in ((40, 30), (20, 15), (13, 10), (400, 299)):
        assert model.vary(image, "red", mask=Image.new("L", size, 255), sampling=Sampling(steps=1)).images
    for size in ((30, 40), (30, 30), (40, 20), (400, 280)):
        with pytest.raises(ConfigError, match="does not lie on an image of 40 x 30"):
            model.vary(image, "red", mask=Image.new("L", size, 255))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_interpolation(model: TextToImage, sampler: str) -> None:
    sampling = Sampling(sampler=sampler)  # type: ignore[arg-type]
    drawn = model.interpolate("red", "blue", num_images=5, sampling=sampling).images
    assert (colour_of(drawn[0]), colour_of(drawn[-1])) == ("red", "blue")
    assert len({image.tobytes() for image in drawn}) == 5
    vectors = model.encode_prompts(["red"] * 3)
    for batch_size in (3, 2):
        same = model.draw(vectors, sampling, same_noise=True, batch_size=batch_size)[:, -1]
        assert (same - same[0]).abs().max() < 1e-3, "all noise is the same"


def test_save_and_load(model: TextToImage, tmp_path: Path) -> None:
    copy = model.save_pretrained(tmp_path / "copy")
    again = TextToImage.from_pretrained(copy, device="cpu", precision="32", text_encoder=BagOfWords())
    assert again.generate("red", steps=4) == model.generate("red", steps=4)
    assert (again.metrics, again.run) == (model.metrics, model.run)


def test_embeddings_of_another_width(colour_run: Run) -> None:
    other = TextToImage.from_pretrained(colour_run[0], device="cpu", text_encoder=BagOfWords(width=9))
    with pytest.raises(DataError, match="width 9; this model was trained with 16"):
        other.generate("red")


def test_damaged_weights(model: TextToImage, tmp_path: Path) -> None:
    copy = model.save_pretrained(tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        TextToImage.from_pretrained(copy)
