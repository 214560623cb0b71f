"""A page with small pictures of what a search has found. It holds all that it shows, and refers to nothing outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from opsin.errors import DataError
from opsin.files import atomic_write
from opsin.names import printable
from opsin.search.results import Hit, SearchResults

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
