"""What trained models of opsin have in common: a network, what describes it, and one directory for all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from opsin import checkpoint
from opsin.config import Config, from_dict, to_dict
from opsin.domain import ImageDomain, Watch
from opsin.errors import CheckpointError, ConfigError
from opsin.model_cards import CardText, inline_code, model_card
from opsin.runtime import resolve_device, resolve_precision
from opsin.state_dicts import build_to_fit
from opsin.systems import IMAGENET_CLASSIFIER, load, system_of_kind

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from opsin.data.splits import DataConfig


ConfigT = TypeVar("ConfigT", bound="DataConfig")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Generic[ConfigT]):
    """The run that made a model: all of its settings, and the `opsin.data.splits.split_digest` of its source, None
    where that holds no images or the model is from before it was noted."""

    config: ConfigT
    source_digest: str | None = None

    @classmethod
    def from_json(cls, config_class: type[ConfigT], content: Any, where: str) -> RunRecord[ConfigT]:
        """What `to_json` gave. Raises ConfigError for settings of another kind."""
        if not isinstance(content, Mapping):
            raise ConfigError(f"{where} should hold the settings of a run, not {content!r}")
        settings = dict(content)
        digest = settings.pop("source_digest", None)
        if not isinstance(digest, str | None):
            raise ConfigError(f"{where}: 'source_digest' should be a text, not {digest!r}")
        return cls(config=from_dict(config_class, settings, where), source_digest=digest)

    def to_json(self) -> dict[str, Any]:
        """The settings with the digest among them."""
        return {**to_dict(self.config), "source_digest": self.source_digest}

    def foundations(self) -> dict[str, str]:
        """For `opsin.training.task.Task.foundations`: the source, unless it holds no images."""
        return {} if self.source_digest is None else {"set of images": self.source_digest}


@dataclass(frozen=True, kw_only=True)
class ModelContent(Config, Generic[ConfigT]):
    """What config.json holds besides the kind and the format version. A kind of model adds what its network is built
    of. In the file the run is called `training`, and is an object without settings where it is not known."""

    config_class: ClassVar[type[Any]]
    """Of the run."""
    metrics: dict[str, float] = field(default_factory=dict)
    run: RunRecord[ConfigT] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Self:
        """Raises ConfigError for a wrong or unknown setting; `where` names the file in its message."""
        own = dict(content)
        run = own.pop("training", None)
        if "run" in own:
            raise ConfigError(f"{where}: unknown setting 'run'; did you mean 'training'?")
        record = RunRecord.from_json(cls.config_class, run, f"{where}, training") if run else None
        return replace(from_dict(cls, own, where), run=record)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        own = to_dict(replace(self, run=None))
        del own["run"]
        return {**own, "metrics": own.pop("metrics"), "training": {} if self.run is None else self.run.to_json()}


class Example(NamedTuple):
    """A network with the input of one image, in tensors and in words; `size` says the same as JSON types."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    words: str
    size: dict[str, Any]

    @classmethod
    def of_image(cls, network: nn.Module, size: int) -> Example:
        """For a network whose only input is an image of this side."""
        import torch

        image = torch.zeros(1, 3, size, size)
        return cls(network, (image,), f"{size} x {size} pixels", {"input": list(image.shape)})


class PretrainedModel:
    """A model that is a directory. A kind of model says what describes it and how its network is made of that."""

    kind: ClassVar[str]
    content_class: ClassVar[type[ModelContent[Any]]]
    model: nn.Module
    content: ModelContent[Any]

    def __init__(self, model: nn.Module, content: Any, *, name: str | None = None, precision: str = "auto") -> None:
        """`content` describes the network; `name` is the reference that loads the model, where there is one;
        `precision` is what it computes in: auto, 32, bf16 or 16. Raises ConfigError for one that its device lacks."""
        self.model = model.eval()
        self.content = content
        self.name = name or self.kind
        self.precision = precision
        self.watch = Watch()
        """Counts images that look unlike the training images."""
        resolve_precision(precision, self.device)  # refuses here what computing would refuse later

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def metrics(self) -> dict[str, float]:
        """Scores that were measured, by name."""
        return self.content.metrics

    @property
    def run(self) -> RunRecord[Any] | None:
        """The run that made the model, if it is known."""
        return self.content.run

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Self:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`; the weights come frozen.

        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        directory = checkpoint.resolve_model(ref)
        settings, tensors = checkpoint.load_pretrained(directory, kind=cls.kind)
        content = cls.content_class.from_json(settings, f"{ref}, config.json")
        # The state of a run has what follows from its settings besides.
        kept = {name: tensor for name, tensor in tensors.items() if not cls.is_derived(name)}
        network = build_to_fit(lambda: cls.build(content), kept, str(ref), derived=cls.is_derived)
        network = network.to(resolve_device(device)).requires_grad_(False)
        model = cls(network, content, name=checkpoint.absolute_reference(ref), precision=precision)
        model.watch = read_watch(directory)
        return model

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors, README.md and, where it is known, domain.json, replacing the directory
        in one step."""
        return checkpoint.save_pretrained(
            directory,
            kind=self.kind,
            config=self.content.to_json(),
            tensors={name: value for name, value in self.model.state_dict().items() if not self.is_derived(name)},
            card=model_card(self.card_text(), self.metrics),
            domain=domain_content(self.watch),
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the repository's address."""
        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.push_to_hub(self.save_pretrained(Path(folder) / "model"), repo_id, private=private)

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add scores to those that the directory will hold."""
        self.content = replace(self.content, metrics={**self.metrics, **metrics})

    def without_projection(self) -> PretrainedModel:
        """The model without what only its training needs. Raises ConfigError where it has nothing of that kind."""
        raise ConfigError(f"{self.name} is a model of kind {self.kind!r}, which has no projection to leave out")

    @classmethod
    def build(cls, content: Any) -> nn.Module:
        """A network of the shape that `content` says, with any weights."""
        raise NotImplementedError

    @classmethod
    def is_derived(cls, name: str) -> bool:
        """Whether a tensor of the state dict follows from the content, and is not kept in the directory."""
        return False

    def example_inputs(self) -> Example:
        """The network with the input of one image, of zeros where its values do not matter."""
        raise NotImplementedError

    def card_text(self) -> CardText:
        """What the model card says of this kind of model; see `trained_on`."""
        raise NotImplementedError

    def trained_on(self) -> str:
        """The source of the run in Markdown, for `card_text`."""
        return inline_code("unknown data" if self.run is None else self.run.config.data)


def load_model(ref: str | Path, device: str = "auto", precision: str = "auto") -> PretrainedModel:
    """The model that a reference names, of whatever kind it is; see `PretrainedModel.from_pretrained`."""
    model: PretrainedModel = model_class(ref).from_pretrained(ref, device, precision)
    return model


def model_class(ref: str | Path) -> type[PretrainedModel]:
    """The class of the model that a reference names. Raises CheckpointError for a kind that is not known."""
    if checkpoint.names_imagenet(ref):
        name = IMAGENET_CLASSIFIER
    else:
        name = system_of_kind(str(checkpoint.read_model_config(checkpoint.resolve_model(ref))["kind"]), ref).model
    found: type[PretrainedModel] = load(name)
    return found


def run_of(model: object) -> RunRecord[Any] | None:
    """The run that made a model of opsin; None for anything else, and where it is not known."""
    return model.run if isinstance(model, PretrainedModel) else None


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
