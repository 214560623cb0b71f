"""`opsin profile`: parameters and operations of a model, in total and part by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import note, print_json, print_table

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


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    options = parse(ProfileOptions, argv, "opsin profile", DESCRIPTION)
    from opsin.checkpoint import names_imagenet
    from opsin.classification.inference import Classifier
    from opsin.pretrained import load_model
    from opsin.profile import profile_model

    model = (Classifier.from_pretrained if names_imagenet(options.model) else load_model)(options.model, "cpu")
    example = model.example_inputs()
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
