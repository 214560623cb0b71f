"""The whole network: an image encoder whose patch tokens are the memory of a caption decoder."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from opsin.captioning.config import DecoderConfig, EncoderConfig
from opsin.captioning.model import CaptioningTransformer
from opsin.captioning.vocabulary import Vocabulary
from opsin.nn.vision_transformer import VisionTransformer


class PatchEncoder(VisionTransformer):
    """A Vision Transformer that is called for its patch tokens, (N, P, D)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)


class ImageCaptioner(nn.Module):
    """Encoder and decoder, trained together; without an encoder, features take the place of images."""

    def __init__(self, encoder: PatchEncoder | None, decoder: CaptioningTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, inputs: Tensor) -> Tensor:
        """Images (N, 3, S, S) to the decoder's features (N, P, I); features (N, I) or (N, P, I) stay what they are."""
        return inputs if self.encoder is None else self.encoder(inputs)

    def forward(self, inputs: Tensor, captions: Tensor) -> Tensor:
        """Scores (N, T, V) of the word after each word of `captions` (N, T); `inputs` as `encode` takes them."""
        return self.decoder(self.encode(inputs), captions)


def build_model(
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    image_size: int,
    vocabulary: Vocabulary,
    feature_dim: int | None = None,
) -> ImageCaptioner:
    """A freshly initialised network; with `feature_dim` it has no encoder and takes features of that width."""
    network = None
    if feature_dim is None:
        shape = dataclasses.asdict(encoder)
        network = PatchEncoder(img_size=image_size, num_classes=0, norm="pre", positions="learned", **shape)
    settings = dataclasses.asdict(decoder)
    width = settings.pop("embed_dim")
    return ImageCaptioner(
        network, CaptioningTransformer(vocabulary.word_to_idx, feature_dim or encoder.embed_dim, width, **settings)
    )
