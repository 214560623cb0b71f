"""The numeric check of the last notebook's CLIP half, with seed 231."""

from __future__ import annotations

import numpy as np
import torch

from icv83551.clip_dino import get_similarity_no_loop

from .conftest import rel_error

EXPECTED = [
    [0.1867811, -0.23494351, 0.44155994, -0.18950461, 0.00100103],
    [0.17905031, -0.25469488, -0.64330417, 0.25097957, -0.09327742],
    [-0.4407011, -0.4365381, 0.32857686, -0.3765278, 0.01049389],
    [0.24815483, 0.42157224, -0.08459304, 0.14132318, -0.26935193],
    [0.02309848, -0.01441101, 0.5469337, 0.6018773, 0.21581158],
    [0.41579214, -0.014449, -0.7242257, 0.39348006, 0.0822239],
]


def test_get_similarity_no_loop() -> None:
    torch.manual_seed(231)
    np.random.seed(231)
    texts = torch.randn(6, 10)
    images = torch.randn(5, 10)
    result = get_similarity_no_loop(texts, images)
    assert result.shape == (6, 5)
    assert rel_error(result.numpy(), np.array(EXPECTED, dtype=np.float32)) < 1e-5
