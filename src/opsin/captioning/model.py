"""Transformer decoder that writes captions ("Attention Is All You Need", Vaswani et al. 2017, applied to images).

The image is the decoder's memory: one pooled vector, or one vector a patch. Deviations from the paper: exact GELU in
the feed-forward network, no dropout on the memory, and, as an option, pre-normalisation. Embedding and output weights
are separate unless tied ("Using the Output Embedding to Improve Language Models", Press and Wolf 2017).
`ImageCaptioner` joins it with the image encoder that is trained along.

Dimensions: N images, R captions written at once (N, or several an image), T caption length, P image vectors, I their
width, D width of the decoder, L layers, H heads, V words in the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.captioning.config import DecoderConfig, EncoderConfig
from opsin.captioning.vocabulary import Vocabulary
from opsin.nn.embeddings import PositionalEncoding
from opsin.nn.transformer import (
    DecoderCache,
    TransformerDecoder,
    TransformerDecoderLayer,
    initialize_transformer_weights,
)
from opsin.nn.vision_transformer import VisionTransformer
from opsin.runtime import evaluating


class CaptioningTransformer(nn.Module):
    """Scores of the next word at every position of a caption, given image features."""

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int,
        wordvec_dim: int,
        num_heads: int = 4,
        num_layers: int = 2,
        max_length: int = 50,
        *,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        tie_weights: bool = False,
    ) -> None:
        """`word_to_idx` must have `<NULL>`; `<START>` and `<END>` are needed only to write captions.

        `max_length` is the longest caption that can be read, in tokens with `<START>`. With `tie_weights` the scores
        come from the embedding's own weights and a bias, and embedded words are multiplied by the root of their width,
        as in the paper's section 3.4.
        """
        super().__init__()
        if "<NULL>" not in word_to_idx:
            raise ValueError("word_to_idx has no <NULL>, the word that pads captions")
        self.vocab_size = len(word_to_idx)
        self.max_length = max_length
        self.null_index = word_to_idx["<NULL>"]
        self.start_index = word_to_idx.get("<START>")
        self.end_index = word_to_idx.get("<END>")
        self.unknown_index = word_to_idx.get("<UNK>")

        # The order of creation decides which random numbers a layer starts with: published values depend on it.
        self.visual_projection = nn.Linear(input_dim, wordvec_dim)
        self.embedding = nn.Embedding(self.vocab_size, wordvec_dim, padding_idx=self.null_index)
        self.positional_encoding = PositionalEncoding(wordvec_dim, dropout, max_len=max_length)
        layer = TransformerDecoderLayer(wordvec_dim, num_heads, dim_feedforward, dropout, pre_norm=pre_norm)
        self.transformer = TransformerDecoder(layer, num_layers)
        self.norm = nn.LayerNorm(wordvec_dim) if pre_norm else nn.Identity()
        self.apply(initialize_transformer_weights)
        self.output_bias = nn.Parameter(torch.zeros(self.vocab_size)) if tie_weights else None
        self.output = None if tie_weights else nn.Linear(wordvec_dim, self.vocab_size)

    def forward(self, features: Tensor, captions: Tensor) -> Tensor:
        """Scores (N, T, V) of the word after each word of `captions`, int64 (N, T), for features (N, I) or (N, P, I).

        The scores at a position depend on the words up to it only.
        """
        embedded = self._embed(captions)
        return self._scores(self.transformer(embedded, self._memory(features), _causal_mask(captions)))

    def word_scores(self, features: Tensor) -> Tensor:
        """Scores (N, V) of the words that the image's vectors speak of, wherever they stand in a caption.

        The mean of the vectors goes through the output layer as if it were a decoded word, so nothing is added to the
        network. Trained along, this tells an encoder from the first step on which words it has to tell apart; word
        detectors of this kind are in "From Captions to Visual Concepts and Back" (Fang et al. 2015, section 3).
        """
        return self._scores(self._memory(features).mean(dim=1))

    def start(self, features: Tensor) -> DecoderCache:
        """The cache with which `step` writes captions for features (N, I) or (N, P, I)."""
        return self.transformer.start(self._memory(features))

    def step(self, words: Tensor, cache: DecoderCache) -> Tensor:
        """Scores (R, V) of the word after `words`, int64 (R,), which are the next ones of the captions in the cache.

        In evaluation mode they equal the last scores of `forward` over the whole captions. R is a multiple of N: as
        many captions of the first image, then of the second, and so on.
        """
        embedded = self._embed(words[:, None], start=cache.length)
        return self._scores(self.transformer.step(embedded, cache))[:, 0]

    @torch.no_grad()
    def attention_weights(self, features: Tensor, captions: Tensor) -> Tensor:
        """The weights (N, L, H, T, P) with which each word looks at the image vectors; they sum to one over P."""
        embedded = self._embed(captions)
        return self.transformer.memory_weights(embedded, self._memory(features), _causal_mask(captions))

    @torch.no_grad()
    def sample(self, features: Tensor | np.ndarray, max_length: int = 30) -> np.ndarray:
        """The most probable word at each of `max_length` steps, int64 (N, max_length), without `<START>`.

        It goes on after `<END>`, as the course's does; `opsin.captioning.decoding` has decoders that stop there.
        Raises ValueError for a vocabulary without `<START>`.
        """
        if self.start_index is None:
            raise ValueError("this vocabulary has no <START>, so no caption can be begun")
        tensor = feature_tensor(features).to(self.embedding.weight.device)
        if 0 in (len(tensor), max_length):
            return np.zeros((len(tensor), max_length), dtype=np.int64)
        words = torch.full((len(tensor),), self.start_index, device=tensor.device)
        written = []
        with evaluating(self):
            cache = self.start(tensor)
            for _ in range(max_length):
                words = self.step(words, cache).argmax(dim=1)
                written.append(words)
        return torch.stack(written, dim=1).cpu().numpy()

    def _embed(self, words: Tensor, start: int = 0) -> Tensor:
        embedded = self.embedding(words)
        if self.output is None:
            embedded = embedded * math.sqrt(embedded.shape[-1])
        return self.positional_encoding(embedded, start)

    def _memory(self, features: Tensor) -> Tensor:
        """(N, P, D); a pooled vector is a memory of length one."""
        width = self.visual_projection.in_features
        if features.ndim not in (2, 3) or features.shape[-1] != width:
            raise ValueError(f"expected features of shape (N, {width}) or (N, P, {width}), got {tuple(features.shape)}")
        projected = self.visual_projection(features)
        return projected if features.ndim == 3 else projected[:, None]

    def _scores(self, decoded: Tensor) -> Tensor:
        decoded = self.norm(decoded)
        if self.output is None:
            return F.linear(decoded, self.embedding.weight, self.output_bias)
        return self.output(decoded)


def feature_tensor(features: Tensor | np.ndarray) -> Tensor:
    """Features as float32. An array is copied: tensors cannot be made of the memory of one that is read-only."""
    return features.float() if isinstance(features, Tensor) else torch.from_numpy(np.array(features, dtype=np.float32))


def _causal_mask(captions: Tensor) -> Tensor:
    """bool (T, T): each position may look at itself and at those before it."""
    length = captions.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=captions.device).tril()


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
