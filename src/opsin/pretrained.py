"""What trained models of opsin have in common: a network, what it was trained on, and one directory for all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from opsin import checkpoint
from opsin.config import from_dict, to_dict
from opsin.runtime import resolve_device, resolve_precision
from opsin.state_dicts import build_to_fit

if TYPE_CHECKING:
    import torch
    from torch import nn


class PretrainedModel:
    """A model that is a directory. A kind of model says what config.json and the model card hold, and how its network
    and itself are made of that."""

    kind: ClassVar[str]
    content: ClassVar[type]
    """A dataclass: what config.json holds besides the kind and the format version."""

    def __init__(
        self,
        model: nn.Module,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
        precision: str = "auto",
    ) -> None:
        """`training` is the resolved config of the run that made the model, as JSON types, `metrics` are its scores;
        `precision` is what the model computes in: auto, 32, bf16 or 16. Raises ConfigError for one that the model's
        device lacks."""
        self.model = model.eval()
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})
        self.precision = precision
        resolve_precision(precision, self.device)  # refuses here what computing would refuse later

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Self:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        content, tensors = checkpoint.load_pretrained(ref, kind=cls.kind)
        settings: Any = from_dict(cls.content, content, where=f"{ref}, config.json")
        network = build_to_fit(lambda: cls._build(settings), tensors, str(ref))
        return cls._assemble(str(ref), settings, network.to(resolve_device(device)), precision)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md, replacing the directory in one step."""
        return checkpoint.save_pretrained(
            directory,
            kind=self.kind,
            config=to_dict(self._content()),
            tensors=self.model.state_dict(),
            card=self._card(),
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the repository's address."""
        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.push_to_hub(self.save_pretrained(Path(folder) / "model"), repo_id, private=private)

    @classmethod
    def _build(cls, content: Any) -> nn.Module:
        """A network of the shape that `content` says, with any weights."""
        raise NotImplementedError

    @classmethod
    def _assemble(cls, ref: str, content: Any, network: Any, precision: str) -> Self:
        """The model of a network of `_build` with its trained weights, on its device."""
        raise NotImplementedError

    def _content(self) -> Any:
        raise NotImplementedError

    def _card(self) -> str:
        """README.md in Markdown."""
        raise NotImplementedError
