"""Large images: reduced without harm to what a model sees, in bounded memory, and refused beyond the limits."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin.cli.main import main
from opsin.data.pixels import fit_image
from opsin.errors import DataError
from opsin.images.decoding import MAX_SCANS, MemoryBudget
from opsin.images.opening import ImageReader, examine_image, open_image, pixel_digest
from opsin.images.rendering import reduction
from tests.images.orientation import save_turned

GROWTH = """
import resource, sys
from opsin.images.opening import ImageReader, examine_image, open_image
from opsin.errors import DataError

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = open_image(sys.argv[1])
before = peak()
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
try:
    exec(sys.argv[2])
except DataError as error:
    print(error, file=sys.stderr)
print((peak() - before) // 1024)
"""


def photo(width: int, height: int, detail: int = 24) -> Image.Image:
    """Blurred noise with structures of about `detail` pixels."""
    size = (width // detail + 2, height // detail + 2, 3)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def growth(path: Path, code: str) -> tuple[int, str]:
    """By how many MiB the memory of a process grew by some code, and what it wrote to stderr."""
    small = path.with_name("small.png")
    Image.new("RGB", (8, 8)).save(small)
    command = [sys.executable, "-W", "ignore", "-c", GROWTH, str(small), f"path = {str(path)!r}\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return int(result.stdout), result.stderr


# ------------------------------------------------------------------------------------------------ reduced


@pytest.mark.parametrize(
    ("image", "size", "factor"),
    [
        ((4000, 3000), None, 1),
        ((4000, 3000), 224, 6),
        ((4000, 3000), 800, 1),
        ((1024, 1024), 16, 1),
        ((1025, 1024), 16, 32),
        ((100_000, 300), 224, 1),
    ],
)
def test_the_shorter_side_keeps_twice_the_size(image: tuple[int, int], size: int | None, factor: int) -> None:
    assert reduction(*image, size) == reduction(*image[::-1], size) == factor


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_what_a_model_sees_of_a_large_photo_stays_the_same(format: str) -> None:
    """Against resizing the whole image at once; sides that the factor does not divide are no other crop."""
    content = encoded(
        photo(1800, 1301, detail=100), format, **({"quality": 92} if format == "JPEG" else {"compress_level": 1})
    )
    whole = open_image(content)
    reduced = open_image(content, size=96)
    assert (whole.size, reduced.size) == ((1800, 1301), {"PNG": (300, 217), "JPEG": (450, 325)}[format])
    assert open_image(reduced, size=96) is reduced
    side = min(whole.size)
    box = ((1800 - side) / 2, (1301 - side) / 2, (1800 + side) / 2, (1301 + side) / 2)
    expected = np.asarray(whole.resize((96, 96), Image.Resampling.BICUBIC, box=box)).astype(int).transpose(2, 0, 1)
    for way in (content, reduced):
        difference = np.abs(fit_image(way, 96) - expected)
        assert difference.mean() < 0.5 and difference.max() < 6
    if format == "PNG":
        np.testing.assert_array_equal(fit_image(whole, 96), fit_image(content, 96))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_bands_fit_together(tmp_path: Path, orientation: int, mode: str) -> None:
    """Of an upright image and of one that lies turned, also where its sides are no multiples of the factor."""
    image = photo(1303, 1107, detail=9)
    if mode == "RGBA":
        image.putalpha(image.getchannel("G"))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image)[:, :, 0].astype(np.uint16) * 257)
    path = save_turned(image, orientation, tmp_path / "photo", compress_level=1)
    expected = open_image(image)
    if mode == "RGB":
        assert expected is image
    opened = open_image(path)
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(open_image(path, size=100)), np.asarray(open_image(expected, size=100)))
    facts = examine_image(path)
    assert (facts.size, facts.digest) == ((1303, 1107), pixel_digest(opened))


def test_modes_of_large_files_are_those_of_small_ones() -> None:
    """Each kind of pixels is worked on in several bands as it is in one."""
    colors = photo(300, 3600, detail=99)
    for image in (
        colors.quantize(32),
        colors.convert("1"),
        colors.convert("LA"),
        colors.convert("CMYK"),
        colors.convert("YCbCr"),
        Image.fromarray(np.asarray(colors)[:, :, 0].astype(np.float32) / 255),
        Image.fromarray(np.asarray(colors)[:, :, 0].astype(np.int32) * 16),
    ):
        part = image.crop((0, 3500, 300, 3600))
        if image.mode in ("F", "I"):
            part.putpixel((0, 0), image.getextrema()[1])
        whole, alone = np.asarray(open_image(image)), np.asarray(open_image(part))
        np.testing.assert_array_equal(whole[3501:], alone[1:])


# ------------------------------------------------------------------------------------------------ bounded


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_many_large_photos_need_the_memory_of_few(tmp_path: Path, options: dict[str, Any]) -> None:
    """16 of 12 megapixels take 770 MB, as Pillow keeps them, and half as much again with their coefficients."""
    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 3000), "red").save(path, **options)
    code = "reader = ImageReader([path] * 16, 224)\nassert {image.size for image in reader} == {(1000, 750)}"
    assert growth(path, code)[0] < 350


@pytest.mark.parametrize("kind", ["F", "I;16", "RGBA", "P", "WEBP"])
def test_conversions_take_little_beside_the_decoded_image(tmp_path: Path, kind: str) -> None:
    """12 megapixels, one after the other: a whole copy of them as float64 is 96 MB."""
    size = (3000, 4000)
    path = tmp_path / {"F": "a.tif", "WEBP": "a.webp"}.get(kind, "a.png")
    image = Image.new("RGB" if kind == "WEBP" else kind, size)
    options = {"F": {"compression": "tiff_lzw"}, "P": {"transparency": 0}, "WEBP": {"lossless": True, "method": 0}}
    image.save(path, **options.get(kind, {}))
    decoded = {"I;16": 24, "P": 12, "WEBP": 190}.get(kind, 48)
    used, message = growth(path, "open_image(path, size=224)\nexamine_image(path)")
    assert message == ""
    assert used < decoded + 70


def test_threads_share_a_budget() -> None:
    budget, used, most, lock = MemoryBudget(100), 0, 0, threading.Lock()
    alone = []

    def work(count: int) -> None:
        nonlocal used, most
        with budget.reserve(count):
            with lock:
                used += count
                most = max(most, used if count <= 100 else 0)
                alone.append(count <= 100 or used == count)
            time.sleep(0.002)
            with lock:
                used -= count

    threads = [threading.Thread(target=work, args=(count,)) for count in (40, 60, 150, 10, 90, 50, 30, 200) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 100 and all(alone) and len(alone) == 32


# ------------------------------------------------------------------------------------------------ refused


def many_scans(count: int) -> bytes:
    """A JPEG whose last scan is there `count` times."""
    content = encoded(photo(64, 64), "JPEG", progressive=True)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:start] + content[start:end] * count + content[end:]


def test_jpeg_with_many_scans_is_refused() -> None:
    assert open_image(many_scans(20)).size == (64, 64)
    for content in (many_scans(3000), many_scans(MAX_SCANS)):  # the ordinary ones come in front
        start = time.process_time()
        with pytest.raises(DataError, match=f"an image was refused: .* more than {MAX_SCANS} scans"):
            open_image(content)
        assert time.process_time() - start < 5


def test_what_only_looks_like_scans_is_none() -> None:
    """A thumbnail in front of the image, a film behind it, and further images."""
    for content in (
        encoded(photo(64, 64), "JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 1000),
        encoded(photo(64, 64), "JPEG", progressive=True) + b"\xff\xda\0\x02" * 1000,
        encoded(photo(64, 64), "MPO", save_all=True, append_images=[photo(64, 64)] * 20, progressive=True),
    ):
        assert open_image(content).size == (64, 64)


@pytest.mark.parametrize("kind", ["F", "I;16"])
def test_pixels_that_take_gigabytes_are_refused_before_they_are_decoded(tmp_path: Path, kind: str) -> None:
    """A compressed file of one strip, within the limit on pixels."""
    path = tmp_path / "large.tif"
    Image.new(kind, (16, 16)).save(path, compression="tiff_lzw")
    content = path.read_bytes()
    for tag in (256, 257, 278):  # width, height, and rows of the strip: now numbers of 32 bits
        place = content.index(tag.to_bytes(2, "little"), 8)
        entry = content[place : place + 2] + b"\4\0\1\0\0\0" + (13_312).to_bytes(4, "little")
        content = content[:place] + entry + content[place + 12 :]
    path.write_bytes(content)
    used, message = growth(path, "open_image(path)")
    assert "13312 x 13312 pixels takes" in message and "GiB of memory, and the limit is 1" in message
    assert used < 50


# ---------------------------------------------------------------------------------------------- unheard


def test_damaged_files_make_no_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes to the process's own stderr, and Pillow warns; what is wrong is said once, where it belongs."""
    content = bytearray(encoded(photo(64, 64), "TIFF", compression="tiff_adobe_deflate"))
    content[40:240] = bytes(200)
    (tmp_path / "damaged.tif").write_bytes(content)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + struct.pack(">HHII", 0x010E, 2, 99, 9999)  # beyond its end
    (tmp_path / "odd.jpg").write_bytes(encoded(photo(64, 64), "JPEG", exif=exif))
    assert main(["data", "check", str(tmp_path), "--quiet"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "damaged.tif is damaged" in printed.out


def test_a_reader_gives_reduced_images(tmp_path: Path) -> None:
    photo(2000, 1500).save(tmp_path / "a.jpg")
    (image,) = ImageReader([tmp_path / "a.jpg"], 100)
    assert image.size == (500, 375)
