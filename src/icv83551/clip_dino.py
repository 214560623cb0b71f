"""The CLIP half of the course's last notebook. Models are whatever has `encode_image` and `encode_text`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import icv83551.clip
from opsin.clip.retrieval import cosine_similarity
from opsin.images.opening import open_image

__all__ = ["CLIPImageRetriever", "clip_zero_shot_classifier", "get_similarity_no_loop"]

BATCH_SIZE = 64
CONTEXT_LENGTH = 77  # of models that do not say how many tokens they read

Picture = np.ndarray | Image.Image
Preprocess = Callable[[Image.Image], Tensor]


def get_similarity_no_loop(text_features: Tensor, image_features: Tensor) -> Tensor:
    """Cosines (N, M) of texts (N, D) with images (M, D)."""
    return cosine_similarity(text_features, image_features)


def clip_zero_shot_classifier(
    clip_model: Any,
    clip_preprocess: Preprocess,
    images: Sequence[Picture],
    class_texts: Sequence[str],
    device: str | torch.device,
) -> list[str]:
    """For each image (uint8 (H, W, 3) or PIL) the text whose features are nearest to its own by cosine."""
    image_features = _encode_images(clip_model, clip_preprocess, images, device)
    similarity = cosine_similarity(_encode_texts(clip_model, class_texts, device), image_features)
    return [class_texts[index] for index in similarity.argmax(dim=0).tolist()]


class CLIPImageRetriever:
    """Finds images by text. The images are encoded once, when it is made."""

    def __init__(
        self,
        clip_model: Any,
        clip_preprocess: Preprocess,
        images: Sequence[Picture],
        device: str | torch.device,
    ) -> None:
        self.clip_model = clip_model
        self.device = device
        self.image_features = _encode_images(clip_model, clip_preprocess, images, device)

    def retrieve(self, query: str, k: int = 2) -> list[int]:
        """Places of the `k` images nearest to the query by cosine, the best first; all of them when there are fewer."""
        (similarity,) = cosine_similarity(_encode_texts(self.clip_model, [query], self.device), self.image_features)
        return similarity.topk(min(k, len(similarity))).indices.tolist()


@torch.no_grad()
def _encode_images(model: Any, preprocess: Preprocess, images: Sequence[Picture], device: str | torch.device) -> Tensor:
    if missing := [place for place, image in enumerate(images) if image is None]:
        raise ValueError(f"image {missing[0]} is None; image_from_url gives that for an image it could not fetch")
    features = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = [preprocess(open_image(image)) for image in images[start : start + BATCH_SIZE]]
        features.append(model.encode_image(torch.stack(batch).to(device)))
    if not features:
        raise ValueError("there are no images")
    return torch.cat(features)


@torch.no_grad()
def _encode_texts(model: Any, texts: Sequence[str], device: str | torch.device) -> Tensor:
    length = getattr(model, "context_length", CONTEXT_LENGTH)
    return model.encode_text(_tokenize(list(texts), length).to(device))


def _tokenize(texts: list[str], context_length: int) -> Tensor:
    """By the package `clip` where it is installed; what else goes by that name has no such function."""
    try:
        tokenize = importlib.import_module("clip").tokenize
    except (ImportError, AttributeError):
        tokenize = icv83551.clip.tokenize
    return tokenize(texts, context_length=context_length, truncate=True)
