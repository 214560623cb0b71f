"""Images as the input of opsin's own networks."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.domain import Watch
from opsin.encoders.base import NetworkEncoder
from opsin.images.preprocessing import Preprocessing


class FittedImages(NetworkEncoder):
    """Prepares images as they were for training, and watches for those that look unlike the training images."""

    preprocessing: Preprocessing
    watch: Watch

    def _prepare(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(fit_image(image, self.preprocessing.image_size))
        return self.preprocessing.prepare(pixels[None])[0]

    def see(self, images: Tensor) -> None:
        self.watch.see(self.preprocessing.restore(images))
