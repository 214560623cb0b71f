"""Encoders of images and texts: one string names a model, and an object with its protocols comes back."""

from opsin.encoders.base import DenseEncoder, DenseFeatures, ImageEncoder, ImageTextEncoder, TextEncoder
from opsin.encoders.loading import load

__all__ = ["DenseEncoder", "DenseFeatures", "ImageEncoder", "ImageTextEncoder", "TextEncoder", "load"]
