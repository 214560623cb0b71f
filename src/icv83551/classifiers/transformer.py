"""Transformer models under the course's path."""

from opsin.captioning.model import CaptioningTransformer
from opsin.nn.vision_transformer import VisionTransformer

__all__ = ["CaptioningTransformer", "VisionTransformer"]
