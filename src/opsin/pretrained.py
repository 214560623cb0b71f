"""What trained models of opsin have in common: a network, what it was trained on, and one directory for all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from opsin import checkpoint
from opsin.config import from_dict, to_dict
from opsin.domain import ImageDomain, Watch
from opsin.errors import CheckpointError, ConfigError
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
        self.watch = Watch()
        """Counts images that look unlike the training images."""
        resolve_precision(precision, self.device)  # refuses here what computing would refuse later

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Self:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        directory = checkpoint.resolve_model(ref)
        content, tensors = checkpoint.load_pretrained(directory, kind=cls.kind)
        settings: Any = from_dict(cls.content, content, where=f"{ref}, config.json")
        network = build_to_fit(lambda: cls._build(settings), tensors, str(ref))
        model = cls._assemble(str(ref), settings, network.to(resolve_device(device)), precision)
        model.watch = read_watch(directory)
        return model

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors, README.md and, where it is known, domain.json, replacing the directory
        in one step."""
        return checkpoint.save_pretrained(
            directory,
            kind=self.kind,
            config=to_dict(self._content()),
            tensors=self.model.state_dict(),
            card=self._card(),
            domain=domain_content(self.watch),
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


def read_watch(directory: Path) -> Watch:
    """For the images that the model of a directory will be given; it counts nothing where there is no domain.json.

    Raises CheckpointError when that is damaged.
    """
    content = checkpoint.read_domain(directory)
    if content is None:
        return Watch()
    try:
        return Watch(from_dict(ImageDomain, content, where=f"{directory}, {checkpoint.DOMAIN_FILE}"))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def domain_content(watch: Watch) -> dict[str, Any] | None:
    """What domain.json holds."""
    return None if watch.domain is None else to_dict(watch.domain)
