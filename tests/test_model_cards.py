"""Model cards show names from datasets as text, whatever Markdown or HTML is in them."""

from __future__ import annotations

import pytest
from markdown import markdown

from opsin.classification.model_card import model_card
from opsin.model_cards import escape_markdown, inline_code


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "[a](http://b)", "a*b*c", "# x", "`x`", "a|b", "a\nb", "&lt;", "![x](y)"]
)
def test_class_names_and_sources_are_text(name: str) -> None:
    page = markdown(model_card([name, "dog"], {}, {"data": name}))
    assert not any(tag in page for tag in ("<img", "<a ", "<em>", "<script"))
    line = next(line for line in page.splitlines() if "Tells apart" in line)
    assert line.startswith("<p>Tells apart 2 classes: ") and line.endswith(", dog.</p>")


def test_code_spans_hold_backticks() -> None:
    assert inline_code("runs/photos") == "`runs/photos`"
    assert markdown(inline_code("a`b``c")) == "<p><code>a`b``c</code></p>"


def test_plain_names_stay_as_they_are() -> None:
    assert escape_markdown("Smileys and Emotion, café_2") == "Smileys and Emotion, café_2"
