"""Encoder and projection head: shapes, lengths, size, and that all of it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opsin.nn.resnet import ResNet
from opsin.nn.vision_transformer import VisionTransformer
from opsin.profile import profile_model
from opsin.simclr.config import EncoderConfig, SimclrConfig
from opsin.simclr.loss import nt_xent_loss
from opsin.simclr.model import ProjectionHead, SimclrModel, build_encoder, build_model

VIT = EncoderConfig(name="vit", patch_size=4, embed_dim=16, num_layers=1, num_heads=2)


@pytest.mark.parametrize("encoder", [EncoderConfig(), VIT], ids=lambda encoder: encoder.name)
def test_features_and_projections_have_length_one(encoder: EncoderConfig) -> None:
    torch.manual_seed(0)
    model = build_model(SimclrConfig(image_size=16, encoder=encoder, projection_dim=24))
    features, projections = model(torch.randn(4, 3, 16, 16))
    width = build_encoder(encoder, 16).feature_dim
    assert features.shape == (4, width) and projections.shape == (4, 24)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(projections.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("encoder", [EncoderConfig(), VIT], ids=lambda encoder: encoder.name)
def test_every_parameter_learns(encoder: EncoderConfig) -> None:
    torch.manual_seed(0)
    model = build_model(SimclrConfig(image_size=16, encoder=encoder))
    left, right = (model(torch.randn(6, 3, 16, 16))[1] for _ in range(2))
    nt_xent_loss(left, right, 0.5).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    still = {name for name, parameter in model.named_parameters() if parameter.grad.abs().max() == 0}
    assert still == set()


def test_the_head_is_the_courses() -> None:
    head = ProjectionHead(2048)
    assert [type(part) for part in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert {name: tuple(value.shape) for name, value in head.named_parameters()} == {
        "0.weight": (512, 2048),
        "1.weight": (512,),
        "1.bias": (512,),
        "3.weight": (128, 512),
        "3.bias": (128,),
    }


def test_size_and_work_of_the_courses_network() -> None:
    """24.62 million parameters, as the notebook prints; tests/parity explains its 1.31G operations."""
    model = build_model(SimclrConfig(image_size=32, encoder=EncoderConfig(name="resnet50")))
    profile = profile_model(model, torch.zeros(1, 3, 32, 32))
    encoder, projection = profile.parts
    assert profile.parameters == 24_615_616 and encoder.parameters == 23_500_352
    assert profile.macs == encoder.macs + projection.macs == 1_297_809_408 + 2048 * 512 + 512 * 128


def test_one_batch_can_be_learnt_by_heart() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU())
    model = SimclrModel(encoder, ProjectionHead(32, 32, 16))
    views = torch.randn(2, 8, 3, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        left, right = (model(view)[1] for view in views)
        loss = nt_xent_loss(left, right, 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 2 and losses[-1] < 0.05


def test_the_stem_follows_the_size_of_the_run() -> None:
    encoders = [build_encoder(EncoderConfig(), size) for size in (32, 64)]
    assert all(isinstance(encoder, ResNet) for encoder in encoders)
    assert [encoder[0].kernel_size for encoder in encoders] == [(3, 3), (7, 7)]  # type: ignore[index]


@pytest.mark.parametrize(("size", "small"), [(32, True), (63, True), (64, False), (96, False)])
def test_the_stem_follows_the_size(size: int, small: bool) -> None:
    network = build_encoder(EncoderConfig(name="resnet18"), size)
    assert isinstance(network, ResNet)
    assert network[0].kernel_size == ((3, 3) if small else (7, 7))


def test_a_transformer_makes_one_vector() -> None:
    config = EncoderConfig(name="vit", patch_size=4, embed_dim=8, num_layers=1, num_heads=2)
    network = build_encoder(config, 16)
    assert isinstance(network, VisionTransformer)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, network.feature_dim) == (2, 8)
