"""What a text-to-image model is asked to draw when it is judged, and the real images to hold its drawings against.

Dimensions: N images, M names, D width of the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from opsin.data.datasets import numbered
from opsin.data.pixels import load_pixels
from opsin.data.splits import SplitSource
from opsin.data.unread import warn_of_unread
from opsin.diffusion.config import DiffusionConfig
from opsin.encoders.base import ImageTextEncoder, unread_texts
from opsin.errors import ConfigError, DataError
from opsin.images.opening import Skipped
from opsin.pretrained import RunRecord
from opsin.progress import Progress, tracked
from opsin.runtime import derive_seed
from opsin.sources.image_source import SPLITS, ImageSource
from opsin.sources.opening import exclude_images, is_same_source

TRAIN, HELD_OUT, OTHER = "train", "held_out", "other"
SPOKEN = {TRAIN: "training", HELD_OUT: "held-out", OTHER: "other"}


@dataclass(frozen=True)
class Pictures:
    """uint8 (N, 3, S, S), features (N, D) of length one, and the number of each one's name, int64 (N,)."""

    pixels: np.ndarray
    features: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, rows: np.ndarray) -> Pictures:
        return Pictures(self.pixels[rows], self.features[rows], self.names[rows])


@dataclass(frozen=True)
class Part:
    """The numbers of the names that are asked for, the real images of these, and the features of all its images."""

    prompts: np.ndarray
    real: Pictures
    reference: np.ndarray


@dataclass(frozen=True)
class Exam:
    """The same for every way of drawing.

    `parts` are `train` and `held_out` on the source that the model was trained on, where a held-out prompt is no
    caption of any training image; another source has `other` only. `training` has every training image once, also where
    two of them are alike in every pixel; it is None on another source, and of a single image, which has no distance to
    its nearest other one to measure copies by.
    """

    data: str
    split: str | None
    names: tuple[str, ...]
    name_features: np.ndarray
    parts: dict[str, Part]
    training: Pictures | None
    num_samples: int
    seed: int
    skipped: tuple[Skipped, ...]
    digest: str
    """SHA-256 of all names and images, and of what is asked for."""

    @property
    def prompts(self) -> dict[str, list[str]]:
        """What is asked for, part by part."""
        return {name: [self.names[number] for number in part.prompts] for name, part in self.parts.items()}

    @property
    def protocol(self) -> str:
        """What is asked for in a line."""
        counts = " and ".join(f"{len(part.prompts)} {SPOKEN[name]}" for name, part in self.parts.items())
        nothing_held_out = self.split is None and list(self.parts) == [TRAIN]
        missing = " (no prompt is held out from training, so nothing here is new to it)" if nothing_held_out else ""
        elsewhere = " (held out from this network; its text encoder and the judge may have seen them)"
        caveat = elsewhere if HELD_OUT in self.parts else missing
        return f"{counts} prompts of {self.data!r}{caveat}, {self.num_samples} drawings each, seed {self.seed}"


def open_exam(
    made_by: RunRecord[DiffusionConfig] | None,
    encoder: ImageTextEncoder,
    image_size: int,
    *,
    data: str | None = None,
    split: str | None = None,
    num_prompts: int = 48,
    num_samples: int = 2,
    seed: int = 0,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Exam:
    """Choose at most `num_prompts` names of each part, at random but always the same.

    `made_by` is the run that made the model, None where nobody knows. Images are seen at its `image_size`, as
    its drawings are. A prompt is the first caption of an image, and the first captions of all images are the names it
    is sought among. `exclude` are patterns of images to leave out, besides those that the run has left out.

    Raises DataError when the source cannot be used or has no such split, ConfigError for numbers below one.
    """
    if num_prompts < 1 or num_samples < 1:
        raise ConfigError(f"prompts ({num_prompts}) and samples ({num_samples}) must be at least 1")
    run, ref, kept = _open(made_by, data, exclude)
    source = run.source
    rows, training_rows = choose_parts(run, ref, split)
    if kept is not None:
        rows = {name: np.array([row for row in of_part if source.ids[row] in kept]) for name, of_part in rows.items()}
    names = tuple(dict.fromkeys(_first_captions(source)))
    used = np.unique(np.concatenate([*rows.values(), training_rows]))
    readable, pixels = load_pixels(numbered(source).select(used), image_size)
    features = encode(encoder, tracked(as_images(pixels), progress, "encoding real images", len(pixels)))
    pictures = Pictures(pixels, features, _numbers_of_names(readable, names))
    places = readable.labels
    assert places is not None
    parts = {
        name: _choose_prompts(pictures.select(np.isin(places, own_rows)), num_prompts, derive_seed(seed, name))
        for name, own_rows in rows.items()
        if np.isin(places, own_rows).any()
    }
    if not parts:
        raise DataError(f"none of the images of {ref!r} that the model is to be judged on can be read")
    training = _without_repeats(pictures.select(np.isin(places, training_rows)))
    digest = _digest(names, readable, pixels, parts)
    effect = "what is not read makes the ranks of drawings worse, whatever they show"
    warn_of_unread(unread_texts(encoder, names), encoder.name, "name", effect)
    return Exam(
        data=ref,
        split=split,
        names=names,
        name_features=encoder.encode_text(list(names)).double().numpy(),
        parts=parts,
        training=training if len(training) > 1 else None,
        num_samples=num_samples,
        seed=seed,
        skipped=tuple(readable.skipped),
        digest=digest,
    )


def choose_parts(run: SplitSource, ref: str, split: str | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of each part of the prompts, none of them empty, and those that the model was trained on, if any.

    `run` has rows of the splits of the model's run, or none for a source that it was not trained on. Held out are the
    images for validation and test, unless their prompt is a caption of a training image.
    """
    source, rows_of = run.source, run.rows
    if not rows_of:
        rows = np.arange(len(source)) if split in (None, "all") else _rows_of_split(source, str(split))
        return {OTHER: rows}, np.zeros(0, dtype=np.int64)
    assert source.captions is not None
    if split not in (None, "all", *SPLITS):
        raise DataError(f"{source.name!r} has no split {split!r}; it has {', '.join(SPLITS)}, all")
    seen = {text for row in rows_of["train"] for text in source.captions[row]}
    wanted = [name for name in rows_of if name != "train" and split in (None, "all", name)]
    held_out = [row for name in wanted for row in rows_of[name] if source.captions[row][0] not in seen]
    parts = {TRAIN: rows_of["train"]} if split in (None, "all", "train") else {}
    if held_out:
        parts[HELD_OUT] = np.array(held_out)
    if not parts and not any(len(rows_of[name]) for name in wanted):
        raise DataError(f"the run that made the model held out no images of the split {split!r} of {ref!r}")
    if not parts:
        raise DataError(f"the split {split!r} of {ref!r} has no prompt that is not a caption of a training image too")
    return parts, rows_of["train"]


def encode(encoder: ImageTextEncoder, images: Iterable[Image.Image]) -> np.ndarray:
    """Features float64 (N, D) of length one."""
    features = encoder.encode_image(images).double().numpy()
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def as_images(pixels: np.ndarray) -> list[Image.Image]:
    """Pictures of uint8 (N, 3, S, S)."""
    return [Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))) for picture in pixels]


def _rows_of_split(source: ImageSource, split: str) -> np.ndarray:
    source.split(split)  # says which splits there are when it is not there
    return np.flatnonzero(source.splits == split)


def _open(
    made_by: RunRecord[DiffusionConfig] | None, data: str | None, exclude: Sequence[str]
) -> tuple[SplitSource, str, set[str] | None]:
    """The source to evaluate on, its name, and the ids that `exclude` leaves of the images of the model's run, where
    that is what they are; another source is not split."""
    own = None if made_by is None else made_by.config
    ref = data or ("" if own is None else own.data)
    if not ref:
        raise DataError("the model does not say what it was trained on; give the captioned images to judge it on")
    if own is None or not is_same_source(ref, own.data):
        other = DiffusionConfig(data=ref, exclude=tuple(exclude)).open(to_train=False)
        return SplitSource(other, {}), ref, None
    run = own.split(to_train=False)
    if run.has_changed(made_by):
        raise DataError(
            f"{ref!r} has other images now than when the model was trained on it, so that it cannot be told which ones "
            "these were; judge it on another source with --data"
        )
    return run, ref, set(exclude_images(run.source, exclude, own.exclude).ids) if exclude else None


def _first_captions(source: ImageSource) -> list[str]:
    assert source.captions is not None
    return [texts[0] for texts in source.captions]


def _numbers_of_names(source: ImageSource, names: Sequence[str]) -> np.ndarray:
    """int64 (N,): the number of each image's first caption."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[name] for name in _first_captions(source)])


def _digest(names: Sequence[str], source: ImageSource, pixels: np.ndarray, parts: Mapping[str, Part]) -> str:
    asked = {name: part.prompts.tolist() for name, part in parts.items()}
    subject = repr((tuple(names), list(source.ids), pixels.shape, asked)).encode()
    return hashlib.sha256(subject + pixels.tobytes()).hexdigest()


def _choose_prompts(pictures: Pictures, most: int, seed: int) -> Part:
    order = np.random.default_rng(seed).permutation(np.unique(pictures.names))
    prompts = np.sort(order[:most])
    return Part(prompts, pictures.select(np.isin(pictures.names, prompts)), pictures.features)


def _without_repeats(pictures: Pictures) -> Pictures:
    first = {picture.tobytes(): row for row, picture in reversed(list(enumerate(pictures.pixels)))}
    return pictures.select(np.array(sorted(first.values()), dtype=np.int64))
