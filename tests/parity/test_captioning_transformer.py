"""The numeric check of the first notebook's section 8, in train mode with seed 231 and dropout on."""

from __future__ import annotations

import numpy as np
import torch

from icv83551.classifiers.transformer import CaptioningTransformer

from .conftest import rel_error

EXPECTED = [
    [
        [0.48119992, -0.24859881, -0.7489549],
        [0.20380056, 0.08959456, -0.89954275],
        [0.21135767, -0.17083111, -0.62508506],
    ],
    [
        [0.49413955, -0.50489324, -0.79341394],
        [0.87452495, -0.4392967, -1.1513498],
        [0.2547267, -0.26321974, -0.93643296],
    ],
    [
        [0.70437765, -0.5729916, -0.7946507],
        [0.18345363, -0.31752932, -1.7304884],
        [0.61473167, -0.82634443, -1.2179294],
    ],
    [
        [0.5163983, -0.7899667, -1.0383208],
        [0.28063023, -0.3603301, -1.5435203],
        [0.7222998, -0.71457165, -0.76669186],
    ],
]


def test_captioning_transformer() -> None:
    torch.manual_seed(231)
    np.random.seed(231)
    word_to_idx = {"<NULL>": 0, "cat": 2, "dog": 3}
    transformer = CaptioningTransformer(
        word_to_idx, input_dim=20, wordvec_dim=30, num_heads=2, num_layers=2, max_length=30
    )
    features = torch.randn(4, 20)
    captions = torch.randint(0, 3, (4, 3))
    scores = transformer(features, captions)
    # The notebook asks for the order of 1e-5 and prints 5.9e-7 itself.
    assert rel_error(np.asarray(EXPECTED), scores.detach().numpy()) < 5e-6
