"""The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3), over the samples of all processes.

Dimensions: n samples of this process, N samples of all processes, E width of the features, K keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.training.processes import gather


def clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mean loss of this process's samples, and the share of its images whose own text has the highest logit.

    Cross-entropy of each image's own text among all texts, and of each text's own image among all images, averaged, in
    float32 at any precision.

    Args:
        image_features: (n, E), of any length.
        text_features: (n, E), of any length; row i belongs to row i of the images.
        logit_scale: what cosines are multiplied with.
        keys: int64 (n, K). Two samples that agree in any column (two drawings of one thing, or the same text twice) are
            left out of each other's alternatives: calling a right answer wrong would push alike things apart. They are
            not made further right answers either, as in UniCL (Yang et al. 2022): then the loss would ask for equal
            shares, and a text drawn from another name of the thing need not fit equally well. Where no two samples
            agree, this is exactly the paper's loss.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        own = torch.stack([F.normalize(image_features.float()), F.normalize(text_features.float())], dim=1)
        everyone, start = gather(own)
        places = torch.arange(start, start + len(own), device=own.device)
        by_image = logit_scale * own[:, 0] @ everyone[:, 1].T  # (n, N)
        by_text = logit_scale * own[:, 1] @ everyone[:, 0].T
        if keys is not None:
            all_keys, _ = gather(keys)
            alike = (keys[:, None] == all_keys[None]).any(dim=2)
            alike[torch.arange(len(own), device=own.device), places] = False
            by_image = by_image.masked_fill(alike, -math.inf)
            by_text = by_text.masked_fill(alike, -math.inf)
        loss = (F.cross_entropy(by_image, places) + F.cross_entropy(by_text, places)) / 2
        return loss, (by_image.detach().argmax(dim=1) == places).float().mean()
