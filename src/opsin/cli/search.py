"""`opsin search INDEX QUERY…`: the images of an index that are closest to words, images, or both."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from opsin.cli.options import Bounds, Flag, SharedOptions, UsageError, parse
from opsin.cli.output import note, note_unlike, print_json, print_json_line, print_paths, show
from opsin.errors import ConfigError, DataError
from opsin.names import printable

if TYPE_CHECKING:
    from opsin.search.index import ImageIndex
    from opsin.search.results import SearchResults

DESCRIPTION = (
    "Find the images of an index that are closest to a query: words, images, or a weighted sum of both. The cosine of "
    "a hit says little by itself; what counts is the order."
)
STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SharedOptions):
    """Options of `opsin search`."""

    index: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")]
    """A directory that `opsin index` has made."""
    query: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="QUERY")] = ()
    """What to look for, in words; - reads one query a line from standard input, and --json then prints a line for each.
    The name of an image file stands for the image."""
    k: Annotated[int, Bounds(), tyro.conf.arg(aliases=["-k"])] = 5
    """How many images to show."""
    image: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")] = ()
    """Look for images like this one, too; takes several."""
    minus: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORDS")] = ()
    """What the images should not show; takes several."""
    weight: Annotated[tuple[float, ...], Bounds(-1e6, 1e6), tyro.conf.UseAppendAction] = ()
    """How much a part of the query counts, 1 if not given: once for the words, for each --image, and for each
    --minus, in this order."""
    paths: Flag = False
    """Print the paths of the hits only, one a line, for other programs."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write a page with small pictures of the hits, which holds all that it shows."""
    backend: Literal["exact", "lancedb"] = "exact"
    """lancedb is approximate, for millions of images; it needs the extra `search`."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True)
class Query:
    """What is looked for, besides `--minus`."""

    text: str
    images: tuple[Path, ...]

    def title(self, options: SearchOptions) -> str:
        """The query in a line."""
        images = (f"image {path}" for path in self.images)
        return " ".join([self.text, *images, *(f"without {words}" for words in options.minus)]).strip()


def main(argv: list[str]) -> int:
    """Run `opsin search`; returns the exit code."""
    options = parse(SearchOptions, argv, "opsin search", DESCRIPTION)
    several = options.query == (STDIN,)
    if several and options.html is not None:
        raise UsageError("--html writes a page of one query; leave it out, or give the query itself instead of -")
    if options.paths and (several or options.json):
        raise UsageError("--paths is for one query, and another form than --json; leave one of them out")
    query = None if several else _read_query(options.query, options)
    from opsin.search.index import ImageIndex

    index = ImageIndex.open(options.index, device=options.device, backend=options.backend)
    if query is None:
        return _answer_lines(index, options)
    results = _search(index, query, options)
    if options.paths:
        print_paths(hit.id if hit.path is None else str(hit.path) for hit in results if not hit.missing)
    elif options.json:
        print_json(_document(options, query, results))
    else:
        _print_results(results)
    _note_unlike(index, options)
    if options.html is not None:  # after the answers: a page that cannot be written does not cost them
        from opsin.search.results import write_contact_sheet

        write_contact_sheet(options.html, query.title(options), results, index.image)
        note(f"contact sheet: {options.html}", quiet=options.quiet)
    elif not options.json:
        note("next: add --html sheet.html to see the images", quiet=options.quiet)
    return 0


def _read_query(words: tuple[str, ...], options: SearchOptions) -> Query:
    """The words of a query, and its images: the files that some of the words name, and those of `--image`."""
    names = [" ".join(words)] if _is_image_file(" ".join(words)) else [word for word in words if _is_image_file(word)]
    if names:
        note(f"taken as {'an image' if len(names) == 1 else 'images'}: {', '.join(names)}", quiet=options.quiet)
    text = "" if names == [" ".join(words)] else " ".join(word for word in words if word not in names)
    images = (*map(Path, names), *options.image)
    if not text.strip() and not images:
        raise UsageError("the query is empty; say in words, or with --image FILE, what to look for")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise DataError("the query is neither text in UTF-8 nor the name of an image file")
    return Query(text, images)


def _is_image_file(word: str) -> bool:
    from opsin.images.opening import IMAGE_SUFFIXES

    return os.path.splitext(word)[1].lower() in IMAGE_SUFFIXES and os.path.isfile(word)


def _search(index: ImageIndex, query: Query, options: SearchOptions) -> SearchResults:
    return index.search(
        [query.text] if query.text.strip() else [],
        image=query.images,
        minus=options.minus,
        weights=options.weight or None,
        k=options.k,
    )


def _answer_lines(index: ImageIndex, options: SearchOptions) -> int:
    """Answer each line of standard input at once; returns 1 if one of them could not be answered."""
    code = 0
    for line in _lines_of_stdin():
        try:
            query = _read_query((line,), options)
            results = _search(index, query, options)
        except (ConfigError, DataError) as error:  # the next line may be answered all the same
            code = 1
            title = printable(Query(line, options.image).title(options))
            note(f"opsin: {title}: {error}")
            if options.json:
                print_json_line({"query": title, "error": str(error)})
            continue
        if options.json:
            print_json_line(_document(options, query, results))
        else:
            _print_results(results, title=query.title(options))
    _note_unlike(index, options)
    return code


def _note_unlike(index: ImageIndex, options: SearchOptions) -> None:
    note_unlike(index.loaded_encoder, index.info.encoder, "an index made with --model imagenet", options.quiet)


def _lines_of_stdin() -> Iterator[str]:
    """Lines that are not blank; bytes in them that are no UTF-8 come as lone surrogates, for they may name files."""
    if sys.stdin is None:
        raise UsageError("queries are to come from standard input, which is closed")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    for line in sys.stdin:
        if text := line.removeprefix("\ufeff").strip():
            yield text


def _print_results(results: SearchResults, title: str | None = None) -> None:
    if title is not None:
        print(printable(title))
    if results.remark is not None:
        print(results.remark)
    show(results, as_json=False)
    sys.stdout.flush()


def _document(options: SearchOptions, query: Query, results: SearchResults) -> dict[str, Any]:
    return {"index": str(options.index), "query": query.title(options), **results.document()}
