"""What a search gives back, also as a page of small pictures, and what an update tells.

The page holds all that it shows, and refers to nothing outside.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from opsin.counts import number_of
from opsin.errors import DataError
from opsin.files import atomic_write
from opsin.images.opening import Skipped
from opsin.names import printable
from opsin.results import Table, skipped_document


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

    @property
    def name(self) -> str:
        """For people: the file, relative to the working directory if it lies in it; `id` where there is no file."""
        if self.path is None:
            return self.id
        return str(self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path)


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

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The hits that were left out."""
        return self.refused

    @property
    def remark(self) -> str | None:
        """What people have to know before they look at the hits."""
        if self.total == 0:
            return "the index has no images"
        if not self.confident:
            return "no confident match: the best images below stand out no more than chance would have it"
        return None

    def tables(self) -> list[Table]:
        """The hits, where there are images."""
        rows = [
            (hit.rank, hit.name + ("  (deleted since)" if hit.missing else ""), f"{hit.cosine:.3f}")
            for hit in self.hits
        ]
        return [Table(("rank", "image", "cosine"), rows)] if self.total else []

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

    index: Path
    encoder: str
    """The reference of the index's encoder."""
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
    """Files without the suffix of an image: how many there are of each suffix, in small letters."""

    def document(self) -> dict[str, Any]:
        """All of it as JSON types, names fit to print."""

        def shown(ids: tuple[str, ...]) -> list[str]:
            return [printable(id) for id in ids]

        return {
            "index": printable(str(self.index)),
            "model": self.encoder,
            "images": self.total,
            "encoded": self.encoded,
            "unchanged": self.unchanged,
            "added": shown(self.added),
            "changed": shown(self.changed),
            "moved": [{"from": printable(old), "to": printable(new)} for old, new in self.moved],
            "repaired": shown(self.repaired),
            "deleted": shown(self.deleted),
            "skipped": skipped_document(self.skipped),
            "other_files": {printable(suffix): count for suffix, count in self.other_files.items()},
        }

    def tables(self) -> list[Table]:
        """The counts, and below them the files that are no images."""
        counts = {
            "added": len(self.added), "changed": len(self.changed), "moved": len(self.moved),
            "deleted": len(self.deleted), "unchanged": self.unchanged, "left out": len(self.skipped),
            "in the index": self.total,
        }  # fmt: skip
        if self.repaired:
            counts["repaired (their vectors were damaged)"] = len(self.repaired)
        remark = None
        if others := sorted(self.other_files.items(), key=lambda row: -row[1]):
            named = ", ".join(f"{count:,} {printable(suffix) or 'without a suffix'}" for suffix, count in others[:5])
            more = ", …" if len(others) > 5 else ""
            remark = (
                f"not images: {number_of(sum(self.other_files.values()), 'file')}, by their suffixes ({named}{more})"
            )
        return [Table(("images", "count"), list(counts.items()), remark=remark)]


THUMBNAIL = 224
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(14em, 1fr)); gap: 1.5em }
figure { margin: 0 } img { max-width: 100%; border-radius: 4px } figcaption { overflow-wrap: anywhere }
.absent { height: 9em; display: grid; place-items: center; background: #eee; border-radius: 4px; text-align: center }
.note { color: #a33a00 } small { color: #555 }
</style></head><body>
<h1>{{ title }}</h1>
{% if not confident %}<p class="note">No confident match:
the best images stand out no more than chance would have it.</p>
{% endif %}<p>{{ hits | length }} of {{ total }} images</p>
<main>
{% for hit in hits %}<figure>
{% if hit.picture %}<img alt="{{ hit.name }}" src="data:image/jpeg;base64,{{ hit.picture }}">
{% else %}<div class="absent">{{ hit.problem }}</div>
{% endif %}<figcaption>{{ hit.name }}<br><small>cosine {{ hit.cosine }}</small>
</figcaption></figure>
{% endfor %}</main>
{% for row in refused %}<p class="note">left out: {{ row.reason }}</p>
{% endfor %}</body></html>
"""


OpenHit = Callable[[str, int], Image.Image]
"""Gives the image of a hit's id, which may be reduced for a size in pixels; raises DataError."""


def write_contact_sheet(path: Path, query: str, results: SearchResults, open_hit: OpenHit) -> None:
    """Write the page, in one step. The message of an error of `open_hit` takes the place of the image. Raises
    CheckpointError when the page cannot be written."""
    page = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title=f"opsin search: {printable(query)}",
            confident=results.confident,
            total=results.total,
            hits=[_figure(hit, open_hit) for hit in results],
            refused=results.refused,
        )
    )
    with atomic_write(path) as file:
        file.write(page.encode("utf-8"))


def _figure(hit: Hit, open_hit: OpenHit) -> dict[str, str]:
    figure = {
        "name": printable(hit.id),
        "cosine": f"{hit.cosine:.3f}",
        "picture": "",
        "problem": "",
    }
    try:
        image = open_hit(hit.id, THUMBNAIL)
    except DataError as error:
        figure["problem"] = "the file has been deleted since" if hit.missing else str(error)
        return figure
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    figure["picture"] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return figure
