"""What opsin's own models are that encode images: a model directory and an encoder in one."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.encoders.base import NetworkEncoder
from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import PretrainedModel


class EncoderModel(PretrainedModel, NetworkEncoder):
    """A model whose content has a `preprocessing`: it prepares images as they were for training, and watches for those
    that look unlike the training images."""

    @property
    def preprocessing(self) -> Preprocessing:
        preprocessing: Preprocessing = self.content.preprocessing  # type: ignore[attr-defined]
        return preprocessing

    def _prepare(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(fit_image(image, self.preprocessing.image_size))
        return self.preprocessing.prepare(pixels[None])[0]

    def see(self, images: Tensor) -> None:
        self.watch.see(self.preprocessing.restore(images))
