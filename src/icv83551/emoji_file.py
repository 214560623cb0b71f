"""The course's emoji: an `.npz` file of pickled dictionaries, read without running anything that a pickle can hold.

Each entry is a 0-d object array with a dictionary: `images`, uint8 RGB arrays, and `texts`, strings.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsin.errors import DataError, system_errors_as
from opsin.sources.pickles import read_pickle

MAX_ENTRY_BYTES = 64 * 2**20
"""Unpacked; the course's largest entry has less than one megabyte."""


@dataclass(frozen=True)
class CourseEmoji:
    """One emoji: drawings uint8 (H, W, 3), of any sizes, and texts; at least one of each."""

    images: tuple[np.ndarray, ...]
    texts: tuple[str, ...]


def load_course_emoji(path: Path | str) -> list[CourseEmoji]:
    """Every entry of the file. Raises DataError when it is absent, damaged, holds anything else, or nothing."""
    try:
        with system_errors_as(DataError, f"{path} cannot be read"), zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if large := [member.filename for member in members if member.file_size > MAX_ENTRY_BYTES]:
                raise DataError(f"{path} was refused: {large[0][:100]} unpacks to more than {MAX_ENTRY_BYTES:,} bytes")
            entries = [_entry(_read_array(archive.read(member)), f"{path}, {member.filename}") for member in members]
    except DataError:
        raise
    except Exception as error:  # a damaged archive or pickle can end in any way
        raise DataError(f"{path} was refused: {str(error)[:200] or type(error).__name__}") from error
    if not entries:
        raise DataError(f"{path} holds no emoji")
    return entries


def _read_array(content: bytes) -> Any:
    """The object of a 0-d object array in numpy's file format."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if shape != () or not dtype.hasobject:
        raise DataError(f"an entry is an array of shape {shape} and type {dtype}, not a dictionary")
    return read_pickle(file.read())


def _entry(content: Any, where: str) -> CourseEmoji:
    if not isinstance(content, dict) or not {"images", "texts"} <= content.keys():
        raise DataError(f"{where} is no dictionary with `images` and `texts`")
    images = tuple(np.asarray(image) for image in content["images"])
    texts = tuple(content["texts"])
    if not images or any(i.ndim != 3 or i.shape[2] != 3 or i.dtype != np.uint8 or i.size == 0 for i in images):
        raise DataError(f"{where}: `images` must be uint8 arrays of shape (H, W, 3), at least one")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: `texts` must be strings, at least one")
    return CourseEmoji(images, tuple(str(text) for text in texts))
