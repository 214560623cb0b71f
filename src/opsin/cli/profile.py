"""`opsin profile`: parameters and operations of a model, in total and part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import note, print_json, print_table
from opsin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from opsin.captioning.inference import Captioner

DESCRIPTION = (
    "Count the parameters of a model and its operations for one image: multiply-accumulates (MACs), and floating-point "
    "operations (FLOPs), of which a MAC is two. Matrix products, convolutions and attention are counted; element-wise "
    "work is not."
)


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(SharedOptions):
    """Options of `opsin profile`."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run or model directory, the name of a model that ships with opsin, imagenet, or hf-hub:ORG/NAME."""


class Example(NamedTuple):
    """A network with the input of one image, in tensors and in words; `size` is what the JSON document says of it."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    words: str
    size: dict[str, Any]


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    options = parse(ProfileOptions, argv, "opsin profile", DESCRIPTION)
    from opsin.checkpoint import IMAGENET, names_imagenet, read_model_config, resolve_model

    is_imagenet = names_imagenet(options.model)
    kind = IMAGENET if is_imagenet else str(read_model_config(resolve_model(options.model))["kind"])
    if kind not in EXAMPLES:
        raise CheckpointError(f"{options.model} is a model of kind {kind!r}, which this verb does not know")
    from opsin.profile import profile_model

    example = EXAMPLES[kind](options.model)
    profile = profile_model(example.network, *example.inputs)
    if options.json:
        print_json({"model": options.model, **example.size, **asdict(profile)})
        return 0
    rows = [(part.name, part.parameters, part.macs, part.flops) for part in (*profile.parts, profile)]
    header = ("part", "parameters", "MACs per image", "FLOPs per image")
    print_table(header, rows, title=f"{options.model}, {example.words}")
    counts = [
        f"{profile.parameters / 1e6:.2f} M parameters",
        f"{profile.macs / 1e9:.3f} GMACs ({profile.flops / 1e9:.3f} GFLOPs) per image",
    ]
    if profile.element_wise:
        both = (profile.macs + profile.element_wise) / 1e9
        counts.append(f"{both:.2f} GMACs with batch norms and pooling, as the profiler thop counts them")
    note(", ".join(counts), options.quiet)
    return 0


def _classifier(model: str) -> Example:
    import torch

    from opsin import Classifier

    classifier = Classifier.from_pretrained(model, device="cpu")
    size = classifier.preprocessing.image_size
    image = torch.zeros(1, 3, size, size)
    return Example(classifier.model, (image,), f"{size} x {size} pixels", {"input": list(image.shape)})


def _captioner(model: str) -> Example:
    """One caption of the usual length, all of its words in one pass: writing it takes no more with a cache."""
    import torch

    from opsin import Captioner

    captioner = Captioner.from_pretrained(model, device="cpu")
    if captioner.frozen_encoder is not None:
        image, text = _frozen_features(captioner), f"features of {captioner.frozen_encoder}, which is not counted"
    elif captioner.feature_dim is not None:
        image, text = torch.zeros(1, captioner.feature_dim), f"{captioner.feature_dim} features"
    else:
        size = captioner.preprocessing.image_size
        image, text = torch.zeros(1, 3, size, size), f"{size} x {size} pixels"
    words = torch.full((1, captioner.model.decoder.max_length), captioner.model.decoder.null_index)
    size_of_input = {"input": list(image.shape), "caption_length": words.shape[1]}
    return Example(captioner.model, (image, words), f"{text}, a caption of {words.shape[1]} words", size_of_input)


def _frozen_features(captioner: Captioner) -> Tensor:
    """What the frozen encoder makes of an image."""
    from PIL import Image

    from opsin.encoders.features import image_features

    return image_features(captioner.load_frozen_encoder(), [Image.new("RGB", (64, 64))])[0]


def _text_to_image(model: str) -> Example:
    """One evaluation of the network, of which a drawing takes one a step, and two with guidance."""
    import torch

    from opsin import TextToImage

    loaded = TextToImage.from_pretrained(model, device="cpu")
    image = torch.zeros(1, 3, loaded.image_size, loaded.image_size)
    words = f"{loaded.image_size} x {loaded.image_size} pixels, one evaluation"
    network = loaded.model.diffusion.model
    assert network is not None
    return Example(network, (image, torch.zeros(1, dtype=torch.int64)), words, {"input": list(image.shape)})


def _clip(model: str) -> Example:
    """One image and one text of the greatest length."""
    import torch

    from opsin.encoders.local_clip import LocalClipEncoder

    encoder = LocalClipEncoder.from_pretrained(model, "cpu")
    size, length = encoder.preprocessing.image_size, encoder.tokenizer.max_length
    inputs = (torch.zeros(1, 3, size, size), torch.ones(1, length, dtype=torch.int64))
    words = f"{size} x {size} pixels, a text of {length} tokens"
    return Example(encoder.model, inputs, words, {"input": list(inputs[0].shape), "text_length": length})


def _simclr(model: str) -> Example:
    import torch

    from opsin import SimclrEncoder

    encoder = SimclrEncoder.from_pretrained(model, device="cpu")
    size = encoder.preprocessing.image_size
    image = torch.zeros(1, 3, size, size)
    return Example(encoder.model, (image,), f"{size} x {size} pixels", {"input": list(image.shape)})


def _imagenet(model: str) -> Example:
    import torch

    from opsin.encoders.imagenet import CROP, load_network

    image = torch.zeros(1, 3, CROP, CROP)
    return Example(load_network(), (image,), f"{CROP} x {CROP} pixels", {"input": list(image.shape)})


EXAMPLES: dict[str, Callable[[str], Example]] = {
    "vit-classifier": _classifier,
    "captioner": _captioner,
    "text-diffusion": _text_to_image,
    "clip": _clip,
    "simclr": _simclr,
    "imagenet": _imagenet,
}
