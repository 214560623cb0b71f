"""Using a trained encoder: features of images, and its directory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from opsin.domain import Watch
from opsin.encoders.own import EncoderModel
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText
from opsin.pretrained import Example, ModelContent
from opsin.runtime import seeded
from opsin.simclr.config import EncoderConfig, SimclrConfig
from opsin.simclr.model import ProjectionHead, SimclrModel, build_encoder

NAMES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "vit": "Vision Transformer"}


@dataclass(frozen=True, kw_only=True)
class SimclrContent(ModelContent[SimclrConfig]):
    """What describes an encoder."""

    config_class = SimclrConfig
    encoder: EncoderConfig
    projection: tuple[int, int] | None
    """Widths of the hidden layer and of the result; None where the encoder is kept alone."""
    preprocessing: Preprocessing


class SimclrEncoder(EncoderModel):
    """An encoder that learned without labels, with its preprocessing and metrics: all that its directory holds.

    `encode_image` gives features of whole images; see `opsin.encoders.base.ImageEncoder`. The projection that it was
    trained with is kept beside it and not applied.
    """

    kind = "simclr"
    content_class = SimclrContent
    model: SimclrModel
    content: SimclrContent

    @classmethod
    def build(cls, content: SimclrContent) -> SimclrModel:
        encoder = build_encoder(content.encoder, content.preprocessing.image_size)
        widths = content.projection
        return SimclrModel(encoder, nn.Identity() if widths is None else ProjectionHead(encoder.feature_dim, *widths))

    def without_projection(self) -> SimclrEncoder:
        """The same encoder alone, which gives the same features and takes less room; it shares its weights."""
        network = SimclrModel(self.model.encoder, nn.Identity())
        content = replace(self.content, projection=None)
        alone = SimclrEncoder(network, content, name=self.name, precision=self.precision)
        alone.watch = Watch(self.watch.domain)
        return alone

    def untrained(self) -> SimclrEncoder:
        """The network that the encoder's run began with: random weights, and statistics of a BatchNorm that has seen
        nothing. (With statistics of real images kNN and linear probe of a ResNet come out lower, not higher.)"""
        content = replace(self.content, projection=None)
        with seeded(0 if self.run is None else self.run.config.seed, "weights"):
            network = self.build(content).to(self.device)
        return SimclrEncoder(network, content, name=f"{self.name}, untrained", precision=self.precision)

    def weights(self) -> dict[str, Tensor]:
        return self.model.encoder.state_dict()

    def example_inputs(self) -> Example:
        return Example.of_image(self.model, self.preprocessing.image_size)

    def card_text(self) -> CardText:
        return CardText(
            title=f"{NAMES[self.content.encoder.name]} that learned without labels",
            tags=("simclr", "self-supervised-learning", "image-feature-extraction"),
            description=f"""
Trained by SimCLR with opsin on the images of the source {self.trained_on()};
`config.json` holds every setting of the run under `training`, and the preprocessing.
""",
            notes="""
`val_loss` is the contrastive loss of images held out from training, in batches of the size of training, or all at once
where there are fewer; a run that held out fewer than two has none. `val_knn_accuracy` takes labels.
`val_knn_accuracy` is the share of at most 1,000 of them whose class the 200 nearest of at most 5,000 training images
tell (temperature 0.5): it follows the training and is no test. For scores to compare use
`opsin evaluate THIS_DIRECTORY --protocol knn`.

The encoder gives features, not classes, and knows images like those of its source: expect worse on others.
""",
            command="opsin index IMAGES --out INDEX --model THIS_DIRECTORY",
        )

    def _pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encoder(images)
        return features
