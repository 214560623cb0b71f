"""One training step (forward, backward, optimiser) of the course's Vision Transformer, 64 images of 32 x 32 pixels.

opsin runs the step as `opsin train vit` does: `ClassificationTask` with the trainer's optimiser and gradient clipping
on Lightning Fabric, bf16 where the hardware has it, from uint8 pixels. Every peer has the same sizes, number of tokens
and dropout, and gets the pixels as normalised floats, which spares it work:

- textbook: explicit softmax, three projections, float32, Adam; computes the same function as opsin's model;
- torch.nn: torch.nn.TransformerEncoder, float32, Adam; computes the same function too;
- timm: timm's VisionTransformer, float32, Adam; it normalises before its sublayers instead of after them.

"timm, autocast" shows what lower precision alone gives, and "opsin, float32" what opsin gives without it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from harness.vision_transformers import COURSE_VIT, IMAGE_SIZE, NUM_CLASSES, TextbookViT, TorchViT, timm_vit
from torch import Tensor, nn

from opsin.classification.config import AugmentConfig, ClassificationConfig
from opsin.classification.data import ClassSplits
from opsin.classification.train import ClassificationTask
from opsin.data.datasets import PixelDataset
from opsin.images.preprocessing import Preprocessing
from opsin.runtime import autocast, resolve_device, resolve_precision
from opsin.training.config import TrainingConfig
from opsin.training.optim import build_optimizer
from opsin.training.processes import make_fabric

BATCH_SIZE = 64
PREPROCESSING = Preprocessing(image_size=IMAGE_SIZE)


def opsin_step(pixels: Tensor, labels: Tensor, precision: str) -> Callable[[], float]:
    """A step as the trainer takes it."""
    names = tuple(str(index) for index in range(NUM_CLASSES))
    augment = AugmentConfig(flip=False, shift=0)  # data_loading.py measures the augmentation
    config = TrainingConfig(max_steps=1, device=pixels.device.type, precision=precision)
    run_config = ClassificationConfig(model=COURSE_VIT, augment=augment, training=config)
    train = PixelDataset(pixels.cpu().numpy(), labels.cpu().numpy())
    task = ClassificationTask(run_config, ClassSplits(datasets={"train": train}, class_names=names))
    fabric = make_fabric(config)
    wrapped, optimizer = fabric.setup(task, build_optimizer(task, config))
    generator = torch.Generator(pixels.device).manual_seed(0)

    def step() -> float:
        optimizer.zero_grad()
        loss = wrapped({"image": pixels, "label": labels}, generator).loss
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.grad_clip, error_if_nonfinite=False)
        optimizer.step()
        return loss.item()

    return step


def plain_step(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "32") -> Callable[[], float]:
    """A step as a first script would take it."""
    model.to(images.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> float:
        with autocast(images.device, precision):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=45)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    batch_size = 4 if arguments.quick else BATCH_SIZE
    pixels = torch.randint(256, (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    images = PREPROCESSING.prepare(pixels)
    ways = {
        "opsin": opsin_step(pixels, labels, precision),
        "textbook": plain_step(TextbookViT(COURSE_VIT), images, labels),
        "torch.nn": plain_step(TorchViT(COURSE_VIT), images, labels),
        "timm": plain_step(timm_vit(COURSE_VIT), images, labels),
    }
    if precision != "32":
        ways["timm, autocast"] = plain_step(timm_vit(COURSE_VIT), images, labels, precision)
        ways["opsin, float32"] = opsin_step(pixels, labels, "32")
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(precision)
    print_timings(timings, "opsin", per_call=batch_size, unit="images/s")


if __name__ == "__main__":
    main()
