"""Two views of each of 256 images of 32 x 32 pixels, as SimCLR makes them: opsin on the batch, torchvision one by one.

Random resized crop, flip, colour jitter for four of five views, grayscale for one of five, and scaling to [0, 1], with
the settings of the course. opsin starts from a batch of uint8 pixels in memory, as a run does. torchvision starts from
Pillow images, as its data sets give them, and once from uint8 tensors, by its transforms of version 2. Both of its
crops smooth what they make smaller, and opsin's do not, which is less work. All on one core, since DataLoader workers
would multiply the one as threads multiply the other. Before anything is timed, the views of all ways have to be alike
in their mean, their deviation and the share of grey ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from opsin.runtime import resolve_device, resolve_precision
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import two_views

BATCH_SIZE, SIZE = 256, 32
MOST_APART = {"mean": 0.03, "deviation": 0.01, "grey": 0.1}
"""Of 512 views; the deviation is 0.03 lower without jitter, and the grey ones are a fifth."""
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def ways_to_augment(count: int) -> dict[str, Callable[[], Tensor]]:
    """Each gives float views (2 * count, 3, 32, 32) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    of_pictures = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(**JITTER)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )
    of_tensors = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(**JITTER)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    config = AugmentConfig()
    return {
        "opsin, the batch": lambda: two_views(pixels.float() / 255, SIZE, config, generator),
        "torchvision, each image": lambda: torch.stack([of_pictures(picture) for picture in pictures * 2]),
        "torchvision v2, each tensor": lambda: torch.stack([of_tensors(image) for image in (*pixels, *pixels)]),
    }


def describe(views: Tensor) -> dict[str, float]:
    is_grey = (views.amax(dim=1) - views.amin(dim=1)).amax(dim=(1, 2)) < 1e-3
    return {"mean": float(views.mean()), "deviation": float(views.std()), "grey": float(is_grey.float().mean())}


def assert_alike(ways: dict[str, Callable[[], Tensor]]) -> None:
    first, *others = [describe(way()) for way in ways.values()]
    for name, most in MOST_APART.items():
        for other in others:
            assert abs(first[name] - other[name]) < most, f"{name}: {first[name]:.3f} and {other[name]:.3f}"


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=30)
    print_machine(resolve_precision("auto", resolve_device()))
    torch.manual_seed(0)
    assert_alike(ways_to_augment(BATCH_SIZE))
    count = 8 if arguments.quick else BATCH_SIZE
    ways = ways_to_augment(count)
    assert {tuple(way().shape) for way in ways.values()} == {(2 * count, 3, SIZE, SIZE)}
    torch.set_num_threads(1)
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print("two views of each image, one core")
    print_timings(timings, "opsin, the batch", per_call=2 * count, unit="views/s")


if __name__ == "__main__":
    main()
