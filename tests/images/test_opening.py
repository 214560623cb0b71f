"""Every kind of image file becomes 8-bit RGB, and every kind of broken one a DataError."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from opsin.errors import DataError
from opsin.images.decoding import MAX_PIXELS
from opsin.images.opening import ImageReader, examine_image, open_image
from opsin.sources.listing import find_images, list_images
from tests.images.orientation import ORIENTATION, four_corners, save_turned

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def pixels(image: Any) -> np.ndarray:
    opened = open_image(image)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def left_red_right_blue() -> Image.Image:
    image = Image.new("RGB", (6, 4), RED)
    image.paste(BLUE, (3, 0, 6, 4))
    return image


LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
FORMATS = [*LOSSLESS, "JPEG", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_the_camera_is_applied_once(tmp_path: Path, orientation: int, format: str) -> None:
    """From a file, from its bytes, from what Pillow makes of it, and from what has been opened already."""
    upright = four_corners()
    path = save_turned(upright, orientation, tmp_path / "photo", format, **LOSSLESS.get(format, {"quality": 95}))
    opened = open_image(path)
    difference = np.abs(np.asarray(opened).astype(int) - np.asarray(upright)).mean()
    assert opened.size == upright.size
    assert difference == 0 if format in LOSSLESS else difference < 5
    assert opened.info == {} and not opened.getexif()
    assert open_image(opened) is opened
    with Image.open(path) as unread, Image.open(path) as read:
        read.load()
        ways = [path.read_bytes(), unread, read, read.copy(), read.convert("RGBA"), opened.copy(), np.asarray(opened)]
        for way in ways:
            assert (pixels(way) == np.asarray(opened)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 128, 0)):
        image.putpixel((x, 0), (0, 0, 0, alpha) if mode == "RGBA" else (0, alpha))
    image.save(tmp_path / "alpha.png")
    assert pixels(tmp_path / "alpha.png")[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "one.png", transparency=0)
    image.save(tmp_path / "shades.png", transparency=bytes([0, 255]))
    assert pixels(tmp_path / "opaque.png")[0].tolist() == [list(RED), list(BLUE)]
    assert pixels(tmp_path / "one.png")[0].tolist() == [list(WHITE), list(BLUE)]
    assert pixels(tmp_path / "shades.png")[0].tolist() == [list(WHITE), list(BLUE)]


def test_transparent_colour_of_an_rgb_file(tmp_path: Path) -> None:
    left_red_right_blue().save(tmp_path / "key.png", transparency=RED)
    assert pixels(tmp_path / "key.png")[0, [0, 5]].tolist() == [list(WHITE), list(BLUE)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    expected = np.array([[0, 100], [200, 255]])
    assert (pixels(tmp_path / f"grey.{suffix}") == expected[:, :, None]).all()


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
@pytest.mark.parametrize(("bits", "brightest"), [(10, 1023), (12, 4095), (12, 2500), (14, 16383), (16, 16384)])
def test_greys_of_cameras_in_sixteen_bits(tmp_path: Path, suffix: str, dtype: type, bits: int, brightest: int) -> None:
    values = np.linspace(0, brightest, 6).astype(dtype)[None]
    Image.fromarray(values).save(tmp_path / f"ramp.{suffix}")
    expected = np.rint(values / (2**bits - 1) * 255)
    assert (pixels(tmp_path / f"ramp.{suffix}")[:, :, 0] == expected).all()
    assert examine_image(tmp_path / f"ramp.{suffix}").used_bits == (None if bits == 16 else bits)


def colors_in_sixteen_bits(values: np.ndarray, format: str) -> bytes:
    """A file of uint16 (H, W, 3 or 4), which Pillow does not write: PNG, or TIFF in one of the two orders of bytes."""
    height, width, channels = values.shape
    if format == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        sums = [struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts]
        chunks = [
            struct.pack(">I", len(part)) + kind + part + sum for (kind, part), sum in zip(parts, sums, strict=True)
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    order = "<" if format == "II" else ">"
    data = values.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: 122, 259: 1, 262: 2, 273: 128, 277: 3, 278: height, 279: len(data)}
    fields = [
        struct.pack(f"{order}HHII", tag, 3, 3, value) if tag == 258 else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags.items()
    ]
    head = format.encode() + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + b"".join(fields) + bytes(4) + struct.pack(f"{order}HHH", 16, 16, 16) + data


@pytest.mark.parametrize("format", ["png", "II", "MM"])
@pytest.mark.parametrize(
    ("bits", "brightest"), [(10, 1023), (12, 4095), (12, 2500), (14, 16383), (16, 16384), (16, 255)]
)
def test_colors_of_cameras_in_sixteen_bits(format: str, bits: int, brightest: int) -> None:
    values = np.random.default_rng(0).integers(0, brightest + 1, (40, 50, 3))
    values[0, 0] = brightest
    content = colors_in_sixteen_bits(values, format)
    assert np.abs(pixels(content) - values / (2**bits - 1) * 255).max() < 1
    assert examine_image(content).used_bits == (None if bits == 16 else bits)


def test_opacity_keeps_its_own_range() -> None:
    values = np.full((2, 2, 4), 2000)
    values[:, :, 3] = [0, 65535]
    assert pixels(colors_in_sixteen_bits(values, "png"))[0].tolist() == [[255] * 3, [125] * 3]


def test_dark_sixteen_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 255, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert pixels(tmp_path / "dark.png").max() == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 51.0, 204.0], [0, 51, 204]),
        ([0.0, 257.0 * 51, 65535.0], [0, 51, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([np.nan, 0.2, np.inf], [0, 51, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_float_greys(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    """The range is the usual one that fits; what is no number is black, and what is infinite white."""
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "float.tif")
    assert pixels(tmp_path / "float.tif")[0, :, 0].tolist() == expected


def test_thirty_two_bit_greys(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32)).save(tmp_path / "int.tif")
    assert pixels(tmp_path / "int.tif")[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(np.array([[-100, 0, 100]], dtype=np.int32)).save(tmp_path / "int.tif")
    assert pixels(tmp_path / "int.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 40, 40)).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "print.jpg").astype(int) - (200, 40, 40)).max() < 10


def test_black_and_white_image(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "fax.png")
    assert pixels(tmp_path / "fax.png")[0].tolist() == [[0] * 3, [255] * 3]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "move.gif", save_all=True, append_images=frames[1:])
    assert (pixels(tmp_path / "move.gif") == RED).all()


def test_arrays() -> None:
    grey = np.array([[0, 255]], dtype=np.uint8)
    for shape in ((1, 2), (1, 2, 1)):
        assert pixels(grey.reshape(shape))[0].tolist() == [[0] * 3, [255] * 3]
    assert pixels(np.array([[[0.0, 0.5, 1.0]]]))[0, 0].tolist() == [0, 128, 255]
    assert pixels(np.zeros((1, 1, 4), dtype=np.uint8))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8), dtype=np.uint8), "shape"),
        (np.zeros(4, dtype=np.uint8), "shape"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "shape"),
        (np.zeros((4, 4), dtype=np.int64), "int64"),
        (np.full((4, 4), 2.0), r"\[0, 1\]"),
        (np.full((4, 4), np.nan), r"\[0, 1\]"),
    ],
)
def test_array_that_is_no_image(array: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_image(array)


def test_image_of_the_caller_is_not_changed() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    open_image(image)
    assert image.mode == "RGBA"
    assert image.getexif()[ORIENTATION] == 6


def noisy_jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(noisy_jpeg()[:1500])
    with pytest.raises(DataError, match=r"half\.jpg is damaged: .*truncated"):
        open_image(path)
    with Image.open(path) as unread, pytest.raises(DataError, match="is damaged"):
        open_image(unread)


@pytest.mark.parametrize("content", [b"", b"this is a text\n", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"note\.jpg is not an image"):
        open_image(path)


@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA"])
def test_other_formats_are_refused_whatever_the_name_says(tmp_path: Path, format: str) -> None:
    """Pillow has EPS drawn by another program."""
    left_red_right_blue().save(tmp_path / "photo.jpg", format)
    with pytest.raises(DataError, match=r"photo\.jpg is not an image"):
        open_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "PPM", "BMP", "MPO"])
def test_the_suffix_may_be_that_of_another_format(tmp_path: Path, format: str) -> None:
    image = left_red_right_blue()
    options: dict[str, Any] = {"save_all": True, "append_images": [image]} if format == "MPO" else {}
    image.save(tmp_path / "photo.jpg", format, **options)
    assert pixels(tmp_path / "photo.jpg").shape == (4, 6, 3)


def test_odd_exif_is_no_damage(tmp_path: Path) -> None:
    """A width as text, which Pillow reads and cannot write, before the orientation."""
    entries = [struct.pack(">HHI4s", 0x0100, 2, 4, b"six\0"), struct.pack(">HHII", ORIENTATION, 3, 1, 6 << 16)]
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    left_red_right_blue().resize((24, 16)).save(tmp_path / "odd.jpg", exif=exif)
    assert pixels(tmp_path / "odd.jpg").shape == (24, 16, 3)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file .*gone.png"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        open_image(tmp_path)


@pytest.mark.parametrize("size", [(13378, 13378), (20000, 20000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_with_the_limit(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", size).save(path)
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=rf"bomb\.png was refused: .*{MAX_PIXELS:,}"):
        open_image(path)


def test_limit_holds_where_pillow_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (13378, 13378)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="13378 x 13378 pixels"):
        open_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000"]), data=st.data())
def test_damage_anywhere_is_an_image_or_a_data_error(format: str, data: st.DataObject) -> None:
    file = io.BytesIO()
    left_red_right_blue().resize((24, 16)).save(file, format)
    content = bytearray(file.getvalue())
    positions = st.integers(0, len(content) - 1)
    for position in data.draw(st.lists(positions, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        opened = open_image(bytes(content[: data.draw(positions) + 1]))
    except DataError as error:
        assert "an image" in str(error)
    else:
        assert opened.mode == "RGB"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot read AVIF")
def test_damaged_avif() -> None:
    """Pillow's decoder raises RuntimeError, which it does for no other format."""
    file = io.BytesIO()
    left_red_right_blue().resize((24, 16)).save(file, "AVIF")
    content = file.getvalue()
    start = content.index(b"mdat") + 4
    with pytest.raises(DataError, match="is damaged: Failed to decode"):
        open_image(content[:start] + bytes(len(content) - start))


HEIC = Path(__file__).with_name("heic")
GREEN, WHITE = (0, 255, 0), (255, 255, 255)
CORNERS = {  # top left, top right, bottom left, of red and green over blue and white, turned by the file
    "upright": (RED, GREEN, BLUE),
    "exif2": (GREEN, RED, WHITE),
    "exif3": (WHITE, BLUE, GREEN),
    "exif6": (BLUE, RED, WHITE),
    "exif8": (GREEN, WHITE, RED),
}


@pytest.mark.parametrize("name", CORNERS)
def test_heic_as_phones_turn_it(name: str) -> None:
    """Made by pillow-heif from one image and its EXIF orientation, which becomes a transformation of the file."""
    image = open_image(HEIC / f"{name}.heic")
    assert image.size == ((64, 96) if name in ("exif6", "exif8") else (96, 64))
    places = [(5, 5), (image.width - 5, 5), (5, image.height - 5)]
    np.testing.assert_allclose([image.getpixel(place) for place in places], CORNERS[name], atol=6)
    assert open_image(image) is image


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_truncated_heic(share: float) -> None:
    content = (HEIC / "upright.heic").read_bytes()
    with pytest.raises(DataError, match="an image is damaged|is no image"):
        open_image(content[: int(share * len(content))], "an image")


@given(data=st.data())
def test_damaged_heic_is_an_image_or_a_data_error(data: st.DataObject) -> None:
    content = bytearray((HEIC / "upright.heic").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        assert open_image(bytes(content)).mode == "RGB"
    except DataError as error:
        assert "an image" in str(error)


def test_jpeg_2000() -> None:
    file = io.BytesIO()
    left_red_right_blue().save(file, "JPEG2000")
    opened = open_image(file.getvalue())
    assert opened.getpixel((0, 0)) == (255, 0, 0) and opened.getpixel((5, 3)) == (0, 0, 255)


def test_a_heic_file_under_any_name_is_listed(tmp_path: Path) -> None:
    content = (HEIC / "upright.heic").read_bytes()
    for name in ("a.HEIC", "b.heif", "c.jpg"):
        (tmp_path / name).write_bytes(content)
    assert [open_image(path).size for path in find_images(tmp_path)] == [(96, 64)] * 3


def test_find_images_takes_any_case_and_depth_but_nothing_hidden(tmp_path: Path) -> None:
    wanted = ["A.JPG", "a.jfif", "b/c/d.webp", "b/Ünïcode 猫.Png"]
    unwanted = [".hidden.jpg", ".git/e.jpg", "b/notes.txt", "b/._f.jpg"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == wanted


def test_a_reader_gives_good_images_and_lists_broken_ones(tmp_path: Path) -> None:
    left_red_right_blue().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    reader = ImageReader(list_images([tmp_path, tmp_path / "a.png"]))
    assert [image.size for image in reader] == [(6, 4)] * 2
    assert reader.read == [tmp_path / "a.png"] * 2
    assert [row.id for row in reader.skipped] == [str(tmp_path / "b.png")]


def test_list_images_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        list_images([tmp_path / "gone.png"])
    with pytest.raises(DataError, match="has no image in it"):
        list_images([tmp_path])
