"""What opsin writes itself: directories and images that are never taken for data.

A directory is known by its files. A PNG has its program in the chunk `Software`, right behind the header.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from opsin.files import open_regular

SOFTWARE = "opsin"
"""The value of `Software` in every PNG that opsin writes."""

_CHUNK = b"tEXtSoftware\0" + SOFTWARE.encode()
_CHUNK_START = 37
"""Behind the signature (8 bytes), the chunk IHDR (25), and the length of the next chunk (4)."""

_SAMPLE = re.compile(r"(?:^|/)samples/(?:raw/)?step-\d+\.png$")

_OF_RUNS_AND_MODELS = ("environment.json", "checkpoints", "model", "model.safetensors")
"""Any of them, beside config.json."""


def png_info() -> PngInfo:
    """What Pillow is to write into a PNG, as `pnginfo`, so that `is_own_image` knows it."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    return info


def is_own_image(path: Path | str) -> bool:
    """Whether a file is a PNG that opsin has written. False for a file that cannot be read."""
    try:
        with open_regular(path) as file:
            start = file.read(_CHUNK_START + len(_CHUNK))
    except OSError:
        return False
    return start[_CHUNK_START:] == _CHUNK


def is_own_directory(path: Path | str) -> bool:
    """Whether a directory is a run, a model, an index or embeddings, all of which opsin writes."""

    def has(name: str) -> bool:
        return os.path.lexists(os.path.join(path, name))

    if has("metrics.jsonl") or has("index.sqlite3"):
        return True
    if has("config.json"):
        return any(map(has, _OF_RUNS_AND_MODELS))
    return has("manifest.json") and (has("000000.npy") or has("000000.json"))


def is_sample(relative: str) -> bool:
    """Whether a path is that of a run's sample images (`samples/step-100.png`), whatever has become of the run."""
    return _SAMPLE.search(relative) is not None
