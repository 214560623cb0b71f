"""Reading a folder of photographs, and augmenting batches, against torchvision's usual ways.

Reading: the same 400 generated JPEG files (320 x 240 pixels), resized and cropped to 64 x 64. opsin decodes a source
into memory once (`load_pixels`, threads in one process), from class folders and from a parquet file with the same
bytes inside; later epochs are batches from memory. torchvision's ImageFolder decodes in two DataLoader worker
processes, which start anew in every epoch. Both resize bicubically with Pillow.

Augmentation: flip, shift and two RandAugment operations on 128 images of 32 x 32 pixels, as the recipes do it:
opsin on the batch, torchvision image by image on Pillow images. Both on one core, since DataLoader workers would
multiply the one as threads multiply the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from opsin.data.datasets import PixelDataset, batches_of
from opsin.data.pixels import load_pixels
from opsin.images.augment import random_augment, random_flip, random_shift
from opsin.runtime import resolve_device, resolve_precision
from opsin.sources.opening import open_source

PHOTOS, PHOTO_SIZE, SIZE = 400, (320, 240), 64
READ_BATCH, WORKERS = 64, 2
AUGMENT_BATCH, AUGMENT_SIZE = 128, 32


def make_photos(directory: Path, count: int) -> tuple[Path, Path]:
    """A directory of two class folders, and a parquet file with the same files inside."""
    generator = np.random.default_rng(0)
    folder, table = directory / "photos", {"image": [], "label": []}
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = folder / f"class-{index % 2}" / f"{index:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize(PHOTO_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        table["image"].append({"bytes": path.read_bytes(), "path": path.name})
        table["label"].append(index % 2)
    pq.write_table(pa.table(table), directory / "photos.parquet")
    return folder, directory / "photos.parquet"


def reading(folder: Path, parquet: Path) -> dict[str, Callable[[], int]]:
    """Ways to read all photographs once; each returns how many it has read."""

    def decode(ref: Path) -> int:
        return len(load_pixels(open_source(ref), SIZE)[1])

    source, pixels = load_pixels(open_source(folder), SIZE)
    in_memory = PixelDataset(pixels, source.labels)
    transform = transforms.Compose(
        [
            transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.PILToTensor(),
        ]
    )
    loader = DataLoader(ImageFolder(str(folder), transform), READ_BATCH, num_workers=WORKERS)
    return {
        "opsin, folder": lambda: decode(folder),
        "opsin, parquet": lambda: decode(parquet),
        "opsin, later epochs": lambda: sum(len(batch["image"]) for batch in batches_of(in_memory, READ_BATCH)),
        "torchvision, every epoch": lambda: sum(len(images) for images, _ in loader),
    }


def augmenting() -> dict[str, Callable[[], object]]:
    """Ways to augment one batch, from uint8 images to a float batch in [0, 1]."""
    shape = (AUGMENT_BATCH, 3, AUGMENT_SIZE, AUGMENT_SIZE)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)

    def batchwise() -> torch.Tensor:
        images = random_shift(random_flip(pixels.float() / 255, generator), 4, generator)
        return random_augment(images, 2, 0.5, generator)

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(AUGMENT_SIZE, padding=4, padding_mode="reflect"),
            transforms.RandAugment(num_ops=2),
            transforms.ToTensor(),
        ]
    )
    return {
        "opsin, the batch": batchwise,
        "torchvision, each image": lambda: torch.stack([transform(picture) for picture in pictures]),
    }


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=45)
    print_machine(resolve_precision("auto", resolve_device()))
    count = 2 * READ_BATCH if arguments.quick else PHOTOS
    with tempfile.TemporaryDirectory() as directory:
        ways = reading(*make_photos(Path(directory), count))
        assert {way() for way in ways.values()} == {count}
        timings = time_in_turn(ways, seconds=2 / 3 * arguments.seconds, quick=arguments.quick)
    print(f"\nreading {count} JPEG files")
    print_timings(timings, "opsin, folder", per_call=count, unit="images/s")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timings = time_in_turn(augmenting(), seconds=arguments.seconds / 3, quick=arguments.quick)
    torch.set_num_threads(threads)
    print("augmenting, one core")
    print_timings(timings, "opsin, the batch", per_call=AUGMENT_BATCH, unit="images/s")


if __name__ == "__main__":
    main()
