"""Using a trained captioner: captions for images, where it looked for each word, and its directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsin import checkpoint
from opsin.captioning.config import DecoderConfig, EncoderConfig
from opsin.captioning.decoding import Limits, beam_search, greedy
from opsin.captioning.image_captioner import ImageCaptioner, build_model
from opsin.captioning.model_card import model_card
from opsin.captioning.vocabulary import START, Vocabulary, join_words
from opsin.config import from_dict, to_dict
from opsin.data.images import ImageLike
from opsin.data.pixels import fit_image
from opsin.data.preprocessing import Preprocessing
from opsin.errors import ConfigError, DataError
from opsin.runtime import autocast, resolve_device

KIND = "captioner"
USUAL_LENGTH = 30


@dataclass(frozen=True)
class Caption:
    """What the model wrote about one image.

    `log_prob` is the total log-probability of the tokens in nats. `attention` is float32 (words, rows, columns): for
    each word, the share of every patch in what the decoder looked at, a map summing to one; None unless asked for.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    attention: np.ndarray | None = None


class Captioner:
    """A network with its vocabulary, preprocessing and metrics: all that its directory holds."""

    def __init__(
        self,
        model: ImageCaptioner,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        *,
        feature_dim: int | None = None,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        """`training` is the resolved config of the run that made the model, as JSON types."""
        self.model = model.eval()
        self.encoder = encoder
        self.decoder = decoder
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.feature_dim = feature_dim
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto") -> Captioner:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`. Raises CheckpointError, OfflineError."""
        content, tensors = checkpoint.load_pretrained(ref, kind=KIND)
        settings = from_dict(_Content, content, where=f"{ref}, config.json")
        vocabulary = Vocabulary(settings.words)
        model = build_model(
            settings.encoder, settings.decoder, settings.preprocessing.image_size, vocabulary, settings.feature_dim
        )
        checkpoint.load_state_dict(model, tensors, str(ref))
        return cls(
            model.to(resolve_device(device)),
            settings.encoder,
            settings.decoder,
            vocabulary,
            settings.preprocessing,
            feature_dim=settings.feature_dim,
            metrics=settings.metrics,
            training=settings.training,
        )

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md, replacing the directory in one step."""
        content = _Content(
            encoder=self.encoder,
            decoder=self.decoder,
            words=self.vocabulary.words,
            preprocessing=self.preprocessing,
            feature_dim=self.feature_dim,
            metrics=self.metrics,
            training=self.training,
        )
        card = model_card(len(self.vocabulary), self.metrics, self.training)
        return checkpoint.save_pretrained(
            directory, kind=KIND, config=to_dict(content), tensors=self.model.state_dict(), card=card
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the repository's address."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.push_to_hub(self.save_pretrained(Path(folder) / "model"), repo_id, private=private)

    def caption(
        self,
        images: Iterable[ImageLike],
        *,
        beams: int = 3,
        length_penalty: float = 1.0,
        limits: Limits | None = None,
        attention: bool = False,
        batch_size: int = 32,
    ) -> list[Caption]:
        """A caption for each image (paths, PIL images or arrays); with one beam, greedily.

        Raises DataError for a broken image, and ConfigError for a model that takes features instead of images.
        """
        if self.feature_dim is not None:
            raise ConfigError("this captioner was trained on features, not images; use caption_features")
        captions: list[Caption] = []
        for pixels in self._pixel_batches(images, batch_size):
            features = self.encode(pixels)
            captions += self.write(
                features, beams=beams, length_penalty=length_penalty, limits=limits, attention=attention
            )
        return captions

    def caption_features(self, features: np.ndarray | Tensor, *, beams: int = 3) -> list[Caption]:
        """A caption for each row of features (N, D) or (N, P, D), for a model that was trained on such features."""
        if self.feature_dim is None:
            raise ConfigError("this captioner was trained on images, not features; use caption")
        tensor = torch.as_tensor(features, dtype=torch.float32)
        if tensor.ndim not in (2, 3) or tensor.shape[-1] != self.feature_dim:
            raise DataError(
                f"this captioner takes features of width {self.feature_dim}, not of shape {tuple(tensor.shape)}"
            )
        return self.write(self.encode(tensor), beams=beams)

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """What the decoder attends to, on the model's device, for uint8 pixels (N, 3, S, S) or float features."""
        moved = inputs.to(self.device)
        with autocast(self.device):
            return self.model.encode(self.preprocessing.prepare(moved) if self.feature_dim is None else moved)

    def write(
        self,
        features: Tensor,
        *,
        beams: int = 1,
        length_penalty: float = 1.0,
        limits: Limits | None = None,
        attention: bool = False,
    ) -> list[Caption]:
        """Captions for what `encode` gave."""
        decoder = self.model.decoder
        limits = limits or Limits(max_length=min(USUAL_LENGTH, decoder.max_length))
        with autocast(self.device):
            if beams == 1:
                decoded = greedy(decoder, features, limits)
            else:
                decoded = beam_search(decoder, features, limits, beams=beams, length_penalty=length_penalty)
            maps = self._attention(features, decoded.tokens) if attention else None
        captions = []
        for row, tokens in enumerate(decoded.tokens.tolist()):
            words = self.vocabulary.decode_words(tokens)
            seen = None if maps is None else maps[row, : len(words)]
            captions.append(Caption(join_words(words), tuple(words), float(decoded.log_probs[row]), seen))
        return captions

    def _attention(self, features: Tensor, tokens: Tensor) -> np.ndarray:
        """float32 (N, T, rows, columns): where the decoder looked for each word, averaged over layers and heads."""
        first = torch.full_like(tokens[:, :1], self.vocabulary.word_to_idx[START])
        weights = self.model.decoder.attention_weights(features, torch.cat([first, tokens[:, :-1]], dim=1))
        maps_NTP = weights.float().mean(dim=(1, 2))
        encoder = self.model.encoder
        grid = (1, maps_NTP.shape[2]) if encoder is None else (encoder.grid_size, encoder.grid_size)
        return maps_NTP.unflatten(2, grid).cpu().numpy()

    def _pixel_batches(self, images: Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        batch: list[np.ndarray] = []
        for image in images:
            batch.append(fit_image(image, self.preprocessing.image_size))
            if len(batch) == batch_size:
                yield torch.from_numpy(np.stack(batch))
                batch = []
        if batch:
            yield torch.from_numpy(np.stack(batch))


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What config.json of a captioner holds besides its kind and format version."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    words: tuple[str, ...]
    preprocessing: Preprocessing
    feature_dim: int | None
    metrics: dict[str, float]
    training: dict[str, Any]
