"""Residual networks ("Deep Residual Learning for Image Recognition", He et al. 2016), made of torchvision's blocks.

Deviation from the paper: for small images the stem is one convolution of 3 x 3 and stride 1 without pooling, as in
SimCLR's appendix B.9 for CIFAR-10. The parts are numbered, so that state-dict keys are those of the course's encoder.

Dimensions: N batch, H and W pixels, D width of the features.
"""

from __future__ import annotations

from torch import nn

NAMES = ("resnet18", "resnet34", "resnet50")


class ResNet(nn.Sequential):
    """Images (N, 3, H, W) of any size to features (N, D), the mean over all places; `feature_dim` is D."""

    def __init__(self, name: str = "resnet18", *, small_images: bool = False) -> None:
        """`name` is one of `NAMES`; raises ValueError for others. `small_images` chooses the stem."""
        if name not in NAMES:
            raise ValueError(f"unknown network {name!r}: use one of {', '.join(NAMES)}")
        from torchvision import models  # here, since it imports torch's compiler, which takes seconds

        network = models.get_model(name, weights=None)
        if small_images:
            stem = [nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False), network.bn1, network.relu]
        else:
            stem = [network.conv1, network.bn1, network.relu, network.maxpool]
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        super().__init__(*stem, *stages, network.avgpool, nn.Flatten())
        self.feature_dim: int = network.fc.in_features
