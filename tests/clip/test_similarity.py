"""Cosines against the slow definition, and where numbers are extreme."""

from __future__ import annotations

import math

import pytest
import torch

from opsin.clip.retrieval import cosine_similarity


def test_every_pair_by_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    images = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    result = cosine_similarity(texts, images)
    assert result.shape == (4, 3)
    for i, text in enumerate(texts.tolist()):
        for j, image in enumerate(images.tolist()):
            dot = sum(a * b for a, b in zip(text, image, strict=True))
            expected = dot / math.sqrt(sum(a * a for a in text)) / math.sqrt(sum(b * b for b in image))
            assert float(result[i, j]) == pytest.approx(expected, abs=1e-12)


def test_zero_vectors_are_like_nothing() -> None:
    result = cosine_similarity(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    torch.testing.assert_close(result, torch.tensor([[0.0, 0.0], [0.0, 0.6]]))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_length_does_not_matter(size: float) -> None:
    texts = torch.tensor([[1.0, 2.0], [2.0, -1.0]])
    torch.testing.assert_close(cosine_similarity(texts * size, texts), torch.eye(2))


def test_half_precision_and_no_rows() -> None:
    halves = cosine_similarity(torch.full((1, 600), 40.0).half(), torch.ones(1, 600).half())
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, torch.ones(1, 1))
    assert cosine_similarity(torch.zeros(0, 3), torch.ones(2, 3)).shape == (0, 2)


@pytest.mark.parametrize(("text", "image"), [((2, 3), (2, 4)), ((3,), (2, 3)), ((1, 2, 3), (2, 3))])
def test_shapes_that_do_not_fit(text: tuple[int, ...], image: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="same D"):
        cosine_similarity(torch.ones(text), torch.ones(image))
