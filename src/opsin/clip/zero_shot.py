"""Labels for images without training: each label is a text, and an image gets those that its features are nearest to.

"Learning Transferable Visual Models From Natural Language Supervision", Radford et al. 2021, section 3.1, with its
ensembles of prompts (3.1.4). Beyond the paper, there is a class for images that no label fits, made of texts that fit
any image, and the scale of the probabilities can be fitted to labelled images.

Dimensions: N images, K classes, D width of the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.clip.retrieval import cosine_similarity
from opsin.data.unread import Unread, examples, warn_of_unread
from opsin.encoders.base import ImageTextEncoder, TokenEncoder, input_size
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike, ImageReader, StoredImage
from opsin.names import name_key
from opsin.progress import Progress, tracked
from opsin.results import Answers, Classification
from opsin.training.metrics import expected_calibration_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}")
NULL_PROMPTS = ("a photo", "a picture", "an image", "a picture of something", "an image of something else")
"""Texts that say nothing about an image: one that they fit better than every label is of another kind."""


@dataclass(frozen=True)
class ZeroShotClassification(Classification):
    """The most probable labels of one image, best first."""

    cosines: tuple[float, ...]
    """Of the image's features with those of each label."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotAnswers(Answers[ZeroShotClassification]):
    """The labels of images."""

    def figure(self) -> Figure:
        """The first images above bars of their labels."""
        from opsin.clip.pictures import MOST_IMAGES, zero_shot_figure

        return zero_shot_figure(self.files[:MOST_IMAGES], self.answers[:MOST_IMAGES])


@dataclass(frozen=True)
class Calibration:
    """What fitting the logit scale changed, on the `count` images that it was fitted to.

    `loss` is the mean cross-entropy in nats, `ece` the expected calibration error in 15 bins; both are pairs, before
    and after.
    """

    count: int
    logit_scale: float
    loss: tuple[float, float]
    ece: tuple[float, float]


class ZeroShotClassifier:
    """An encoder of images and texts with labels. `labels` are its classes in order; with `other`, that is the last."""

    def __init__(
        self,
        encoder: ImageTextEncoder,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        other: str | None = None,
        null_prompts: Sequence[str] = NULL_PROMPTS,
        logit_scale: float | None = None,
    ) -> None:
        """Labels are put into the templates at `{}`; a mapping gives the words that stand there for each label.

        `other` names a class for images that no label fits better than `null_prompts`, which are used as they are.
        `logit_scale` is the factor on cosines before the softmax, by default the encoder's. A warning is logged about
        labels that the encoder cannot read as a whole, where that can be told. Raises ConfigError for fewer than two
        classes, labels that are empty or the same but for case, or that the encoder reads as the same or cannot read at
        all, a template without `{}`, and a scale that is not above zero.
        """
        if isinstance(labels, str):
            raise ConfigError(f"labels are a list; write [{labels!r}] for a single one")
        check_labels(list(labels), other)
        words = labels if isinstance(labels, Mapping) else {label: (label,) for label in labels}
        if isinstance(templates, str) or not templates:
            raise ConfigError("templates are a list with at least one text, such as 'a photo of {}'")
        for template in templates:
            if "{}" not in template:
                raise ConfigError(f"the template {template!r} has no {{}}, where the label belongs")
        self.encoder = encoder
        self.templates = tuple(templates)
        self.other = other
        self.logit_scale = encoder.logit_scale if logit_scale is None else logit_scale
        if not 0 < self.logit_scale < float("inf"):
            raise ConfigError(f"logit_scale must be above zero, not {self.logit_scale}")
        prompts = {label: self._prompts(label, texts) for label, texts in words.items()}
        if isinstance(encoder, TokenEncoder):
            _check_what_is_read(encoder, words, prompts)
        if other is not None:
            prompts[other] = tuple(null_prompts)
        self.prompts: dict[str, tuple[str, ...]] = prompts
        self.labels = tuple(prompts)
        self.label_features = self._encode_labels()

    def _prompts(self, label: str, texts: Sequence[str]) -> tuple[str, ...]:
        if isinstance(texts, str) or not texts or not all(text.strip() for text in texts):
            raise ConfigError(f"the words for the label {label!r} must be a list of texts, none of them empty")
        return tuple(template.replace("{}", text) for text in texts for template in self.templates)

    def _encode_labels(self) -> Tensor:
        """(K, D): of each label the mean of its prompts' features of length one, brought to length one again."""
        features = self.encoder.encode_text([text for prompts in self.prompts.values() for text in prompts])
        parts = features.split([len(prompts) for prompts in self.prompts.values()])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)

    def cosines(self, images: Iterable[ImageLike]) -> Tensor:
        """Cosines (N, K) float32 of at least one image with each label. Raises DataError for a broken image, ValueError
        without any."""
        return cosine_similarity(self.encoder.encode_image(images), self.label_features)

    def probabilities(self, cosines: Tensor) -> Tensor:
        """softmax(logit_scale * cosines) over the labels, (N, K)."""
        return (self.logit_scale * cosines).softmax(dim=1)

    def classify(self, images: Iterable[ImageLike], *, top_k: int = 5) -> list[ZeroShotClassification]:
        """The `top_k` labels of each image (paths, PIL images or arrays); raises as `cosines` does."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        cosines = self.cosines(images)
        values, indices = self.probabilities(cosines).topk(min(top_k, len(self.labels)), dim=1)
        nearest = cosines.gather(1, indices)
        return [
            ZeroShotClassification(tuple(self.labels[index] for index in row), tuple(probabilities), tuple(near))
            for row, probabilities, near in zip(indices.tolist(), values.tolist(), nearest.tolist(), strict=True)
        ]

    def classify_files(
        self,
        files: Sequence[Path | StoredImage],
        *,
        model: str,
        top_k: int = 5,
        progress: Progress | None = None,
    ) -> ZeroShotAnswers:
        """The `top_k` labels of each file that can be read; see `opsin.sources.opening.list_inputs`.

        `model` is what the result calls the encoder. Raises DataError when no file can be read, and Cancelled.
        """
        reader = ImageReader(files, input_size(self.encoder))
        try:
            answers = self.classify(tracked(reader, progress, "classifying", len(files)), top_k=top_k)
        except ValueError:
            reader.refuse_unread()
            raise
        details = {"labels": self.labels, "templates": self.templates, "logit_scale": self.logit_scale}
        return ZeroShotAnswers.gather(reader, answers, model=model, column="labels", details=details)

    def calibrate(self, images: Iterable[ImageLike], labels: Sequence[str]) -> Calibration:
        """Set `logit_scale` to what makes the probabilities fit images with these labels best; ranks stay as they are.

        Raises ConfigError for a label that this classifier does not have, ValueError when there are not as many labels
        as images, or none.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        if unknown := [label for label in labels if label not in places]:
            raise ConfigError(f"{unknown[0]!r} is none of the labels; they are {', '.join(self.labels)}")
        truth = torch.tensor([places[label] for label in labels])
        cosines = self.cosines(images)
        if len(cosines) != len(truth):
            raise ValueError(f"there are {len(cosines)} images and {len(truth)} labels")
        before = self._fit(cosines, truth)
        self.logit_scale = fit_logit_scale(cosines, truth)
        after = self._fit(cosines, truth)
        return Calibration(len(truth), self.logit_scale, (before[0], after[0]), (before[1], after[1]))

    def _fit(self, cosines: Tensor, truth: Tensor) -> tuple[float, float]:
        loss = float(F.cross_entropy(self.logit_scale * cosines, truth))
        return loss, expected_calibration_error(self.probabilities(cosines), truth)


def check_labels(labels: Sequence[str], other: str | None = None) -> None:
    """Raises ConfigError unless these and `other` make at least two classes that texts can tell apart."""
    names = [*labels] if other is None else [*labels, other]
    seen: set[str] = set()
    for name in names:
        if not name.strip():
            raise ConfigError("a label is empty; give each a word or more")
        if name_key(name) in seen:
            raise ConfigError(f"the label {name!r} is there twice; each image would get half of it")
        seen.add(name_key(name))
    if not labels or len(names) < 2:
        have = f"only {names[0]!r} is given" if names else "none is given"
        raise ConfigError(f"telling images apart takes at least two labels, or one and a class for all else; {have}")


def _check_what_is_read(
    encoder: TokenEncoder, words: Mapping[str, Sequence[str]], prompts: Mapping[str, Sequence[str]]
) -> None:
    """Warn of labels that are not read as a whole; ConfigError when none can be read, or two are the same."""
    unreadable = set(encoder.unread([text for texts in words.values() for text in texts]).unreadable)
    unread = encoder.unread([text for texts in prompts.values() for text in texts])
    cut = set(unread.cut)
    lost = tuple(label for label, texts in words.items() if unreadable.issuperset(texts))
    shortened = tuple(label for label, texts in prompts.items() if not cut.isdisjoint(texts))
    if len(lost) == len(words):
        raise ConfigError(
            f"the text encoder {encoder.name} can read nothing of any label ({examples(lost)}); write the labels in a "
            "language that it was trained on, or use another model"
        )
    tokens = encoder.tokenize([text for texts in prompts.values() for text in texts])
    seen: dict[bytes, str] = {}
    for label, own in zip(prompts, tokens.split([len(texts) for texts in prompts.values()]), strict=True):
        other = seen.setdefault(own.cpu().numpy().tobytes(), label)
        if other != label:
            raise ConfigError(
                f"the text encoder {encoder.name} reads the labels {other!r} and {label!r} as the same, so that it "
                "cannot tell them apart; write one of them in other words"
            )
    report = Unread(len(words), lost, shortened, unread.max_tokens)
    warn_of_unread(report, encoder.name, "label", "the probabilities of such labels say nothing about the images")


SMALLEST_SCALE, LARGEST_SCALE = 1e-2, 1e3
NEAR_LIMIT = 1.01
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_logit_scale(cosines: Tensor, labels: Tensor) -> float:
    """The scale in [0.01, 1000] at which softmax(scale * cosines (N, K)) has the lowest mean cross-entropy with int64
    labels (N,).

    This is temperature scaling ("On Calibration of Modern Neural Networks", Guo et al. 2017, section 4.2), with the
    inverse of their temperature. The loss is convex in the scale, so golden-section search on its logarithm finds the
    one minimum. Images that are all classified right have none: the result is then the largest scale.
    """
    if len(labels) == 0:
        raise ValueError("a logit scale cannot be fitted to no images")
    scores = cosines.double()

    def loss(log_scale: float) -> float:
        return float(F.cross_entropy(scores * math.exp(log_scale), labels))

    low, high = math.log(SMALLEST_SCALE), math.log(LARGEST_SCALE)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    losses = loss(left), loss(right)
    while high - low > 1e-6:
        if losses[0] < losses[1]:
            high, right = right, left
            left = high - GOLDEN * (high - low)
            losses = loss(left), losses[0]
        else:
            low, left = left, right
            right = low + GOLDEN * (high - low)
            losses = losses[1], loss(right)
    return math.exp((low + high) / 2)


def is_fitted(scale: float) -> bool:
    """Whether images decide a scale that `fit_logit_scale` found, which they do not at either of its limits."""
    return SMALLEST_SCALE * NEAR_LIMIT < scale < LARGEST_SCALE / NEAR_LIMIT


def cross_fitted_probabilities(cosines: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Probabilities (N, K) of each half of the images at the scale that fits the other half: what calibration gives on
    images that it has not seen. At least two images are needed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    probabilities = torch.empty_like(cosines)
    halves = order[::2], order[1::2]
    for own, other in (halves, halves[::-1]):
        probabilities[own] = (fit_logit_scale(cosines[other], labels[other]) * cosines[own]).softmax(dim=1)
    return probabilities
