"""opsin: train, evaluate, run and look at vision models, from Python or from the command line.

The names in `__all__` are loaded on first use, so that `import opsin` is instant and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from opsin.systems import SYSTEMS

if TYPE_CHECKING:
    from opsin.captioning.inference import Captioner
    from opsin.classification.finetuned import FinetunedClassifier
    from opsin.classification.inference import Classifier
    from opsin.clip.inference import ClipEncoder
    from opsin.clip.zero_shot import ZeroShotClassifier
    from opsin.diffusion.inference import TextToImage
    from opsin.search.index import ImageIndex
    from opsin.simclr.inference import SimclrEncoder

__version__ = "0.1.0"
__all__ = [
    "Captioner",
    "Classifier",
    "ClipEncoder",
    "FinetunedClassifier",
    "ImageIndex",
    "SimclrEncoder",
    "TextToImage",
    "ZeroShotClassifier",
    "__version__",
]

_HOMES = {
    **{name: module for module, _, name in (system.model.partition(":") for system in SYSTEMS.values())},
    "ImageIndex": "opsin.search.index",
    "ZeroShotClassifier": "opsin.clip.zero_shot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'opsin' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
