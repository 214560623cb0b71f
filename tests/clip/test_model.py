"""The dual encoder: shapes, padding, the clamp of its logit scale, and a gradient for every parameter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.clip.model import DualEncoder, TextTransformer, build_dual_encoder

IMAGE = {"patch_size": 4, "embed_dim": 16, "num_layers": 2, "num_heads": 2, "dim_feedforward": 32, "stem": "conv"}
TEXT = {"vocab_size": 20, "max_length": 8, "embed_dim": 12, "num_layers": 2, "num_heads": 2, "dim_feedforward": 24}


def make_model(**image: object) -> DualEncoder:
    torch.manual_seed(0)
    return build_dual_encoder(8, 10, {**IMAGE, **image}, TEXT)


@pytest.fixture
def tokens() -> Tensor:
    return torch.tensor([[1, 5, 6, 7], [1, 9, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("stem", ["conv", "linear"])
def test_every_parameter_gets_a_gradient(stem: str, tokens: Tensor) -> None:
    model = make_model(stem=stem)
    images, texts, scale = model(torch.randn(3, 3, 8, 8), tokens)
    assert images.shape == texts.shape == (3, 10) and scale.shape == ()
    logits = scale * F.normalize(images) @ F.normalize(texts).T
    F.cross_entropy(logits, torch.arange(3)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_padding_and_the_rest_of_the_batch_change_nothing(tokens: Tensor) -> None:
    model = make_model().eval()
    together = model.encode_text(tokens)
    for row, length in enumerate((4, 2, 1)):
        torch.testing.assert_close(model.encode_text(tokens[row : row + 1, :length])[0], together[row])
    longer = F.pad(tokens, (0, 4))
    torch.testing.assert_close(model.encode_text(longer), together)


def test_the_order_of_words_counts_and_words_see_those_after_them() -> None:
    tower = TextTransformer(**TEXT).eval()  # type: ignore[arg-type]
    assert not torch.allclose(tower(torch.tensor([[1, 5, 6]])), tower(torch.tensor([[1, 6, 5]])))
    first = [tower.transformer(tower.embedding(torch.tensor([[1, 5, last]])))[0, 0] for last in (6, 7)]
    assert not torch.allclose(*first)


def test_the_mean_is_over_the_tokens_of_the_text() -> None:
    tower = TextTransformer(**TEXT).eval()  # type: ignore[arg-type]
    tokens = torch.tensor([[1, 5, 6]])
    embedded = tower.embedding(tokens) + tower.positions[:, :3]
    expected = tower.norm(tower.transformer(embedded)).mean(dim=1)
    torch.testing.assert_close(tower(tokens), expected)


def test_towers_without_layers_work(tokens: Tensor) -> None:
    model = build_dual_encoder(8, 10, {**IMAGE, "num_layers": 0}, {**TEXT, "num_layers": 0})
    images, texts, _ = model(torch.randn(3, 3, 8, 8), tokens)
    assert images.shape == texts.shape == (3, 10)


def test_logit_scale_starts_at_that_of_the_paper_and_never_exceeds_100() -> None:
    model = make_model()
    assert float(model.scale().detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.logit_scale.fill_(10.0)
    assert float(model.scale().detach()) == pytest.approx(100.0)
    model.clip_logit_scale()
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))
    model.scale().backward()
    assert float(model.logit_scale.grad) == pytest.approx(100.0, rel=1e-5)  # at the limit it can still come down


def test_longer_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens, and this model reads 8"):
        make_model().encode_text(torch.ones(1, 9, dtype=torch.int64))
