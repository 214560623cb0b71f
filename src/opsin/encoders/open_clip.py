"""Encoders of images and texts from open_clip: CLIP, SigLIP, MobileCLIP and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn

from opsin.config import load_json, nearest_name
from opsin.data.unread import Unread
from opsin.encoders.base import DenseNetworkEncoder, NetworkEncoder, TextNetwork
from opsin.encoders.timm import (
    interpolate_any_size,
    joined_stages,
    patch_size_of,
    patch_tokens,
    refuse_fixed_size,
)
from opsin.errors import CheckpointError, ConfigError
from opsin.hub import hub_file, hub_files
from opsin.images.preprocessing import Preprocessing
from opsin.nn.embeddings import interpolate_positions
from opsin.state_dicts import load_state_dict, state_dict_of

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
CONFIG_FILE = "open_clip_config.json"
DEFAULT_WEIGHTS = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
TOKENIZER_FILES = ["*.json", "*.txt", "*.model"]


class Tokenizer(Protocol):
    """A tokenizer of open_clip."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Token numbers int64 (N, T), cut and padded to T, by default what the network reads."""
        ...


class OpenClipEncoder(TextNetwork, NetworkEncoder):
    """Both halves of a CLIP model, with the preprocessing and the tokenizer that its weights were trained with.

    `model` is the whole of it, `network` the image half; `preprocess` makes input (3, H, W) of an RGB image.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        device: torch.device,
        load_tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        """`network` is what `open_clip.create_model` gives. `load_tokenizer` is called when the first text comes, so
        that images can be encoded without the tokenizer's files; by default the tokenizer is OpenAI's."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        model: Any = network
        visual: Any = model.visual
        super().__init__(name, visual, device)
        self.model = model.to(device).eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.MultiheadAttention) and module.batch_first:
                module.register_forward_pre_hook(_lay_out_by_token, with_kwargs=True)
        self.logit_scale = float(model.logit_scale.exp())
        self.preprocess = image_transform_v2(PreprocessCfg(**visual.preprocess_cfg), is_train=False)
        self._load_tokenizer = load_tokenizer or self._openai_tokenizer
        self._tokenizer: Tokenizer | None = None

    def _openai_tokenizer(self) -> Tokenizer:
        from open_clip import SimpleTokenizer

        return SimpleTokenizer(context_length=self.model.context_length)

    def _prepare(self, image: Image.Image) -> Tensor:
        return self.preprocess(image)

    def weights(self) -> dict[str, Tensor]:
        """Those of both halves."""
        return self.model.state_dict()

    def _pooled(self, images: Tensor) -> Tensor:
        return self.network(images)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self._loaded_tokenizer()(list(texts))

    def unread(self, texts: Sequence[str]) -> Unread:
        """Which texts are cut; these tokenizers know the bytes of any text, and which of them were trained on is not
        known."""
        if not texts:
            return Unread(0)
        tokenizer, read = self._loaded_tokenizer(), self.tokenize(texts)
        length = read.shape[1]
        # With room for one more token, a text that is cut has another one in the last place or in front of it.
        longer = tokenizer(list(texts), context_length=length + 1)
        padding = tokenizer([""], context_length=length + 1)[0, -1]
        is_cut = (longer[:, :length] != read).any(dim=1) | (longer[:, length] != padding)
        cut = tuple(text for text, own in zip(texts, is_cut.tolist(), strict=True) if own)
        return Unread(len(texts), cut=cut, max_tokens=length)

    def _pooled_tokens(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    def _loaded_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer


class DenseOpenClipEncoder(OpenClipEncoder, DenseNetworkEncoder):
    """One whose network is a Vision Transformer of open_clip's own, or a network of timm."""

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        visual: Any = self.network
        return patch_size_of(visual.trunk) if hasattr(visual, "trunk") else max(visual.patch_size)

    @property
    def preprocessing(self) -> Preprocessing:
        config = cast(Any, self.network).preprocess_cfg
        size = config["size"] if isinstance(config["size"], int) else max(config["size"])
        return Preprocessing(image_size=size, mean=tuple(config["mean"]), std=tuple(config["std"]))

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        refuse_fixed_size(getattr(self.network, "trunk", None), self.name)
        return super()._fitted(size)

    def _joined(self, strides: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
        return joined_stages(getattr(self.network, "trunk", None), strides, self.name)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        visual: Any = self.network
        if hasattr(visual, "trunk"):
            return patch_tokens(visual.trunk, images)
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        if grid != tuple(visual.grid_size):  # a copy that shares all but the positions, for other threads use it too
            positions = interpolate_positions(visual.positional_embedding[None], 1, grid)[0]
            visual, parameters = copy(visual), {**visual._parameters}
            visual._parameters = {**parameters, "positional_embedding": nn.Parameter(positions, requires_grad=False)}
        result = visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        return result["image_intermediates"][-1], grid


def _lay_out_by_token(
    attention: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
    """Input (N, T, D) of self-attention in another order in memory, for torch to be quick under autocast.

    There torch's attention transposes it to (T, N, D), and multiplies what is not contiguous then by a copy of the
    weights for each of the T tokens; but for input of the weights' own precision without a mask, for which it has a
    kernel on the CPU that reads it as it is. The results are the same, on a CPU to the bit.
    """
    query, key, value = args
    if not torch.is_autocast_enabled(query.device.type) or not query is key is value:
        return None
    own_precision = query.dtype == cast(nn.MultiheadAttention, attention).in_proj_weight.dtype
    if query.device.type == "cpu" and own_precision and kwargs.get("attn_mask") is None:
        return None
    query = query.transpose(0, 1).contiguous().transpose(0, 1)
    return (query, query, query), kwargs


def wrap(
    name: str, network: nn.Module, device: torch.device, load_tokenizer: Callable[[], Tokenizer] | None = None
) -> OpenClipEncoder:
    """The encoder of a model that `open_clip.create_model` gave: a dense one where its network has patches."""
    visual: Any = network.visual
    has_patches = hasattr(visual, "trunk") or hasattr(visual, "transformer")
    if hasattr(visual, "trunk"):
        interpolate_any_size(visual.trunk)
    return (DenseOpenClipEncoder if has_patches else OpenClipEncoder)(name, network, device, load_tokenizer)


def load_open_clip(name: str, device: torch.device, file: Path | None = None) -> OpenClipEncoder:
    """The model `ARCHITECTURE/TAG` with its published weights, or `ARCHITECTURE` with those of a file.

    Raises ConfigError for one that open_clip does not know, OfflineError when the weights cannot be had,
    CheckpointError for a file with other weights.
    """
    import open_clip

    ref = f"open_clip:{name}"
    architecture, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if file is not None and (config or not tag):
        return _from_file(ref, architecture, config, file, device)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        known = f"the tags of {architecture} are {tags}" if tags else "opsin expects open_clip:ARCHITECTURE/TAG"
        raise ConfigError(f"open_clip has no pretrained model {name!r}; {known}")
    if not config.get("hf_hub"):
        raise ConfigError(f"{ref} has no weights on the Hugging Face Hub; use another tag of {architecture}")
    repo_id, _, filename = config["hf_hub"].rpartition("/")
    weights = hub_file(ref, repo_id, [filename] if filename else DEFAULT_WEIGHTS)
    text = open_clip.get_model_config(architecture)["text_cfg"]
    # The file is given by name, so that open_clip opens no connection of its own.
    implied = {**_implied_by_tag(config), **_text_network(ref, text)}
    network = open_clip.create_model(architecture, pretrained=str(weights), **implied)
    return wrap(ref, network, device, lambda: _tokenizer(ref, text, None))


def _implied_by_tag(config: dict[str, Any]) -> dict[str, Any]:
    """Options of `create_model` for what open_clip knows of a tag and does not look up for weights from a file."""
    return {
        "force_quick_gelu": bool(config.get("quick_gelu")),
        "force_preprocess_cfg": {key: config[key] for key in PREPROCESSING if key in config},
    }


def _from_file(
    ref: str, architecture: str, config: dict[str, Any], file: Path, device: torch.device
) -> OpenClipEncoder:
    """`config` is what open_clip knows of the tag, if there is one."""
    import open_clip

    shape = open_clip.get_model_config(architecture)
    if shape is None:
        near = nearest_name(architecture, open_clip.list_models())
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"open_clip has no architecture {architecture!r}{hint}")
    text = shape["text_cfg"]
    tensors = state_dict_of(file)
    network = open_clip.create_model(architecture, **_implied_by_tag(config), **_text_network(ref, text))
    load_state_dict(network, tensors, str(file))
    return wrap(f"{ref}@{file}", network, device, lambda: _tokenizer(ref, text, None))


def load_open_clip_hub(repo_id: str, device: torch.device) -> OpenClipEncoder:
    """The model of a repository of the Hugging Face Hub that has an `open_clip_config.json`.

    Raises OfflineError when it cannot be had, CheckpointError when it cannot be used.
    """
    ref = f"hf-hub:{repo_id}"
    directory = hub_file(ref, repo_id, [CONFIG_FILE]).parent
    hub_file(ref, repo_id, DEFAULT_WEIGHTS)  # it comes to lie beside the config
    return _from_directory(ref, directory, None, device)


def load_open_clip_directory(directory: Path, device: torch.device) -> OpenClipEncoder:
    """The model of a directory with `open_clip_config.json`, `open_clip_model.safetensors` (or
    `open_clip_pytorch_model.bin`), and the files of a tokenizer, unless that is OpenAI's.

    Raises CheckpointError when it is incomplete or cannot be used.
    """
    return _from_directory(str(directory), directory, directory, device)


def _from_directory(ref: str, directory: Path, tokenizer_files: Path | None, device: torch.device) -> OpenClipEncoder:
    import open_clip

    content = load_json(directory / CONFIG_FILE)
    if not any((directory / name).is_file() for name in DEFAULT_WEIGHTS):
        raise CheckpointError(f"{directory} has a {CONFIG_FILE}, and no weights: no {' and no '.join(DEFAULT_WEIGHTS)}")
    text = (content.get("model_cfg") or {}).get("text_cfg")
    if not isinstance(text, dict):
        raise CheckpointError(
            f"{directory / CONFIG_FILE} describes no model of open_clip: it has no model_cfg.text_cfg"
        )
    try:
        network = open_clip.create_model(f"local-dir:{directory}", **_text_network(ref, text))
    except Exception as error:  # whatever is wrong with a config or a file of weights comes in many shapes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"open_clip cannot use the model in {directory}: {' '.join(reason)[:300]}") from error
    return wrap(ref, network, device, lambda: _tokenizer(ref, text, tokenizer_files))


def _text_network(ref: str, text: dict[str, Any]) -> dict[str, Any]:
    """What `create_model` needs where the text half is from transformers, so that it looks nothing up itself."""
    name = text.get("hf_model_name")
    if not name:
        return {}
    config = hub_file(ref, name, ["config.json"])
    return {"text_cfg": {**text, "hf_model_name": str(config.parent), "hf_model_pretrained": False}}


def _tokenizer(ref: str, text: dict[str, Any], directory: Path | None) -> Tokenizer:
    """The tokenizer that a `text_cfg` names, its files from the directory, or else from the Hub."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    settings = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=length, **settings)
    directory = directory or hub_files(ref, name, TOKENIZER_FILES)
    settings["trust_remote_code"] = False  # whatever the config says
    try:
        return HFTokenizer(str(directory), context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **settings)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{ref}: there is no usable tokenizer in {directory}: {str(error)[:200]}") from error
