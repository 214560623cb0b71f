"""Using a trained dual encoder: features of images and texts, and its directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.clip.model import DualEncoder, build_dual_encoder
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import Unread
from opsin.encoders.base import DenseNetworkEncoder, TextNetwork
from opsin.encoders.own import EncoderModel
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText
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


class ClipEncoder(TextNetwork, EncoderModel, DenseNetworkEncoder):
    """Both towers; patches are those of the image tower, before the map into the common space."""

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

    @classmethod
    def build(cls, content: ClipContent) -> DualEncoder:
        return build_dual_encoder(content.preprocessing.image_size, content.embed_dim, content.image, content.text)

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def example_inputs(self) -> Example:
        """One image and one text of the greatest length."""
        length = self.tokenizer.max_length
        network, (image,), words, size = Example.of_image(self.model, self.preprocessing.image_size)
        texts = torch.ones(1, length, dtype=torch.int64)
        return Example(network, (image, texts), f"{words}, a text of {length} tokens", {**size, "text_length": length})

    def card_text(self) -> CardText:
        return CardText(
            title="Dual encoder of images and texts",
            tags=("clip", "image-text-retrieval", "zero-shot-image-classification"),
            description=f"""
Trained with opsin on the source {self.trained_on()}; `config.json` holds every
setting of the run under `training`, the sub-words of the tokenizer and the preprocessing.
""",
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

    def _pooled(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)

    def _pooled_tokens(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        return self.model.image_tower.patch_size

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.model.image_tower.patch_tokens(images)
