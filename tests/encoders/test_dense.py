"""Dense features of streams: of any length in bounded memory, of any size, and the same as of single images."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import resample_abs_pos_embed

from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.encoders import DenseEncoder, load
from opsin.encoders.base import BATCH_SIZE
from opsin.encoders.open_clip import wrap
from opsin.encoders.timm import TimmEncoder
from opsin.errors import ConfigError
from opsin.images.preprocessing import Preprocessing
from opsin.nn.embeddings import interpolate_positions

from .test_encoders import small_clip

CPU = torch.device("cpu")
SIZES = [(64, 64), (33, 70), (5, 96)]


def own(**options: str) -> Classifier:
    torch.manual_seed(0)
    config = ViTConfig(patch_size=8, embed_dim=16, num_layers=1, num_heads=2, dim_feedforward=16, **options)  # type: ignore[arg-type]
    content = ClassifierContent(
        model=config, class_names=("a", "b"), preprocessing=Preprocessing(image_size=32, mean=(0.4,) * 3)
    )
    return Classifier(build_model(config, 32, 2), content)


def of_timm(name: str, **options: object) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(f"timm:{name}", timm.create_model(name, pretrained=False, num_classes=0, **options), CPU)


ENCODERS = {
    "sinusoidal": lambda: own(),
    "learned": lambda: own(positions="learned", pool="class_token", norm="pre"),
    "convolutional stem": lambda: own(stem="conv"),
    "emoji-clip": lambda: load("emoji-clip", "cpu"),
    "imagenet": lambda: load("imagenet", "cpu"),
    "timm ViT": lambda: of_timm("test_vit"),
    "timm CNN": lambda: of_timm("test_resnet"),
    "open_clip": lambda: wrap("open_clip:x/y", small_clip(), CPU),
}


def frames(count: int) -> Iterator[Image.Image]:
    """Noise, each frame another one."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        yield Image.fromarray(pixels)


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> DenseEncoder:
    found = ENCODERS[request.param]()
    found.precision = "32"
    assert isinstance(found, DenseEncoder)
    return found


@pytest.mark.parametrize("size", [None, *SIZES])
def test_a_stream_gives_what_single_images_give(encoder: DenseEncoder, size: tuple[int, int] | None) -> None:
    together = [tokens for batch in encoder.encode_dense(frames(3), size=size) for tokens in batch.tokens]
    for tokens, image in zip(together, frames(3), strict=True):
        (alone,) = encoder.encode_dense([image], size=size)
        assert tokens.dtype == torch.float32 and len(tokens) == alone.grid[0] * alone.grid[1]
        torch.testing.assert_close(tokens, alone.tokens[0], rtol=1e-4, atol=1e-4)
    if size is not None:
        patch = getattr(encoder, "patch_size", 1)
        (whole,) = encoder.encode_dense(frames(1), size=(64 // patch * patch, 64 // patch * patch))
        stride = 64 // whole.grid[0] if patch == 1 else patch
        for side, places in zip(size, alone.grid, strict=True):
            assert abs(places - max(1, side / stride)) <= 1


def test_only_two_batches_of_a_long_stream_are_in_memory() -> None:
    """And no more frames are taken from the stream than these."""
    encoder, alive, most = own(), set(), 0

    def stream(count: int) -> Iterator[Image.Image]:
        nonlocal most
        for number, frame in enumerate(frames(count)):
            alive.add(number)
            weakref.finalize(frame, alive.discard, number)
            most = max(most, len(alive))
            yield frame
            del frame

    held = []
    for count in (10, 5 * BATCH_SIZE, 10 * BATCH_SIZE):
        most = 0
        assert sum(len(batch.tokens) for batch in encoder.encode_dense(stream(count))) == count
        held.append(most)
    assert held[0] <= 12 and max(held) <= 2 * BATCH_SIZE + 2
    endless = encoder.encode_dense(stream(10**9))
    assert len(next(endless).tokens) == BATCH_SIZE
    endless.close()  # type: ignore[attr-defined]
    assert not torch.is_inference_mode_enabled()


def test_positions_are_interpolated_as_timm_does() -> None:
    table = torch.randn(1, 1 + 16, 8, generator=torch.Generator().manual_seed(0))
    for grid in ((8, 8), (3, 7), (1, 12)):
        expected = resample_abs_pos_embed(table, new_size=list(grid), num_prefix_tokens=1)
        torch.testing.assert_close(interpolate_positions(table, 1, grid), expected)


def test_a_vision_transformer_of_timm_is_one_that_was_built_for_any_size() -> None:
    encoder, built = of_timm("test_vit"), of_timm("test_vit", dynamic_img_size=True)
    image = next(frames(1))
    for size in (None, (64, 64), (48, 112)):
        (found,) = encoder.encode_dense([image], size=size)
        (expected,) = built.encode_dense([image], size=size)
        assert found.grid == expected.grid and torch.equal(found.tokens, expected.tokens)


def test_open_clip_with_interpolated_positions_and_without_a_change_of_the_model() -> None:
    """Against the network's own forward, with the positions put in."""
    model = small_clip()
    encoder = wrap("open_clip:x/y", model, CPU)
    encoder.precision = "32"
    image = next(frames(1)).resize((48, 64), Image.Resampling.BICUBIC)
    before = encoder.fingerprint
    (found,) = encoder.encode_dense([image], size=(64, 48))  # type: ignore[attr-defined]
    assert encoder.fingerprint == before and found.grid[0] * 3 == found.grid[1] * 4
    visual = model.visual
    positions = interpolate_positions(visual.positional_embedding[None], 1, found.grid)[0]
    visual.positional_embedding = torch.nn.Parameter(positions)
    visual.output_tokens = True
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        tokens = visual(encoder.preprocessing.prepare(pixels))[1]  # type: ignore[attr-defined]
    torch.testing.assert_close(found.tokens, tokens)


def test_stages_of_a_convolutional_network_of_timm() -> None:
    encoder = of_timm("test_resnet")
    (joined,) = encoder.encode_dense(frames(1), size=(64, 96), strides=(8, 16))
    assert joined.grid == (8, 12) and joined.tokens.isfinite().all()
    with pytest.raises(ConfigError, match="strides are some of"):
        encoder.encode_dense(frames(1), strides=(3,))
    for transformer in (own(), of_timm("test_vit"), wrap("open_clip:x/y", small_clip(), CPU)):
        with pytest.raises(ConfigError, match="has one map of features; strides are for convolutional networks"):
            transformer.encode_dense(frames(1), strides=(8,))  # type: ignore[union-attr]
