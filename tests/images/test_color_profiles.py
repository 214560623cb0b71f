"""Whatever color profile a file has, its colors come out in sRGB: against Pillow's conversion, and against matrices."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from opsin.images.opening import open_image
from opsin.images.rendering import to_srgb

D50 = (0.9642, 1.0, 0.8249)
SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
GAMUTS = {
    "AdobeRGB": (2.19921875, [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]),
    "DisplayP3": (2.2, [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]),
    "ProPhoto": (1.8, [[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]]),
}
"""Exponent, and the matrix from linear RGB to XYZ under D50, of each color space."""


def profile(color_space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """The bytes of a display profile of version 2."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x02400000, b"mntr", color_space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + xyz(D50)[8:] + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def rgb_profile(name: str) -> bytes:
    exponent, matrix = GAMUTS[name]
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, np.array(matrix).T), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(exponent))
    return profile(b"RGB ", {b"wtpt": xyz(D50), **columns, **curves})


def grey_profile(exponent: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": curve(exponent)})


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to levels of sRGB."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def muted_colors() -> Image.Image:
    """Smooth, and nowhere so strong that sRGB has no such color."""
    rows, columns = np.mgrid[:64, :96]
    values = np.stack([90 + columns, 80 + 2 * rows, 200 - columns // 2 - rows], axis=2)
    return Image.fromarray(values.astype(np.uint8))


def saved(image: Image.Image, icc_profile: bytes, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format, icc_profile=icc_profile, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", GAMUTS)
def test_wide_gamuts_by_their_matrices(name: str, format: str) -> None:
    exponent, matrix = GAMUTS[name]
    image = muted_colors()
    light = (np.asarray(image) / 255) ** exponent @ np.array(matrix).T @ np.linalg.inv(SRGB_TO_XYZ).T
    opened = open_image(saved(image, rgb_profile(name), format))
    assert np.abs(np.asarray(opened) - srgb_of(light)).mean() < 0.6
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(image)).mean() > 3
    assert open_image(opened) is opened and opened.info == {}


def test_images_that_pillow_opened_are_converted_once() -> None:
    content = saved(muted_colors(), rgb_profile("ProPhoto"))
    opened = np.asarray(open_image(content))
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        for way in (image, image.copy(), image.convert("RGBA")):
            np.testing.assert_array_equal(np.asarray(open_image(way)), opened)


def test_transparency_and_palettes_keep_their_profile() -> None:
    icc, image = rgb_profile("AdobeRGB"), muted_colors()
    expected = np.asarray(open_image(saved(image, icc)))
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.uint8([255, 0]), (64, 48))))
    opened = np.asarray(open_image(saved(rgba, icc)))
    np.testing.assert_array_equal(opened[:, ::2], expected[:, ::2])
    assert (opened[:, 1::2] == 255).all()
    palette = image.quantize(16)
    expected = np.asarray(open_image(saved(palette.convert("RGB"), icc)))
    np.testing.assert_array_equal(np.asarray(open_image(saved(palette, icc))), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_profiles(depth: int) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    image = Image.fromarray(ramp if depth == 8 else ramp.astype(np.uint16) * 257)
    opened = np.asarray(open_image(saved(image, grey_profile(1.0))))
    assert np.abs(opened - srgb_of(ramp / 255)[:, :, None]).max() < 1.5


def cmyk_profile() -> bytes:
    """A table of 2 x 2 x 2 x 2 inks: the more ink, the darker, and yellow is a strong one."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness = 255 - (inks @ [60, 70, 20, 90]).clip(0, 255)
    lab = np.stack([lightness, 128 + inks @ [-40, 60, 0, 0], 128 + inks @ [-40, 0, 80, 0]], axis=1).astype(np.uint8)
    identity = b"".join(struct.pack(">i", 65536 * (place % 4 == 0)) for place in range(9))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab.tobytes() + ramp * 3
    content = profile(b"CMYK", {b"wtpt": xyz(D50), b"A2B0": table})
    return content[:12] + b"prtr" + content[16:20] + b"Lab " + content[24:]


def test_cmyk() -> None:
    cmyk = muted_colors().convert("CMYK")
    plain = np.asarray(cmyk.convert("RGB"))
    source = ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile()))
    expected = ImageCms.profileToProfile(cmyk, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    opened = np.asarray(open_image(saved(cmyk, cmyk_profile(), "TIFF")))
    np.testing.assert_array_equal(opened, np.asarray(expected))
    assert np.abs(opened.astype(int) - plain).mean() > 5
    for unusable in (rgb_profile("AdobeRGB"), b""):
        np.testing.assert_array_equal(np.asarray(open_image(saved(cmyk, unusable, "TIFF"))), plain)


def test_lab() -> None:
    image = muted_colors()
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    for icc in (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), b""):
        opened = np.asarray(open_image(saved(lab, icc, "TIFF")))
        assert np.abs(opened.astype(int) - np.asarray(image)).mean() < 1.5


def test_srgb_is_left_alone(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(open_image(saved(Image.fromarray(noise), icc))), noise)
    assert to_srgb(icc, "RGB") is None


@pytest.mark.parametrize(
    "icc",
    [
        b"no profile",
        rgb_profile("AdobeRGB")[:200],
        rgb_profile("AdobeRGB").replace(b"acsp", b"oops"),
        profile(b"RGB ", {}),
        grey_profile(1.0),
        b"\0" * 2**24,
    ],
    ids=["text", "cut off", "no signature", "no tags", "of greys", "large"],
)
def test_profiles_that_cannot_be_used_are_ignored(icc: bytes) -> None:
    image = muted_colors()
    np.testing.assert_array_equal(np.asarray(open_image(saved(image, icc, "TIFF"))), np.asarray(image))
