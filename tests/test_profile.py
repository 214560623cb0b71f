"""Parameters and operations against published figures and against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from opsin.nn.vision_transformer import VisionTransformer
from opsin.profile import profile_model


def test_resnet50_has_the_published_size() -> None:
    profile = profile_model(resnet50(weights=None), torch.zeros(1, 3, 224, 224))
    assert profile.parameters == profile.trainable_parameters == 25_557_032
    assert profile.macs == pytest.approx(4.09e9, rel=0.001)
    assert sum(part.macs for part in profile.parts) == profile.macs
    assert sum(part.parameters for part in profile.parts) == profile.parameters


def test_vision_transformer_by_hand() -> None:
    tokens, width, hidden, layers = 16, 128, 256, 6
    projections = 4 * tokens * width * width
    attention = 2 * tokens * tokens * width
    feed_forward = 2 * tokens * width * hidden
    embedding = tokens * (8 * 8 * 3) * width
    model = VisionTransformer(embed_dim=width, dim_feedforward=hidden, num_layers=layers, num_classes=10)
    profile = profile_model(model, torch.zeros(1, 3, 32, 32))
    assert profile.macs == layers * (projections + attention + feed_forward) + embedding + width * 10
    assert profile.flops == 2 * profile.macs


def test_work_of_torchs_fused_encoder_is_seen() -> None:
    layer = nn.TransformerEncoderLayer(d_model=64, nhead=4, dim_feedforward=128, batch_first=True)
    profile = profile_model(layer, torch.zeros(1, 10, 64))
    assert profile.macs == 4 * 10 * 64 * 64 + 2 * 10 * 10 * 64 + 2 * 10 * 64 * 128


def test_macs_grow_with_the_batch_and_parameters_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    one, four = (profile_model(model, torch.zeros(batch, 3, 8, 8)) for batch in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.parameters == one.parameters


def test_shared_and_frozen_parameters() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    profile = profile_model(nn.Sequential(first, second), torch.zeros(1, 4))
    assert profile.parameters == 16 + 4 + 4
    assert profile.trainable_parameters == 16 + 4


def test_model_and_settings_of_torch_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    model[0].eval()
    profile_model(model, torch.zeros(1, 4))
    with pytest.raises(RuntimeError):
        profile_model(model, torch.zeros(1, 5))
    assert [module.training for module in model.modules()] == [True, False, True]
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_element_wise_work_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    profile = profile_model(model, torch.zeros(5, 3, 8, 8))
    values = 5 * 8 * 6 * 6
    assert [part.element_wise for part in profile.parts] == [0, 4 * values, 0, values + 5 * 8 * 2 * 2]
    assert profile.element_wise == sum(part.element_wise for part in profile.parts)
    assert profile.macs == values * 3 * 9
    assert not any(module._forward_hooks for module in model.modules())
