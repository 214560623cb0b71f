"""Using a trained captioner: captions for images, where it looked for each word, and its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opsin.captioning.config import CaptioningConfig, DecoderConfig, EncoderConfig
from opsin.captioning.decoding import Limits, beam_search, greedy, nucleus
from opsin.captioning.model import ImageCaptioner, build_model, feature_tensor
from opsin.captioning.vocabulary import START, Vocabulary, join_words
from opsin.data.pixels import each_image, pixel_batches
from opsin.encoders.base import NetworkEncoder, batched
from opsin.encoders.features import image_features
from opsin.encoders.loading import load_unchanged
from opsin.errors import ConfigError, DataError
from opsin.images.opening import ImageLike, ImageReader, StoredImage
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText, inline_code
from opsin.pretrained import Example, ModelContent, PretrainedModel
from opsin.progress import Progress, tracked
from opsin.results import Answers
from opsin.runtime import autocast, refuse_damaged


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
    columns: ClassVar[tuple[str, ...]] = ("caption", "log_prob")

    def document(self) -> dict[str, Any]:
        """The text and its probability, as JSON types."""
        return {"caption": self.text, "log_prob": self.log_prob}

    def rows(self) -> list[tuple[str, ...]]:
        """One row."""
        return [(self.text, f"{self.log_prob:.6f}")]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Drawing words at random; see `opsin.captioning.decoding.nucleus`.

    The same generator state, images and batch size give the same captions.
    """

    generator: torch.Generator
    top_p: float = 0.9
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How captions are written: word by word with the most probable ones (one beam), by beam search, or drawn at random
    with `sampling`, where `beams` and `length_penalty` do not count. Captions are as long as the model can write them,
    unless `limits` say otherwise."""

    beams: int = 3
    length_penalty: float = 1.0
    limits: Limits | None = None
    sampling: Sampling | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionerContent(ModelContent[CaptioningConfig]):
    """What describes a captioner."""

    config_class = CaptioningConfig
    encoder: EncoderConfig
    decoder: DecoderConfig
    words: tuple[str, ...]
    preprocessing: Preprocessing
    feature_dim: int | None = None
    """The width of the features that take the place of images, where they do."""
    frozen_encoder: str | None = None
    """The reference (see `opsin.encoders.load`) of the encoder that gives these features, where one does."""
    encoder_fingerprint: str | None = None
    """That encoder's; None where it is not known."""


class Captioner(PretrainedModel):
    """A network with its vocabulary, preprocessing and metrics: all that its directory holds."""

    kind = "captioner"
    content_class = CaptionerContent
    model: ImageCaptioner
    content: CaptionerContent

    def __init__(
        self, model: ImageCaptioner, content: CaptionerContent, *, name: str | None = None, precision: str = "auto"
    ) -> None:
        """See `PretrainedModel`. A frozen encoder of another fingerprint is refused when it is first needed."""
        super().__init__(model, content, name=name, precision=precision)
        self.vocabulary = Vocabulary(content.words)
        self.preprocessing = content.preprocessing
        self._loaded_encoder: NetworkEncoder | None = None

    @property
    def takes_images(self) -> bool:
        """Whether it describes images; else features that were computed elsewhere."""
        return self.content.feature_dim is None or self.content.frozen_encoder is not None

    @property
    def input_size(self) -> int:
        """The `size` of `opsin.images.opening.open_image` for images to describe."""
        return (
            self.preprocessing.image_size
            if self.content.frozen_encoder is None
            else self.load_frozen_encoder().input_size
        )

    def load_frozen_encoder(self) -> NetworkEncoder:
        """The frozen encoder that the model refers to, loaded when it is first needed.

        Raises what `opsin.encoders.load` raises, CheckpointError when the one of that name has other weights now, and
        ConfigError for a model that has none.
        """
        if self.content.frozen_encoder is None:
            raise ConfigError("this captioner has no frozen encoder")
        if self._loaded_encoder is None:
            self._loaded_encoder = load_unchanged(
                self.content.frozen_encoder, self.content.encoder_fingerprint, str(self.device), self.precision
            )
        return self._loaded_encoder

    @classmethod
    def build(cls, content: CaptionerContent) -> ImageCaptioner:
        size, vocabulary = content.preprocessing.image_size, Vocabulary(content.words)
        return build_model(content.encoder, content.decoder, size, vocabulary, content.feature_dim)

    def example_inputs(self) -> Example:
        """An image, or the features of one, and one caption of the usual length, all of its words in one pass: writing
        it takes no more with a cache."""
        decoder = self.model.decoder
        network, (image,), text, _ = Example.of_image(self.model, self.preprocessing.image_size)
        if self.content.frozen_encoder is not None:
            image = image_features(self.load_frozen_encoder(), [Image.new("RGB", (64, 64))])[0]
            text = f"features of {self.content.frozen_encoder}, which is not counted"
        elif self.content.feature_dim is not None:
            image, text = torch.zeros(1, self.content.feature_dim), f"{self.content.feature_dim} features"
        length = decoder.max_length
        caption = torch.full((1, length), decoder.null_index)
        size = {"input": list(image.shape), "caption_length": length}
        return Example(network, (image, caption), f"{text}, a caption of {length} words", size)

    def card_text(self) -> CardText:
        frozen = self.content.frozen_encoder
        needs = f"\n\nImages reach it through the encoder {inline_code(str(frozen))}, which is not in this directory."
        return CardText(
            title="Image captioner",
            tags=("image-to-text",),
            description=f"""
A transformer decoder that knows {len(self.vocabulary)} words, trained with opsin on the source
{self.trained_on()}; `config.json` holds every setting of the run under `training`,
the vocabulary and the preprocessing.{needs if frozen else ""}
""",
            notes="""
`val_…` is on images held out from training, with greedy decoding; `test_…` is on the test images, with the run's
number of beams, and `other_style_…` on drawings of training emoji in the style that was held out of training. BLEU,
ROUGE-L and exact match are in 0 to 1, CIDEr-D is in 0 to 10; texts are cut into words by opsin's own rules. The model
knows only what its training captions say: expect wrong captions for other images.
""",
            command="opsin caption IMAGES --model THIS_DIRECTORY",
        )

    def caption(self, images: ImageLike | Iterable[ImageLike], **settings: Any) -> list[Caption]:
        """A caption for each image, all at the end; `settings` are those of `caption_each`."""
        return list(self.caption_each(images, **settings))

    def caption_each(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        decoding: Decoding | None = None,
        attention: bool = False,
        batch_size: int = 32,
        **settings: Any,
    ) -> Iterator[Caption]:
        """A caption for each image (paths, PIL images or arrays), a batch after the other, or for a single one.

        `settings` change fields of `decoding` (see `Decoding`), such as `beams=5`. With `attention`, captions say where
        the model looked. Raises DataError for a broken image,
        ConfigError for a model that takes features instead of images and for an impossible setting, and what
        `opsin.encoders.load` raises for a model with a frozen encoder.
        """
        if not self.takes_images:
            raise ConfigError(
                "this captioner was trained on features, so it cannot describe images; judge it with "
                "`opsin evaluate RUN`, or give features to `Captioner.caption_features` in Python"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        decoding = replace(decoding or Decoding(), **settings)
        for features, grid in self._encoded_batches(images, batch_size):
            yield from _undamaged(self.write(features, decoding, attention=attention, grid=grid))

    def caption_files(
        self,
        files: Sequence[Path | StoredImage],
        *,
        model: str | None = None,
        progress: Progress | None = None,
        each: Callable[[Path | StoredImage, Caption], None] | None = None,
        **settings: Any,
    ) -> Answers[Caption]:
        """A caption for each file that can be read; see `opsin.sources.opening.list_inputs`, `Answers.gather`.

        `settings` are those of `caption_each`; `model` is what the result calls the model. Raises Cancelled as well.
        """
        reader = ImageReader(files, self.input_size)
        found = self.caption_each(tracked(reader, progress, "captioning", len(files)), **settings)
        return Answers.gather(reader, found, each, model=model or self.name, column="caption")

    def caption_features(self, features: np.ndarray | Tensor, *, beams: int = 3) -> list[Caption]:
        """A caption for each row of features (N, D) or (N, P, D), for a model that was trained on such features."""
        if self.content.feature_dim is None:
            raise ConfigError("this captioner was trained on images, not features; use caption")
        tensor = feature_tensor(features)
        if tensor.ndim not in (2, 3) or tensor.shape[-1] != self.content.feature_dim:
            raise DataError(
                f"this captioner takes features of width {self.content.feature_dim}, not of shape {tuple(tensor.shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise DataError("some of these features are not finite numbers, so no caption can be written about them")
        return _undamaged(self.write(self.encode(tensor), Decoding(beams=beams)))

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """What the decoder attends to, on the model's device, for uint8 pixels (N, 3, S, S) or float features."""
        if self.content.feature_dim is None:
            self.watch.see(inputs)
        moved = inputs.to(self.device)
        with autocast(self.device, self.precision):
            return self.model.encode(self.preprocessing.prepare(moved) if self.content.feature_dim is None else moved)

    def write(
        self,
        features: Tensor,
        decoding: Decoding,
        *,
        attention: bool = False,
        grid: tuple[int, int] | None = None,
    ) -> list[Caption]:
        """Captions for what `encode` gave; `grid` is that of its patches, where they are not those of the own encoder.

        Without one, maps of attention to features have a single row.
        """
        decoder = self.model.decoder
        limits = decoding.limits or Limits(max_length=decoder.max_length)
        sampling, beams = decoding.sampling, decoding.beams
        with autocast(self.device, self.precision):
            if sampling is not None:
                top_p, temperature, generator = sampling.top_p, sampling.temperature, sampling.generator
                decoded = nucleus(decoder, features, limits, top_p=top_p, temperature=temperature, generator=generator)
            elif beams == 1:
                decoded = greedy(decoder, features, limits)
            else:
                penalty = decoding.length_penalty
                decoded = beam_search(decoder, features, limits, beams=beams, length_penalty=penalty)
            maps = self._attention(features, decoded.tokens, grid) if attention else None
        captions = []
        for row, tokens in enumerate(decoded.tokens.tolist()):
            words = self.vocabulary.decode_words(tokens)
            seen = None if maps is None else maps[row, : len(words)]
            captions.append(Caption(join_words(words), tuple(words), float(decoded.log_probs[row]), seen))
        return captions

    def _attention(self, features: Tensor, tokens: Tensor, grid: tuple[int, int] | None) -> np.ndarray:
        """float32 (N, T, rows, columns): where the decoder looked for each word, averaged over layers and heads."""
        first = torch.full_like(tokens[:, :1], self.vocabulary.word_to_idx[START])
        weights = self.model.decoder.attention_weights(features, torch.cat([first, tokens[:, :-1]], dim=1))
        maps_NTP = weights.float().mean(dim=(1, 2))
        encoder = self.model.encoder
        if encoder is not None:
            grid = (encoder.grid_size, encoder.grid_size)
        return maps_NTP.unflatten(2, grid or (1, maps_NTP.shape[2])).cpu().numpy()

    def _encoded_batches(
        self, images: ImageLike | Iterable[ImageLike], batch_size: int
    ) -> Iterator[tuple[Tensor, tuple[int, int] | None]]:
        """What the decoder attends to, with the grid of a frozen encoder's patches."""
        if self.content.frozen_encoder is None:
            for pixels in pixel_batches(images, self.preprocessing.image_size, batch_size):
                yield self.encode(pixels), None
            return
        for batch in batched(each_image(images), batch_size):
            features, grid = image_features(self.load_frozen_encoder(), batch)
            yield self.encode(features), grid


def _undamaged(captions: list[Caption]) -> list[Caption]:
    refuse_damaged(torch.tensor([caption.log_prob for caption in captions]), "the captioner")
    return captions
