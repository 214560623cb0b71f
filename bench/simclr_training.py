"""One training step of SimCLR (forward, backward, optimiser), two views each of 64 images of 32 x 32 pixels.

opsin runs the step as `opsin train simclr` does: `SimclrTask` with the trainer's optimiser and gradient clipping on
Lightning Fabric, channels last, bf16 where the hardware has it, from uint8 pixels: it makes the views, too. The peer is
torchvision's ResNet with the same stem for small images and the same projection, lightly's NTXentLoss and Adam, in
float32 and torch's usual memory format, as a first script has it; it gets ready-made views, which spares it work.
"opsin, float32" shows what opsin gives without lower precision. Before anything is timed, both have to give the same
loss in float32 for the same weights and views.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from opsin.data.datasets import PixelDataset
from opsin.images.preprocessing import Preprocessing
from opsin.runtime import resolve_device, resolve_precision
from opsin.simclr.config import EncoderConfig, SimclrConfig
from opsin.simclr.data import SimclrSplits, two_views
from opsin.simclr.loss import nt_xent_loss
from opsin.simclr.model import build_model
from opsin.simclr.train import SimclrTask
from opsin.training.config import TrainingConfig
from opsin.training.optim import build_optimizer
from opsin.training.processes import make_fabric

BATCH_SIZE, SIZE = 64, 32
PREPROCESSING = Preprocessing(image_size=SIZE)
NETWORKS = ("resnet18", "resnet50")


def opsin_step(config: SimclrConfig, pixels: Tensor) -> Callable[[], float]:
    """A step as the trainer takes it."""
    data = SimclrSplits(datasets={"train": PixelDataset(pixels.cpu().numpy(), None)}, bank=None, num_classes=0)
    task = SimclrTask(config, data)
    task.to(memory_format=torch.channels_last)
    fabric = make_fabric(config.training)
    wrapped, optimizer = fabric.setup(task, build_optimizer(task, config.training))
    generator = torch.Generator(pixels.device).manual_seed(0)

    def step() -> float:
        optimizer.zero_grad()
        loss = wrapped({"image": pixels}, generator).loss
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.training.grad_clip, error_if_nonfinite=False)
        optimizer.step()
        return loss.item()

    return step


def plain_network(config: SimclrConfig) -> nn.Module:
    """Encoder and projection as a first script would make them."""
    network: nn.Module = getattr(torchvision.models, config.encoder.name)()
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    width, hidden = network.fc.in_features, config.projection_hidden
    network.fc = nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, config.projection_dim),
    )
    return network


def assert_same_loss(config: SimclrConfig, views: Tensor) -> None:
    """Of the two networks, with the same weights, and the two losses."""
    ours, plain = build_model(config).to(views.device), plain_network(config).to(views.device)
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    with torch.no_grad():
        left, right = ours(views)[1].chunk(2)
        loss = nt_xent_loss(left, right, config.temperature)
        torch.testing.assert_close(loss, NTXentLoss(config.temperature)(*plain(views).chunk(2)), rtol=1e-4, atol=0.0)


def plain_step(config: SimclrConfig, views: Tensor) -> Callable[[], float]:
    """A step as a first script would take it, in float32."""
    network = plain_network(config).to(views.device).train()
    criterion = NTXentLoss(config.temperature)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> float:
        left, right = network(views).chunk(2)
        loss = criterion(left, right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=120)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    print_machine(precision)
    torch.manual_seed(0)
    batch_size = 4 if arguments.quick else BATCH_SIZE
    pixels = torch.randint(256, (batch_size, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    for name in NETWORKS:
        configs = {
            kind: SimclrConfig(
                encoder=EncoderConfig(name=name),
                training=TrainingConfig(max_steps=1, device=device.type, precision=kind),
            )
            for kind in {precision, "32"}
        }
        generator = torch.Generator(device).manual_seed(0)
        views = PREPROCESSING.normalize(two_views(pixels.float() / 255, SIZE, configs["32"].augment, generator))
        assert_same_loss(configs["32"], views)
        ways = {
            "opsin": opsin_step(configs[precision], pixels),
            "torchvision, lightly": plain_step(configs["32"], views),
        }
        if precision != "32":
            ways["opsin, float32"] = opsin_step(configs["32"], pixels)
        timings = time_in_turn(ways, seconds=arguments.seconds / len(NETWORKS), quick=arguments.quick)
        print(f"\n{name}")
        print_timings(timings, "opsin", per_call=batch_size, unit="images/s")


if __name__ == "__main__":
    main()
