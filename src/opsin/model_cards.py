"""The one template of model cards, the README.md in each model directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from opsin.names import printable

SPECIAL = re.compile(r"([\\`*{}\[\]<>#|!~&])")
"""Characters that Markdown or HTML may act on."""


def model_card(
    *, title: str, tags: Sequence[str], description: str, metrics: Mapping[str, float], notes: str, command: str
) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads.

    Args:
        title: What kind of model it is.
        tags: The Hub's names of its tasks.
        description: Markdown: what it does, what it was trained on, what it needs.
        metrics: What was measured, by name.
        notes: Markdown: how it was measured, and what the model cannot do.
        command: How to use the model, with THIS_DIRECTORY in place of the directory.
    """
    scores = [f"| {escape_markdown(name)} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join(
        [
            "---",
            "library_name: opsin",
            f"tags: [{', '.join(tags)}]",
            "---",
            f"\n# {title}\n",
            f"{description.strip()}\n",
            "| measured | value |",
            "| --- | --- |",
            *(scores or ["| none measured | |"]),
            f"\n{notes.strip()}\n",
            f"    {command}\n",
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
