"""Finding the images that a table or an annotation file names, however it spells them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from opsin.images.opening import IMAGE_SUFFIXES
from opsin.names import name_key


class ImagesByName:
    """Images, to be found by what a file calls them.

    A name is a path from the folder of that file, an absolute path, or the end of the path of one image below that
    folder, such as its bare name. It may have no suffix, the separators of Windows, and another Unicode form or case:
    an image of exactly this name comes first, then those whose names have the same `name_key`.
    """

    def __init__(self, images: Sequence[Path]) -> None:
        self._paths = [os.path.abspath(image) for image in images]

    def find(self, name: str, folder: Path, preferred: Sequence[Path] = ()) -> list[int]:
        """The places of the images that a file in `folder` may mean by `name`: none, one, or several.

        Where several have the name, one whose path from `folder` it is comes first, then those in a folder of
        `preferred`.
        """
        folders = [os.path.abspath(path) for path in (folder, *preferred)]
        for spelling in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            if places := self._find(spelling, folders) if spelling else []:
                return places
        return []

    def _find(self, name: str, folders: Sequence[str]) -> list[int]:
        is_windows = re.match("[A-Za-z]:/|//", name) is not None
        starts = [name]
        if is_windows:  # a path of another computer, whose end may be a path from here
            parts = name.split("/")
            starts += ["/".join(parts[place:]) for place in range(1, len(parts)) if parts[place]]
        for start in starts:
            for folder in folders:
                if places := self._at(os.path.normpath(os.path.join(folder, start))):
                    return places
        if os.path.isabs(name):  # it may lead here through a link
            return self._by_real_path.get(os.path.realpath(name), [])
        return [] if is_windows else self._ending_in(name, folders)

    def _at(self, path: str) -> list[int]:
        places = self._by_path.get(name_key(path), [])
        if not places and not _has_suffix(path):
            places = self._by_path_without_suffix.get(name_key(path), [])
        return self._exact(places, path)

    def _ending_in(self, name: str, folders: Sequence[str]) -> list[int]:
        """The images whose paths end so, in the first of the preferred folders, else below the folder itself."""
        parts = PurePosixPath(name).parts
        by_name = self._by_name if _has_suffix(name) else self._by_stem
        named = by_name.get(name_key(parts[-1]), []) if parts else []
        wanted = [name_key(part) for part in parts[:-1]]
        named = [place for place in named if _folder_keys(self._paths[place], len(wanted)) == wanted]
        for folder in (*folders[1:], folders[0]):
            below = [place for place in named if self._paths[place].startswith(os.path.join(folder, ""))]
            if below:
                return self._exact(below, name)
        return []

    def _exact(self, places: list[int], name: str) -> list[int]:
        """The one that is spelt exactly so, where several have the same key."""
        exact = [place for place in places if self._paths[place].endswith(name)] if len(places) > 1 else []
        return exact if len(exact) == 1 else places

    @cached_property
    def _by_path(self) -> dict[str, list[int]]:
        return _places(map(name_key, self._paths))

    @cached_property
    def _by_path_without_suffix(self) -> dict[str, list[int]]:
        return _places(name_key(os.path.splitext(path)[0]) for path in self._paths)

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        return _places(name_key(os.path.basename(path)) for path in self._paths)

    @cached_property
    def _by_stem(self) -> dict[str, list[int]]:
        return _places(name_key(os.path.splitext(os.path.basename(path))[0]) for path in self._paths)

    @cached_property
    def _by_real_path(self) -> dict[str, list[int]]:
        return _places(map(os.path.realpath, self._paths))


def _places(keys: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _folder_keys(path: str, count: int) -> list[str]:
    """The keys of the last `count` folders of a path."""
    return [name_key(part) for part in Path(path).parts[:-1][-count:]] if count else []
