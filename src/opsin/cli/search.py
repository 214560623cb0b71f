"""`opsin search INDEX QUERY…`: the images of an index that are closest to words, images, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from opsin.cli.options import SharedOptions, UsageError, parse
from opsin.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from opsin.clip.search.results import SearchResults

DESCRIPTION = (
    "Find the images of an index that are closest to a query: words, images, or a weighted sum of both. The cosine of "
    "a hit says little by itself; its percentile is the share of the collection that comes after it."
)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SharedOptions):
    """Options of `opsin search`."""

    index: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")]
    """A directory that `opsin index` has made."""
    query: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="QUERY")] = ()
    """What to look for, in words."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 5
    """How many images to show."""
    image: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")] = ()
    """Look for images like this one, too; can be given again."""
    minus: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORDS")] = ()
    """What the images should not show; can be given again."""
    weight: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """How much a part of the query counts, 1 if not given: once for the words, for each --image, and for each
    --minus, in this order."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write a page with small pictures of the hits, which holds all that it shows."""
    backend: Literal["exact", "lancedb"] = "exact"
    """lancedb is approximate, for millions of images; it needs the extra `search`."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Run `opsin search`; returns the exit code."""
    options = parse(SearchOptions, argv, "opsin search", DESCRIPTION)
    text = " ".join(options.query)
    if not text.strip() and not options.image:
        raise UsageError("the query is empty; say in words, or with --image FILE, what to look for")
    if options.k < 1:
        raise UsageError(f"-k must be at least 1, not {options.k}")
    from opsin.clip.search.index import ImageIndex

    index = ImageIndex.open(options.index, device=options.device, backend=options.backend)
    results = index.search(
        [text] if text.strip() else [],
        image=options.image,
        minus=options.minus,
        weights=options.weight or None,
        k=options.k,
    )
    title = " ".join(
        [text, *(f"image {path}" for path in options.image), *(f"without {words}" for words in options.minus)]
    )
    if options.json:
        _print_json(options, title, results)
    else:
        _print_results(results)
    if options.html is not None:  # after the answers: a page that cannot be written does not cost them
        from opsin.clip.search.contact_sheet import write_contact_sheet

        write_contact_sheet(options.html, title.strip(), results, index.image)
        note(f"contact sheet: {options.html}", quiet=options.quiet)
    elif not options.json:
        note("next: add --html sheet.html to see the images", quiet=options.quiet)
    return 0


def _print_results(results: SearchResults) -> None:
    from opsin.data.names import printable

    if results.total == 0:
        print("the index has no images")
        return
    if not results.confident:
        print("no confident match: the best images below stand out no more than chance would have it")
    rows = [
        (printable(hit.id) + ("  (deleted since)" if hit.missing else ""), f"{hit.cosine:.3f}", f"{hit.percentile:.2f}")
        for hit in results
    ]
    print_table(("image", "cosine", "percentile"), rows)
    for row in results.refused:
        print(f"left out  {row.reason}")


def _print_json(options: SearchOptions, title: str, results: SearchResults) -> None:
    from opsin.data.names import printable

    hits = [
        {
            "id": printable(hit.id),
            "path": None if hit.path is None else printable(str(hit.path)),
            "cosine": round(hit.cosine, 6),
            "percentile": round(hit.percentile, 4),
            "missing": hit.missing,
        }
        for hit in results
    ]
    print_json(
        {
            "index": str(options.index),
            "query": title.strip(),
            "images": results.total,
            "confident": results.confident,
            "standout": round(results.standout, 4),
            "hits": hits,
            "refused": [{"id": row.id, "reason": row.reason} for row in results.refused],
        }
    )
