"""`opsin generate "PROMPT"`: pictures of a prompt."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from opsin.cli.options import Bounds, Flag, ModelOptions, UsageError, parse, seeded_generator
from opsin.cli.output import note, note_unlike, show

if TYPE_CHECKING:
    import torch

    from opsin.diffusion.drawings import Generation
    from opsin.diffusion.inference import TextToImage

DESCRIPTION = "Draw pictures of a prompt, or of several, with a diffusion model, into one picture and a file each."
MAX_SCALE = 64
MAX_IMAGES = 100_000


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions):
    """Options of `opsin generate`."""

    FIRST = ("out", "model", "num_images", "guidance", "steps")

    prompts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT", help_behavior_hint="(at least one)")
    ]
    """What to draw; an empty one asks for nothing in particular."""
    out: Path = Path("drawn.png")
    """The picture to write, as PNG; each drawing also becomes a file beside it, OUT-1.png and so on. What is there
    under these names is replaced."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "emoji-diffusion"
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME. The one that ships,
    emoji-diffusion, knows emoji and nothing else."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="REF")] = None
    """Where the text encoder is that the model was trained with, if it has been moved since."""
    num_images: Annotated[int, Bounds(most=MAX_IMAGES), tyro.conf.arg(aliases=["-n"])] = 5
    """Drawings of each prompt."""
    guidance: Annotated[float, Bounds(-1e6, 1e6)] = 2.0
    """How much the prompt counts: 0 is the plain model, -1 does not look at the prompt."""
    steps: Annotated[int | None, Bounds()] = None
    """Evaluations of the network for each drawing; by default 20, or all time steps of a model that has fewer."""
    sampler: Literal["ddpm", "ddim", "dpm-solver", "unipc"] = "dpm-solver"
    """How to get from one step to the next."""
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    """Which steps of the noise schedule are taken."""
    threshold: Literal["static", "dynamic"] = "static"
    """Clip what is out of range, or scale it down, against glaring colours under strong guidance."""
    seed: int = 0
    """Decides what is drawn."""
    scale: Annotated[int, Bounds(most=MAX_SCALE)] = 1
    """Enlarge each image file by this whole number, each pixel becoming a square (nearest neighbor)."""
    filmstrip: Flag = False
    """Also draw how the pictures came about, into OUT-filmstrip.png."""
    image: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Begin at this image instead of at noise, cut to the square in its middle and reduced; see --strength."""
    strength: Annotated[float | None, Bounds(above=0, most=1), tyro.conf.arg(metavar="FLOAT")] = None
    """With --image: the share of the way from noise to picture that is gone, from above 0 (keeps the image) to 1,
    which leaves nothing of it but what --mask keeps; by default 0.6, and 1 with --mask."""
    mask: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --image: only what is white here may change; cut and reduced as the image is."""
    interpolate: Flag = False
    """Draw the way from the first of two prompts to the second."""


def main(argv: list[str]) -> int:
    """Run `opsin generate`; returns the exit code."""
    options = parse(GenerateOptions, argv, "opsin generate", DESCRIPTION)
    _refuse_senseless(options)
    from opsin.diffusion.inference import TextToImage
    from opsin.diffusion.pictures import drawing_paths, save_drawings

    strip = options.out.with_name(f"{options.out.stem}-filmstrip.png") if options.filmstrip else None
    count = options.num_images * (1 if options.interpolate else len(options.prompts))
    drawings = [options.out, *drawing_paths(options.out, count)]
    _refuse_own_input(options, drawings)
    _refuse_impossible_places([*drawings, *([strip] if strip else [])])
    generator = seeded_generator(options.seed)
    model = TextToImage.from_pretrained(
        options.model, device=options.device, precision=options.precision, text_encoder=options.text_encoder
    )
    generations = _drawn(model, options, generator)
    note_unlike(model, options.model, None, options.quiet)
    drawn = save_drawings(generations, options.out, model=options.model, scale=options.scale, filmstrip=strip)
    for remark in drawn.remarks:
        note(remark, options.quiet)
    show(drawn, options.json)
    note(f"pictures: {', '.join(map(str, drawn.pictures))}", options.quiet or options.json)
    return 0


def _refuse_senseless(options: GenerateOptions) -> None:
    if not options.prompts:
        raise UsageError("say what to draw")
    if options.interpolate and len(options.prompts) != 2:
        raise UsageError("--interpolate takes two prompts")
    if options.image is None and (options.mask is not None or options.strength is not None):
        raise UsageError("--mask and --strength are for changing an image; give --image as well")
    if options.out.suffix.lower() != ".png":
        raise UsageError(f"--out writes PNG; give it a name that ends in .png, not {options.out.name!r}")
    if options.filmstrip and (options.interpolate or options.image is not None):
        raise UsageError("--filmstrip is for drawings from noise; leave out --image and --interpolate")
    if options.interpolate and options.image is not None:
        raise UsageError("--interpolate begins at noise; leave out --image")


def _refuse_own_input(options: GenerateOptions, targets: list[Path]) -> None:
    places = {path.resolve() for path in targets}
    for name in ("image", "mask"):
        given = getattr(options, name)
        if given is not None and given.resolve() in places:
            raise UsageError(f"--{name} {given} is a file that the drawings would replace; give --out another name")


def _refuse_impossible_places(targets: list[Path]) -> None:
    """Before anything is drawn, which would be lost."""
    for path in targets:
        if os.path.isdir(path):
            raise UsageError(f"{path} is a directory, and a picture is to be written there; give --out another name")
        above = next(folder for folder in path.absolute().parents if os.path.exists(folder))
        if not above.is_dir():
            raise UsageError(f"{path} cannot be written, because {above} is a file; give --out another name")


def _drawn(model: TextToImage, options: GenerateOptions, generator: torch.Generator) -> list[Generation]:
    from opsin.diffusion.drawings import Sampling

    sampling = Sampling(
        guidance_scale=options.guidance,
        steps=options.steps,
        sampler=options.sampler,
        spacing=options.spacing,
        threshold=options.threshold,
    )
    if options.interpolate:
        first, second = options.prompts
        count = options.num_images
        return [
            model.interpolate(
                first, second, num_images=count, sampling=sampling, generator=generator, progress=options.progress
            )
        ]
    if options.image is not None:
        model.encode_prompts(options.prompts)  # says what cannot be read of all of them, and not of each by itself
        varied: list[Generation] = []
        for prompt in options.prompts:
            with model.watch.paused() if varied else nullcontext():  # it is one image, however many prompts there are
                generation = model.vary(
                    options.image,
                    prompt,
                    strength=options.strength,
                    mask=options.mask,
                    num_images=options.num_images,
                    sampling=sampling,
                    generator=generator,
                    progress=options.progress,
                )
            varied.append(generation)
        return varied
    return model.generate(
        options.prompts,
        num_images=options.num_images,
        sampling=sampling,
        generator=generator,
        trajectory=options.filmstrip,
        progress=options.progress,
    )
