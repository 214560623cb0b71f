"""What an HTML page of opsin holds, as tests look at it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Tags that do not match, what is fetched from elsewhere, and texts by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action") and value]
        self.ids += [values["id"]] if values.get("id") else []
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def assert_sound(page: Page) -> None:
    """Tags match, headings are there, every image is described, and nothing is fetched from outside the file."""
    assert page.mismatched == [] and page.open == []
    assert len(page.texts["h1"]) == 1 and page.texts["h2"]
    assert all(image["alt"] for image in page.images)
    outside = [address for address in page.addresses if not address.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert [address for address in page.addresses if address.startswith("#") and address[1:] not in page.ids] == []
