"""One training step (forward, backward, optimiser) of the course's U-Net: 64 images of 32 x 32 pixels with a text each.

The network has the sizes of the course's notebook: width 48, multiplied by 1, 2, 4 and 8, text embeddings of 512
columns, 12.4 million parameters, dropout 0.1. opsin runs the step as `opsin train diffusion` does: `DiffusionTask` with
the trainer's optimiser, gradient clipping and moving average of the weights on Lightning Fabric, channels last, bf16
where the hardware has it. The peers run a step as a first script would, with Adam and gradient clipping, and without an
average:

- plain: the same function in the obvious operations, channels first, float32; its predictions with opsin's weights are
  compared with opsin's before anything is timed;
- denoising-diffusion-pytorch: its own Unet and GaussianDiffusion at the width that has about as many parameters,
  float32. It is another network: it takes no texts, has attention on every level, and halves the image three times
  instead of four, so that it does more arithmetic for each parameter; both are printed.

"…, autocast" shows what lower precision alone gives them, and "opsin, float32" what opsin gives without it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from harness.diffusion_unets import (
    COURSE_UNET,
    IMAGE_SIZE,
    PROCESS,
    TEXT_DIM,
    check_plain,
    course_model,
    peer_diffusion,
    plain_model,
)
from harness.timing import parse_arguments, print_machine, print_table, print_timings, time_in_turn
from PIL import Image
from torch import Tensor, nn

from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, open_splits
from opsin.diffusion.train import DiffusionTask
from opsin.profile import profile_model
from opsin.runtime import autocast, resolve_device, resolve_precision
from opsin.training.config import TrainingConfig
from opsin.training.optim import ExponentialMovingAverage, build_optimizer
from opsin.training.processes import make_fabric

BATCH_SIZE = 64
CONFIG = DiffusionConfig(model=COURSE_UNET, process=PROCESS, image_size=IMAGE_SIZE, val_fraction=0)
PLAIN, PEER = "plain", "denoising-diffusion-pytorch"


class RandomTexts:
    """In place of a text encoder: random vectors of the width that CLIP's has."""

    name = "random"
    fingerprint = "random vectors"

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        return nn.functional.normalize(torch.randn(len(list(texts)), TEXT_DIM), dim=1)


def random_splits(config: DiffusionConfig, count: int) -> DiffusionSplits:
    """So many random images, each with a text of its own."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for row in range(count):
            pixels = generator.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{row}.png")
            (Path(folder) / f"{row}.txt").write_text(f"text {row}", encoding="utf-8")
        return open_splits(dataclasses.replace(config, data=folder), RandomTexts())


def whole_batch(splits: DiffusionSplits, device: torch.device) -> dict[str, Tensor]:
    """All training images at once."""
    rows = list(range(len(splits.train)))
    return {name: values.to(device) for name, values in splits.train.__getitems__(rows).items()}


def opsin_step(splits: DiffusionSplits, device: torch.device, precision: str) -> Callable[[], float]:
    """A step as the trainer takes it."""
    training = TrainingConfig(max_steps=1, device=device.type, precision=precision, ema_decay=0.999)
    config = dataclasses.replace(CONFIG, training=training)
    task = DiffusionTask(config, splits)
    task.to(memory_format=torch.channels_last)
    fabric = make_fabric(training)
    wrapped, optimizer = fabric.setup(task, build_optimizer(task, training))
    ema = ExponentialMovingAverage(task.model, training.ema_decay)
    batch = whole_batch(splits, device)
    generator = torch.Generator(device).manual_seed(0)
    wrapped.train()

    def step() -> float:
        optimizer.zero_grad()
        loss = wrapped(batch, generator).loss
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, optimizer, max_norm=training.grad_clip, error_if_nonfinite=False)
        optimizer.step()
        ema.update(step=10_000)  # past its warm-up
        return loss.item()

    return step


def peer_step(name: str, splits: DiffusionSplits, device: torch.device, precision: str) -> Callable[[], float]:
    """A step as a first script would take it."""
    images = whole_batch(splits, device)["image"].float() / 255
    conditions = {"text_emb": splits.features.to(device)}
    plain, peer = plain_model().to(device).train(), peer_diffusion().to(device).train()
    model = plain if name == PLAIN else peer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> float:
        with autocast(device, precision):
            loss = plain.diffusion.p_losses(images, conditions) if name == PLAIN else peer(images)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def print_networks(device: torch.device) -> None:
    """Parameters and multiply-accumulates of one image."""
    x, t = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=device), torch.zeros(1, device=device)
    rows = []
    for name, network in (("opsin, plain", course_model().diffusion.model), (PEER, peer_diffusion().model)):
        profile = profile_model(network.to(device), x, t)
        rows.append([name, f"{profile.parameters / 1e6:.2f}", f"{profile.macs / 1e6:.0f}"])
    print_table(["", "M parameters", "M MACs an image"], rows)
    print()


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=120)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    check_plain()
    splits = random_splits(CONFIG, 2 if arguments.quick else BATCH_SIZE)
    ways = {"opsin": opsin_step(splits, device, precision)}
    ways |= {name: peer_step(name, splits, device, "32") for name in (PLAIN, PEER)}
    if precision != "32":
        ways |= {f"{name}, autocast": peer_step(name, splits, device, precision) for name in (PLAIN, PEER)}
        ways["opsin, float32"] = opsin_step(splits, device, "32")
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(precision)
    print_networks(device)
    print_timings(timings, "opsin", per_call=len(splits.train), unit="images/s")


if __name__ == "__main__":
    main()
