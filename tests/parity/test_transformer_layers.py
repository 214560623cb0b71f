"""The numeric checks of the first notebook, sections 4, 5, 7 and 11, in train mode with seed 231 and dropout on.

The notebook's last check, that one batch can be learnt by heart, is in tests/icv83551/test_classification.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from icv83551.classifiers.transformer import VisionTransformer
from icv83551.transformer_layers import (
    MultiHeadAttention,
    PatchEmbedding,
    PositionalEncoding,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)

from .conftest import rel_error


def seed_everything() -> None:
    torch.manual_seed(231)
    np.random.seed(231)


def error(expected: list, output: Tensor) -> float:
    assert np.shape(expected) == output.shape  # nothing may be broadcast
    return rel_error(np.asarray(expected), output.detach().numpy())


def test_multi_head_attention() -> None:
    seed_everything()
    attn = MultiHeadAttention(8, num_heads=2)
    data = torch.randn(1, 3, 8)
    self_attended = attn(query=data, key=data, value=data)
    mask = torch.randn(3, 3) < 0.5
    masked = attn(query=data, key=data, value=data, attn_mask=mask)
    other = torch.randn(1, 3, 8)
    attended = attn(query=data, key=other, value=other)

    expected_self = [
        [
            [-0.2494, 0.1396, 0.4323, -0.2411, -0.1547, 0.2329, -0.1936, -0.1444],
            [-0.1997, 0.1746, 0.7377, -0.3549, -0.2657, 0.2693, -0.2541, -0.2476],
            [-0.0625, 0.1503, 0.7572, -0.3974, -0.1681, 0.2168, -0.2478, -0.3038],
        ]
    ]
    expected_masked = [
        [
            [-0.1347, 0.1934, 0.8628, -0.4903, -0.2614, 0.2798, -0.2586, -0.3019],
            [-0.1013, 0.3111, 0.5783, -0.3248, -0.3842, 0.1482, -0.3628, -0.1496],
            [-0.2071, 0.1669, 0.7097, -0.3152, -0.3136, 0.2520, -0.2774, -0.2208],
        ]
    ]
    expected = [
        [
            [-0.1980, 0.4083, 0.1968, -0.3477, 0.0321, 0.4258, -0.8972, -0.2744],
            [-0.1603, 0.4155, 0.2295, -0.3485, -0.0341, 0.3929, -0.8248, -0.2767],
            [-0.0908, 0.4113, 0.3017, -0.3539, -0.1020, 0.3784, -0.7189, -0.2912],
        ]
    ]
    assert error(expected_self, self_attended) < 1e-3
    assert error(expected_masked, masked) < 1e-3
    assert error(expected, attended) < 1e-3


def test_positional_encoding() -> None:
    torch.manual_seed(231)
    data = torch.randn(1, 2, 6)
    output = PositionalEncoding(6)(data)
    expected = [
        [
            [-1.2340, 1.1127, 1.6978, -0.0865, -0.0000, 1.2728],
            [0.9028, -0.4781, 0.5535, 0.8133, 1.2644, 1.7034],
        ]
    ]
    assert error(expected, output) < 1e-3


def test_decoder_layer() -> None:
    seed_everything()
    layer = TransformerDecoderLayer(12, 2, 48)
    tgt = torch.randn(1, 4, 12)
    memory = torch.randn(1, 5, 12)
    tgt_mask = torch.randn(4, 4) < 0.5
    expected = [
        [1.1464597, -0.32541496, 0.39171425, -0.39425734, 0.62471056, -1.8665842]
        + [-0.12977494, -1.6609063, -0.5620399, 0.45006236, 1.6086785, 0.7173523],
        [-0.6703264, 0.34731007, -0.01452054, -0.0500976, 0.9617562, -0.91788256]
        + [0.5138556, -1.5247818, 2.0940537, -1.0386938, 1.0333964, -0.7340692],
        [-1.1966342, 0.78882384, 0.1765188, 0.04164891, 1.9480462, -0.94358695]
        + [0.83423877, -0.44660965, 1.1469632, -1.6658922, -0.27915588, -0.4043607],
        [-0.96863323, 0.10736976, -0.18560877, -0.86474127, -0.12873, 0.36593518]
        + [0.9634492, -0.9432319, 1.4652547, 1.2200648, 0.9218512, -1.9529796],
    ]
    # The notebook asks for 1e-6 and prints 2.2e-6 itself: the expected digits carry no more.
    assert error([expected], layer(tgt, memory, tgt_mask)) < 5e-6


def test_patch_embedding() -> None:
    seed_everything()
    patch_embedding = PatchEmbedding(img_size=16, patch_size=8, embed_dim=8)
    images = torch.randn(2, 3, 16, 16)
    # fmt: off
    expected = [
        [
            [-0.6312704, 0.02531429, 0.6112642, -0.49089882, 0.01412961, -0.6959372, -0.32862484, -0.45402682],
            [0.18816411, -0.08142513, -0.9829535, -0.23975623, -0.23109074, 0.97950286, -0.40997326, 0.7457837],
            [0.01810865, 0.15780598, -0.91804236, 0.36185235, 0.8379501, 1.0191797, -0.29667392, 0.20322265],
            [-0.18697818, -0.45137224, -0.40339014, -1.4381214, -0.43450755, 0.7651071, -0.83683825, -0.16360264],
        ],
        [
            [-0.39786366, 0.16201034, -0.19008337, -1.0602452, -0.28693503, 0.09791763, 0.26614824, 0.41781986],
            [0.35146567, -0.4469593, -0.1841726, 0.45757473, -0.61304873, -0.29104248, -0.16124889, -0.14987172],
            [-0.2996967, 0.27353522, -0.09929767, 0.01973832, -1.2312065, -0.6374332, -0.22963578, 0.55696607],
            [-0.93818814, 0.02465284, -0.21117875, 1.1860403, -0.06137538, -0.21062079, -0.094347, 0.50032747],
        ],
    ]
    # fmt: on
    assert error(expected, patch_embedding(images)) < 1e-4


def test_encoder_layer() -> None:
    seed_everything()
    layer = TransformerEncoderLayer(12, 2, 48)
    x = torch.randn(1, 4, 12)
    x_mask = torch.randn(4, 4) < 0.5
    expected = [
        [-0.43529928, -0.204897, 0.45693663, -1.1355408, 1.8000772, 0.24467856]
        + [0.8525885, -0.53586316, -1.5606489, -1.207276, 1.3986266, 0.3266182],
        [0.06928468, 1.1030475, -0.9902548, -0.34333378, -2.1073136, 1.1960536]
        + [0.16573538, -1.1772276, 1.2644588, -0.27311313, 0.29650143, 0.7961618],
        [0.28310525, 0.69066685, -1.2264299, 1.0175265, -2.0517688, -0.10330413]
        + [-0.5355796, -0.2696466, 0.13948536, 2.0408154, 0.27095756, -0.25582793],
        [-0.58568114, 0.8019579, -0.9128079, -1.6816932, 1.1572194, 0.39162305]
        + [0.58195484, 0.7043353, -1.27042, -1.1870497, 0.9784279, 1.0221335],
    ]
    assert error([expected], layer(x, x_mask)) < 1e-6


def test_vision_transformer() -> None:
    seed_everything()
    images = torch.randn(3, 3, 32, 32)
    scores = VisionTransformer()(images)
    expected = [
        [-0.13013132, 0.13652277, -0.04656096, -0.16443546, -0.08946665]
        + [-0.10123537, 0.11047452, 0.01317241, 0.17256221, 0.16230097],
        [-0.11988413, 0.20006064, -0.04028708, -0.06937674, -0.07828291]
        + [-0.13545093, 0.18698244, 0.01878054, 0.14309685, 0.03245382],
        [-0.11540816, 0.21416159, -0.07740889, -0.08336161, -0.1645808]
        + [-0.12318538, 0.18035144, 0.05492767, 0.15997584, 0.12134959],
    ]
    # The notebook asks for 1e-6 and prints 1.4e-6 itself.
    assert error(expected, scores) < 5e-6
