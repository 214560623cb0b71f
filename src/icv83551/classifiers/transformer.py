"""Transformer models under the course's path."""

from opsin.nn.vision_transformer import VisionTransformer

__all__ = ["VisionTransformer"]
