"""Model cards show names from datasets as text, whatever Markdown or HTML is in them."""

from __future__ import annotations

import pytest
from markdown import markdown

from opsin.classification.config import ClassificationConfig, ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import escape_markdown, inline_code, model_card
from opsin.pretrained import RunRecord


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "[a](http://b)", "a*b*c", "# x", "`x`", "a|b", "a\nb", "&lt;", "![x](y)"]
)
def test_class_names_and_sources_are_text(name: str) -> None:
    config = ViTConfig(embed_dim=8, num_layers=1, num_heads=1)
    content = ClassifierContent(
        model=config,
        class_names=(name, "dog"),
        preprocessing=Preprocessing(image_size=8),
        run=RunRecord(config=ClassificationConfig(data=name)),
    )
    page = markdown(model_card(Classifier(build_model(config, 8, 2), content).card_text(), {}))
    assert not any(tag in page for tag in ("<img", "<a ", "<em>", "<script"))
    line = next(line for line in page.splitlines() if "Tells apart" in line)
    assert line.startswith("<p>Tells apart 2 classes: ") and line.endswith(", dog.</p>")


def test_code_spans_hold_backticks() -> None:
    assert inline_code("runs/photos") == "`runs/photos`"
    assert markdown(inline_code("a`b``c")) == "<p><code>a`b``c</code></p>"


def test_plain_names_stay_as_they_are() -> None:
    assert escape_markdown("Smileys and Emotion, café_2") == "Smileys and Emotion, café_2"
