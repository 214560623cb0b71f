"""What a verb has computed, in the forms in which it is shown: a JSON document, tables, and a figure.

The command line, and whatever else shows results, chooses the form and knows nothing of what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsin.images.opening import ImageReader, Skipped, StoredImage
    from opsin.training.baselines import BaselineComparison


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers, and None where there is nothing, under a title; `remark` stands below them."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    title: str | None = None
    remark: str | None = None


class Shown(Protocol):
    """What verbs compute."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out."""
        ...

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        ...

    def tables(self) -> list[Table]:
        """What people want to read of it."""
        ...


class Result(Shown, Protocol):
    """What evaluations give."""

    @property
    def baselines(self) -> Sequence[BaselineComparison]:
        """Scores beside what is reached without having learned anything."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences that people have to know, besides those on `baselines`."""
        ...

    def figure(self) -> Figure | None:
        """What there is to look at; None where there is nothing."""
        ...


class Answer(Protocol):
    """What a model says of one image."""

    columns: ClassVar[tuple[str, ...]]
    """Of a table for spreadsheets and scripts."""

    @property
    def text(self) -> str:
        """What people want to read of it, in a line."""
        ...

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        ...

    def rows(self) -> list[tuple[str, ...]]:
        """All of it, in `columns`."""
        ...


AnswerT = TypeVar("AnswerT", bound=Answer)


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first; probabilities are of all classes, so may sum to below 1."""

    columns: ClassVar[tuple[str, ...]] = ("label", "probability")
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def text(self) -> str:
        """The classes with their probabilities."""
        best = zip(self.labels, self.probabilities, strict=True)
        return "  ".join(f"{label} {probability:.1%}" for label, probability in best)

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each class."""
        best = zip(self.labels, self.probabilities, strict=True)
        return [(label, f"{probability:.6f}") for label, probability in best]


@dataclass(frozen=True, kw_only=True)
class Answers(Generic[AnswerT]):
    """What a model says of images: an answer for each of the files that could be read."""

    model: str
    column: str
    """What to call the answers in a table."""
    files: tuple[Path | StoredImage, ...]
    answers: tuple[AnswerT, ...]
    skipped: tuple[Skipped, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """How they came about, as JSON types."""

    @classmethod
    def gather(
        cls,
        reader: ImageReader,
        answers: Iterable[AnswerT],
        each: Callable[[Path | StoredImage, AnswerT], None] | None = None,
        **fields: Any,
    ) -> Self:
        """All answers about the images that a reader gives, in their order.

        `each` is called with a file and its answer as soon as that is known. Raises DataError when there was no image
        that could be read, and what `answers` raises.
        """
        found: list[AnswerT] = []
        for answer in answers:
            if each is not None:
                each(reader.read[len(found)], answer)
            found.append(answer)
        reader.refuse_unread()
        return cls(files=tuple(reader.read), answers=tuple(found), skipped=tuple(reader.skipped), **fields)

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        images = [image_document(file, answer) for file, answer in zip(self.files, self.answers, strict=True)]
        return {"model": self.model, **self.details, "images": images, "skipped": skipped_document(self.skipped)}

    def tables(self) -> list[Table]:
        """A line for each image."""
        rows = [(str(file), answer.text) for file, answer in zip(self.files, self.answers, strict=True)]
        return [Table(("image", self.column), rows)]

    def spreadsheet(self) -> Table:
        """All of it for spreadsheets and scripts: one or several rows for each image."""
        found = zip(self.files, self.answers, strict=True)
        rows = [(str(file), *row) for file, answer in found for row in answer.rows()]
        return Table(("file", *(self.answers[0].columns if self.answers else ())), rows)


def image_document(file: Path | StoredImage, answer: Answer) -> dict[str, Any]:
    """An image and what a model says of it, as JSON types."""
    return {"image": str(file), **answer.document()}


def skipped_document(skipped: Iterable[Skipped]) -> list[dict[str, str]]:
    """Images that were left out, and why, as JSON types."""
    return [{"id": row.id, "reason": row.reason} for row in skipped]


def baseline_rows(baselines: Iterable[BaselineComparison]) -> list[tuple[str, float]]:
    """Rows for a table of metrics."""
    return [(f"{comparison.metric} of {comparison.baseline}", comparison.value) for comparison in baselines]
