"""Networks that make one vector of an image, by name: the encoders of self-supervised learning."""

from __future__ import annotations

from opsin.nn.resnet import ResNet
from opsin.nn.stems import LARGEST_SMALL_IMAGE
from opsin.nn.vision_transformer import VisionTransformer


def build_image_encoder(
    image_size: int, *, name: str, patch_size: int, embed_dim: int, num_layers: int, num_heads: int
) -> ResNet | VisionTransformer:
    """A freshly initialised network from images (N, 3, image_size, image_size) to features (N, `feature_dim`).

    `name` is resnet18, resnet34, resnet50 or vit, a Vision Transformer with pre-normalisation, learned positions and
    the mean over its patches, of the shape that the other options say.
    """
    if name != "vit":
        return ResNet(name, small_images=image_size <= LARGEST_SMALL_IMAGE)
    return VisionTransformer(
        image_size,
        patch_size,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        dim_feedforward=4 * embed_dim,
        num_classes=0,
        dropout=0.0,
        norm="pre",
        positions="learned",
    )
