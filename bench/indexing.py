"""Indexing a folder of 256 JPEG photos (640 x 480) with ViT-B/32, and adding one image to an index of 100,000.

opsin is `ImageIndex.update`: it lists the folder, reads and hashes every file, decodes, encodes, writes vectors and the
database. The peer is the loop that everyone writes first, with the same network and weights (random ones): open with
PIL, preprocess with open_clip's transform, encode in batches of 32, keep the vectors in memory. It runs in single
precision, as that loop does, and under autocast in the precision that opsin chooses. Before anything is timed, the
vectors of both are compared. The same with `imagenet`, in single precision both, and timm's transform.

The index of 100,000 holds random vectors of images of one pixel; the image that is added goes through the network. With
it, seconds of processor time are measured of an update without changes, of one that adds an image, of opening the index
with its first search, and of a further search.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from opsin.encoders import load
from opsin.encoders.base import ImageEncoder
from opsin.encoders.imagenet import load_network
from opsin.encoders.open_clip import OpenClipEncoder
from opsin.images.opening import ImageLike
from opsin.runtime import autocast, resolve_device, resolve_precision
from opsin.search.index import ImageIndex

PHOTOS, BATCH_SIZE, LARGE = 256, 32, 100_000
SIZE = (640, 480)


def make_photos(directory: Path, count: int) -> None:
    """Smooth noise, which compresses about as photos do."""
    generator = np.random.default_rng(0)
    directory.mkdir()
    for number in range(count):
        pixels = generator.integers(256, size=(30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).save(directory / f"{number:04d}.jpg", quality=90)


def make_network(quick: bool) -> nn.Module:
    torch.manual_seed(0)
    if not quick:
        return open_clip.create_model("ViT-B-32").eval()
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    network = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text).eval()
    whole = {"size": 32, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    open_clip.model.set_model_preprocess_cfg(network, {**whole, "resize_mode": "shortest", "fill_color": 0})
    return network


@torch.inference_mode()
def plain_loop(encoder: OpenClipEncoder, photos: Path, precision: str) -> Tensor:
    """float32 (N, D), one row a file in the order of names."""
    files, vectors = sorted(photos.iterdir()), []
    for start in range(0, len(files), BATCH_SIZE):
        images = []
        for file in files[start : start + BATCH_SIZE]:
            with Image.open(file) as image:
                images.append(encoder.preprocess(image.convert("RGB")))
        batch = torch.stack(images).to(encoder.device)
        with autocast(encoder.device, precision):
            vectors.append(F.normalize(encoder.model.encode_image(batch).float(), dim=1).cpu())
    return torch.cat(vectors)


@torch.inference_mode()
def plain_imagenet_loop(network: nn.Module, photos: Path) -> Tensor:
    """float32 (N, 1280), one row a file in the order of names."""
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    files, vectors = sorted(photos.iterdir()), []
    for start in range(0, len(files), BATCH_SIZE):
        images = []
        for file in files[start : start + BATCH_SIZE]:
            with Image.open(file) as image:
                images.append(transform(image.convert("RGB")))
        maps = network.forward_features(torch.stack(images))
        vectors.append(F.normalize(network.forward_head(maps, pre_logits=True), dim=1))
    return torch.cat(vectors)


class RandomVectors:
    """An encoder of images that costs nothing, until it is told to use the network."""

    name, fingerprint = "random", "random"

    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.width = encoder.encode_image([Image.new("RGB", (32, 32))]).shape[1]
        self.encoder, self.real = encoder, False

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        if self.real:
            return self.encoder.encode_image(images, normalize=normalize)
        return F.normalize(torch.randn(len(list(images)), self.width), dim=1)


def index_whole(encoder: ImageEncoder, photos: Path, out: Path) -> ImageIndex:
    shutil.rmtree(out, ignore_errors=True)
    index = ImageIndex.create(out, encoder)
    index.update(photos)
    return index


def check_vectors(encoder: OpenClipEncoder, photos: Path, index: ImageIndex, precision: str) -> None:
    """Each image finds itself, with the vector that the plain loop gives it."""
    for row, vector in enumerate(plain_loop(encoder, photos, precision)[:3]):
        best = index.search(image=photos / f"{row:04d}.jpg", k=1)[0]
        own = encoder.encode_image([photos / best.id])[0]
        assert best.cosine > 0.99 and float(own @ vector) > 0.99, "opsin and the plain loop disagree"


def large_index(encoder: OpenClipEncoder, photos: Path, directory: Path, count: int) -> dict[str, float]:
    """Seconds of processor time of what is done to an index of `count` images: medians of five."""
    folder, stand_in = directory / "many", RandomVectors(encoder)
    for number in range(count):
        part = folder / f"{number // 1000:03d}"
        part.mkdir(parents=True, exist_ok=True)
        colour = (number & 255, number >> 8 & 255, number >> 16)
        Image.new("RGB", (1, 1), colour).save(part / f"{number:06d}.bmp")
    index = ImageIndex.create(directory / "many.index", stand_in)
    index.update(folder)
    query = Image.new("RGB", (1, 1))

    def add(number: int) -> None:
        report = index.update()
        assert (len(report.added), report.encoded, report.unchanged) == (1, 1, count + number)

    def median(step: Callable[[int], object], prepare: Callable[[int], object] = lambda number: None) -> float:
        seconds = []
        for number in range(5):
            prepare(number)
            started = time.process_time()
            step(number)
            seconds.append(time.process_time() - started)
        return sorted(seconds)[2]

    seconds = {
        "update without changes": median(lambda number: index.update()),
        "open and search": median(lambda number: ImageIndex.open(index.path, stand_in).search(image=query)),
        "search again": median(lambda number: index.search(image=query), lambda number: index.search(image=query)),
    }
    stand_in.real = True
    seconds["add an image"] = median(
        add, lambda number: shutil.copy(photos / f"{number:04d}.jpg", folder / f"new{number}.jpg")
    )
    return seconds


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=60)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    encoder = OpenClipEncoder("ViT-B-32 with random weights", make_network(arguments.quick), device)
    count, large = (16, 100) if arguments.quick else (PHOTOS, LARGE)
    print_machine(precision)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        photos = directory / "photos"
        make_photos(photos, count)
        check_vectors(encoder, photos, index_whole(encoder, photos, directory / "index"), precision)
        ways: dict[str, Callable[[], object]] = {
            "opsin": lambda: index_whole(encoder, photos, directory / "index"),
            "plain loop": lambda: plain_loop(encoder, photos, "32"),
            f"plain loop in {precision}": lambda: plain_loop(encoder, photos, precision),
        }
        timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
        print_timings(timings, "opsin", per_call=count, unit="images/s")
        imagenet = load("imagenet", "cpu", "32")
        network = load_network()
        for row, vector in enumerate(plain_imagenet_loop(network, photos)[:3]):
            assert float(imagenet.encode_image([photos / f"{row:04d}.jpg"])[0] @ vector) > 0.99
        ways = {
            "opsin, imagenet": lambda: index_whole(imagenet, photos, directory / "index"),
            "plain loop, imagenet": lambda: plain_imagenet_loop(network, photos),
        }
        timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
        print_timings(timings, "opsin, imagenet", per_call=count, unit="images/s")
        print(f"an index of {large:,} images, seconds of processor time (medians of 5)")
        for step, seconds in large_index(encoder, photos, directory, large).items():
            print(f"{step:24s} {seconds:.3f}")


if __name__ == "__main__":
    main()
