"""What a search gives back, and what an update tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsin.images.opening import Skipped
from opsin.names import printable
from opsin.results import skipped_document


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    id: str
    """The path relative to the indexed folder, or what the source calls the image."""
    path: Path | None
    """The file, which lies in the indexed folder; None for an image of a source that has no files of its own."""
    cosine: float
    """Of the angle to the query, -1 to 1; what is high differs between models and queries."""
    rank: int
    """Its place among all images, from 1; of images that are equally similar, one comes first."""
    missing: bool = False
    """The file has been deleted since it was indexed."""


@dataclass(frozen=True)
class SearchResults(Sequence[Hit]):
    """Hits, best first, and what they are worth."""

    hits: tuple[Hit, ...]
    confident: bool
    """False when the best hit does not stand out: then nothing in the collection seems to match the query."""
    standout: float
    """How far the best hit stands out; 1 and above is confident. See `opsin.search.confidence`."""
    total: int
    """Images that were searched."""
    refused: tuple[Skipped, ...] = ()
    """Hits that were left out because their path leads out of the indexed folder."""

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: Any) -> Any:
        return self.hits[index]

    def document(self) -> dict[str, Any]:
        """All of it as JSON types, names fit to print."""
        hits = [
            {
                "rank": hit.rank,
                "id": printable(hit.id),
                "path": None if hit.path is None else printable(str(hit.path)),
                "cosine": hit.cosine,
                "missing": hit.missing,
            }
            for hit in self.hits
        ]
        return {
            "images": self.total,
            "confident": self.confident,
            "standout": self.standout,
            "hits": hits,
            "refused": skipped_document(self.refused),
        }


@dataclass(frozen=True)
class UpdateReport:
    """What an update did; ids of images are paths relative to the folder, or what the source calls them."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    moved: tuple[tuple[str, str], ...]
    """Old and new path."""
    repaired: tuple[str, ...]
    """Images whose vectors in the index were damaged, so that they have been encoded again."""
    deleted: tuple[str, ...]
    unchanged: int
    skipped: tuple[Skipped, ...]
    """What is left out, and why; ids are fit to print."""
    encoded: int
    """Images that went through the network."""
    total: int
    """Images in the index."""
    other_files: Mapping[str, int]
    """Files that are no images by their names: how many there are of each suffix, in small letters."""
