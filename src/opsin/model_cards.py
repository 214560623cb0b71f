"""The one template of model cards, the README.md in each model directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opsin.names import printable

SPECIAL = re.compile(r"([\\`*{}\[\]<>#|!~&])")
"""Characters that Markdown or HTML may act on."""


@dataclass(frozen=True, kw_only=True)
class CardText:
    """What a kind of model says in its cards."""

    title: str
    """What kind of model it is."""
    tags: tuple[str, ...]
    """The Hub's names of its tasks."""
    description: str
    """Markdown: what it does, what it was trained on, what it needs."""
    notes: str
    """Markdown: how its scores were measured, and what the model cannot do."""
    command: str
    """How to use the model, with THIS_DIRECTORY in place of the directory."""


def model_card(text: CardText, metrics: Mapping[str, float]) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads; `metrics` is what was measured, by name."""
    scores = [f"| {escape_markdown(name)} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join(
        [
            "---",
            "library_name: opsin",
            f"tags: [{', '.join(text.tags)}]",
            "---",
            f"\n# {text.title}\n",
            f"{text.description.strip()}\n",
            "| measured | value |",
            "| --- | --- |",
            *(scores or ["| none measured | |"]),
            f"\n{text.notes.strip()}\n",
            f"    {text.command}\n",
        ]
    )


def escape_markdown(text: str) -> str:
    """A name from a dataset, such as that of a class, as text on one line that Markdown and HTML leave alone."""
    return SPECIAL.sub(r"\\\1", printable(text))


def inline_code(text: str) -> str:
    """A path or reference as a code span, whatever it holds (CommonMark 0.31, section 6.1)."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"
