"""Using a trained dual encoder: features of images and texts, and its directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.clip.model import DualEncoder, build_dual_encoder
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import Unread
from opsin.encoders.base import DenseNetworkEncoder, TextNetwork
from opsin.encoders.loading import load_unchanged
from opsin.encoders.own import EncoderModel
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText, inline_code
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import Example, ModelContent


@dataclass(frozen=True, kw_only=True)
class ClipContent(ModelContent[ClipConfig]):
    """What describes a dual encoder.

    `image` and `text` are options of `opsin.nn.vision_transformer.VisionTransformer` and
    `opsin.clip.model.TextTransformer`, `tokenizer` is what `BpeTokenizer.to_json` gives.
    """

    config_class = ClipConfig
    embed_dim: int
    image: dict[str, Any]
    text: dict[str, Any]
    tokenizer: dict[str, Any]
    preprocessing: Preprocessing
    image_encoder: str | None = None
    """The reference (see `opsin.encoders.load`) of the locked encoder whose vectors take the place of images, where
    there is one."""
    encoder_fingerprint: str | None = None
    """That encoder's."""
    encoder_dim: int | None = None
    """The width of its vectors."""


class ClipEncoder(TextNetwork, EncoderModel, DenseNetworkEncoder):
    """Both towers; patches are those of the image tower, before the map into the common space. A locked image encoder
    is loaded when it is first needed, and refused where it has other weights than it had."""

    kind = "clip"
    content_class = ClipContent
    model: DualEncoder
    content: ClipContent

    def __init__(
        self, model: DualEncoder, content: ClipContent, *, name: str | None = None, precision: str = "auto"
    ) -> None:
        """See `PretrainedModel`."""
        super().__init__(model, content, name=name, precision=precision)
        self.tokenizer = BpeTokenizer.from_json(content.tokenizer)
        self.logit_scale = float(model.scale().detach())
        self._locked: DenseNetworkEncoder | None = None

    @property
    def locked(self) -> DenseNetworkEncoder | None:
        """The locked image encoder, where there is one. Raises what `opsin.encoders.load` raises."""
        if self.content.image_encoder is not None and self._locked is None:
            own = self.content
            encoder = load_unchanged(str(own.image_encoder), own.encoder_fingerprint, str(self.device), self.precision)
            self._locked = cast(DenseNetworkEncoder, encoder)
        return self._locked

    @classmethod
    def build(cls, content: ClipContent) -> DualEncoder:
        size = content.preprocessing.image_size
        return build_dual_encoder(size, content.embed_dim, content.image, content.text, content.encoder_dim)

    def weights(self) -> dict[str, Tensor]:
        encoder = {} if self.locked is None else self.locked.weights()
        return {**self.model.state_dict(), **{f"encoder.{name}": value for name, value in encoder.items()}}

    def input_of(self, batch: dict[str, Tensor]) -> Tensor:
        """What the image tower gets of a batch of `opsin.clip.data.CaptionedImages`: of vectors, those of the image
        itself."""
        return self.preprocessing.prepare(batch["image"]) if self.locked is None else batch["vectors"][:, 0]

    def example_inputs(self) -> Example:
        """One image and one text of the greatest length."""
        length = self.tokenizer.max_length
        network, (image,), words, size = Example.of_image(self.model, self.preprocessing.image_size)
        if self.content.encoder_dim is not None:
            image = torch.zeros(1, self.content.encoder_dim)
            words = f"a vector of {self.content.image_encoder}, which is not counted"
            size = {"input": list(image.shape)}
        texts = torch.ones(1, length, dtype=torch.int64)
        return Example(network, (image, texts), f"{words}, a text of {length} tokens", {**size, "text_length": length})

    def card_text(self) -> CardText:
        locked = self.content.image_encoder
        needs = f"\nImages reach it through the encoder {inline_code(str(locked))}, which is not in this directory.\n"
        return CardText(
            title="Dual encoder of images and texts",
            tags=("clip", "image-text-retrieval", "zero-shot-image-classification"),
            description=f"""
Trained with opsin on the source {self.trained_on()}; `config.json` holds every
setting of the run under `training`, the sub-words of the tokenizer and the preprocessing.
{needs if locked else ""}""",
            notes="""
Recall is the share of queries whose right answer is among the first 1, 5 or 10, averaged over texts that look for
images and images that look for texts, among all images of the split (of one drawing style at a time, where there are
styles). `train_…` is on the training images, `val_…` and `test_…` on images held out from training, `other_style_…` on
drawings in a style that was held out. The model knows only what its training captions say: expect little of other
images and words.
""",
            command='opsin classify IMAGES --labels "one thing,another thing" --model THIS_DIRECTORY',
        )

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.tokenizer.encode(texts)

    def unread(self, texts: Sequence[str]) -> Unread:
        return self.tokenizer.unread(texts)

    def _prepare(self, image: Image.Image) -> Tensor:
        return super()._prepare(image) if self.locked is None else self.locked._prepare(image)

    def see(self, images: Tensor) -> None:
        preprocessing = self.preprocessing if self.locked is None else self.locked.preprocessing
        self.watch.see(preprocessing.restore(images))

    def _pooled(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images if self.locked is None else self.locked._pooled(images))

    def _pooled_tokens(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        tower = self.model.image_tower
        return tower.patch_size if isinstance(tower, VisionTransformer) else cast(Any, self.locked).patch_size

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tower = self.model.image_tower
        if isinstance(tower, VisionTransformer):
            return tower.patch_tokens(images)
        return cast(DenseNetworkEncoder, self.locked)._dense(images)
