"""`opsin caption IMAGES…`: a sentence for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opsin.cli.options import Bounds, ModelOptions, UsageError, parse, seeded_generator
from opsin.cli.output import AnswerPrinter, note, note_unlike
from opsin.counts import number_of
from opsin.files import atomic_write
from opsin.sources.exclusion import Patterns

if TYPE_CHECKING:
    from opsin.captioning.inference import Caption, Captioner, Decoding
    from opsin.images.opening import StoredImage

DESCRIPTION = (
    "Describe images with a trained captioner. With --json the result is one JSON document; with --json and a "
    "directory or another data source among IMAGES it is JSON Lines, one object an image, each printed as soon as it "
    "is written."
)


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ModelOptions):
    """Options of `opsin caption`."""

    FIRST = ("model", "beams", "top_p", "attention", "sidecar", "json")

    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(at least one)")
    ]
    """Image files, directories of images, and other data sources: emoji, cifar10, coco:DIR, tables, parquet files and
    archives."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "emoji-captioner"
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME. The one that
    ships, emoji-captioner, knows emoji and nothing else."""
    beams: Annotated[int, Bounds()] = 3
    """Unfinished captions that the search keeps for each image; 1 takes the most probable word at each step."""
    length_penalty: Annotated[float, Bounds(-10, 10)] = 1.0
    """Captions are compared by log-probability divided by length to this power: more than 1 prefers longer ones."""
    min_length: Annotated[int, Bounds(0)] = 1
    """Words before a caption may end."""
    max_length: Annotated[int | None, Bounds()] = None
    """Words at most, the end counted as one; by default as many as the model can write."""
    no_repeat_ngram: Annotated[int, Bounds(0)] = 0
    """No run of so many words may occur twice in a caption; 0 allows it."""
    top_p: Annotated[float | None, Bounds(above=0, most=1)] = None
    """Draw each word at random from the most probable ones, whose probabilities sum to this (nucleus sampling). Takes
    the place of --beams."""
    temperature: Annotated[float, Bounds(above=0)] = 1.0
    """With --top-p: below 1 probable words become more probable, above 1 less."""
    seed: int = 0
    """With --top-p: decides what is drawn."""
    attention: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also draw, for each image and word by word, where the model looked, into this directory."""
    sidecar: bool = False
    """Also write each caption into a text file beside its image: photo.txt beside photo.jpg, as soon as it is known. A
    text that is there already stays as it is."""
    overwrite: bool = False
    """With --sidecar: replace the texts that are there already."""
    batch_size: Annotated[int, Bounds()] = 32
    """Images that go through the model together; fewer need less memory."""


def main(argv: list[str]) -> int:
    """Run `opsin caption`; returns the exit code."""
    options = parse(CaptionOptions, argv, "opsin caption", DESCRIPTION)
    _refuse_senseless(options)
    from opsin.captioning.inference import Captioner
    from opsin.images.opening import StoredImage
    from opsin.sources.opening import list_inputs

    files = list_inputs(options.images, options.exclude)
    captioner = Captioner.from_pretrained(options.model, device=options.device, precision=options.precision)
    has_several = any(path.is_dir() for path in options.images) or any(isinstance(f, StoredImage) for f in files)
    printer = AnswerPrinter("caption", files, as_json=options.json, as_lines=has_several)
    sidecars = Sidecars(files, overwrite=options.overwrite) if options.sidecar else None

    def each(file: Path | StoredImage, caption: Caption) -> None:
        if sidecars is not None:
            sidecars.write(file, caption.text)
        printer.each(file, caption)

    found = captioner.caption_files(
        files,
        model=options.model,
        decoding=_decoding(options, captioner),
        attention=options.attention is not None,
        batch_size=options.batch_size,
        progress=options.progress,
        each=each,
    )
    printer.end(found)
    if sidecars is not None:
        note(sidecars.sentence(), quiet=options.quiet)
    described = options.model
    watched: object = captioner
    if captioner.content.frozen_encoder is not None:
        described, watched = captioner.content.frozen_encoder, captioner.load_frozen_encoder()
    note_unlike(watched, described, "opsin train captioner --frozen-encoder imagenet", options.quiet)
    if options.attention is not None:  # after the answers: a picture that cannot be written does not cost them
        from opsin.captioning.pictures import save_attention_pictures

        save_attention_pictures(found.files, found.answers, options.attention)
        note(f"attention pictures: {options.attention}", quiet=options.quiet)
    return 0


class Sidecars:
    """Text files beside images, each with one caption: the layout that `opsin train captioner` reads as well."""

    def __init__(self, files: Sequence[Path | StoredImage], *, overwrite: bool) -> None:
        """Raises UsageError where an image is no file of its own, so that there is no place beside it."""
        for file in files:
            if not isinstance(file, Path):
                raise UsageError(
                    f"--sidecar writes beside image files, and {file} is stored inside another file; give files or "
                    "directories, or save the captions with --json"
                )
        self.overwrite = overwrite
        self.taken = set(files)  # an image may have the suffix of a text, and is never replaced by one
        self.written = 0
        self.kept = 0

    def write(self, image: Path | StoredImage, text: str) -> None:
        """Write the text of an image, unless one is there that has to stay.

        Of images that differ in their suffix only, such as a.jpg and a.png, the first has the text. Raises
        CheckpointError when the file cannot be written.
        """
        path = Path(str(image)).with_suffix(".txt")
        if path in self.taken or (not self.overwrite and os.path.lexists(path)):
            self.kept += 1
            return
        with atomic_write(path) as file:
            file.write(f"{text}\n".encode())
        self.taken.add(path)
        self.written += 1

    def sentence(self) -> str:
        """What was written, and what was there already."""
        way = "" if self.overwrite else "; --overwrite replaces texts of before"
        kept = f", and {number_of(self.kept, 'image')} had one already{way}" if self.kept else ""
        return f"wrote {number_of(self.written, 'text')} beside the images{kept}"


def _refuse_senseless(options: CaptionOptions) -> None:
    if not options.images:
        raise UsageError("name at least one image or a directory of images")
    if options.overwrite and not options.sidecar:
        raise UsageError("--overwrite is for the texts that --sidecar writes; give --sidecar as well")
    if options.top_p is None and options.temperature != 1:
        raise UsageError("--temperature is for words drawn at random; give --top-p as well")


def _decoding(options: CaptionOptions, captioner: Captioner) -> Decoding:
    from opsin.captioning.decoding import Limits
    from opsin.captioning.inference import Decoding, Sampling

    sampling = None
    if options.top_p is not None:
        generator = seeded_generator(options.seed)
        sampling = Sampling(generator=generator, top_p=options.top_p, temperature=options.temperature)
    limits = Limits(
        min_length=options.min_length,
        max_length=captioner.model.decoder.max_length if options.max_length is None else options.max_length,
        no_repeat_ngram=options.no_repeat_ngram,
    )
    return Decoding(beams=options.beams, length_penalty=options.length_penalty, limits=limits, sampling=sampling)
