"""The outputs of the models that come with the package, as they were recorded: a change of code changes none of them.

All is computed in float32: bfloat16 is rounded in another way by every kind of processor. Values are compared
everywhere, bit by bit only on the kind of machine that recorded them. `python -m tests.zoo.test_outputs` records anew,
after a change of weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin import Captioner, TextToImage
from opsin.encoders import load

RECORD = Path(__file__).with_name("outputs.json")
SHOWN = 64
"""Values of each output, evenly spaced over it, that are compared on every machine."""
TOLERANCE = 2e-4
PIXEL = 1.5
"""What a pixel of a drawing may differ by: a value at the border of two whole numbers goes to either."""
WORDS = ["red apple", "a cat with tears of joy", "🍎"]


def images() -> list[Image.Image]:
    """Four drawn images of several sizes: noise, a gradient, a square, and one color."""
    generator = np.random.default_rng(0)
    square = np.full((48, 48, 3), 255, np.uint8)
    square[12:36, 12:36] = (200, 30, 40)
    ramp = np.stack(np.broadcast_arrays(np.arange(80)[:, None] * 3, np.arange(60)[None] * 4, 90), axis=-1)
    noise = generator.integers(0, 256, (64, 90, 3))
    return [Image.fromarray(array.astype(np.uint8)) for array in (noise, ramp, square, np.full((32, 32, 3), 120))]


def captions() -> np.ndarray:
    """The log-probability of each caption and its characters."""
    written = Captioner.from_pretrained("emoji-captioner", device="cpu", precision="32").caption(images(), beams=3)
    return np.concatenate([[caption.log_prob, *map(ord, caption.text)] for caption in written])


def drawings() -> np.ndarray:
    model = TextToImage.from_pretrained("emoji-diffusion", device="cpu", precision="32")
    drawn = model.generate(WORDS[:2], steps=4, generator=torch.Generator().manual_seed(0))
    return np.stack([np.asarray(generation.images[0], float) for generation in drawn])


OUTPUTS: dict[str, Callable[[], np.ndarray]] = {
    "imagenet": lambda: load("imagenet", "cpu", "32").encode_image(images()).numpy(),
    "cifar10-simclr": lambda: load("cifar10-simclr", "cpu", "32").encode_image(images()).numpy(),
    "emoji-clip images": lambda: load("emoji-clip", "cpu", "32").encode_image(images()).numpy(),
    "emoji-clip texts": lambda: load("emoji-clip", "cpu", "32").encode_text(WORDS).numpy(),
    "photo-clip images": lambda: load("photo-clip", "cpu", "32").encode_image(images()).numpy(),
    "photo-clip texts": lambda: load("photo-clip", "cpu", "32").encode_text(WORDS).numpy(),
    "emoji-captioner": captions,
    "emoji-diffusion": drawings,
}


def machine() -> str:
    """What decides which kernels run: the processor, its vector instructions, and the version of torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in facts.get("flags", "").split() if flag.startswith(("avx", "amx", "fma", "sse"))]
    kernels = f"{torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"
    described = f"{facts.get('model name', '').strip()} {' '.join(sorted(flags))} {kernels}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def output(name: str) -> np.ndarray:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return OUTPUTS[name]()
    finally:
        torch.set_num_threads(threads)


def describe(values: np.ndarray) -> dict:
    places = np.linspace(0, values.size - 1, SHOWN).astype(int)
    return {
        "shape": list(values.shape),
        "values": [float(f"{value:.6g}") for value in values.ravel()[places]],
        "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
    }


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_those_recorded(name: str) -> None:
    record = json.loads(RECORD.read_text())
    expected, found = record["outputs"][name], describe(output(name))
    assert found["shape"] == expected["shape"]
    scale = max(1.0, np.abs(expected["values"]).max())
    tolerance = PIXEL if name == "emoji-diffusion" else TOLERANCE * scale
    np.testing.assert_allclose(found["values"], expected["values"], atol=tolerance, rtol=0)
    if machine() == record["machine"]:
        assert found["sha256"] == expected["sha256"]


if __name__ == "__main__":
    recorded = {"machine": machine(), "outputs": {name: describe(output(name)) for name in OUTPUTS}}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")
