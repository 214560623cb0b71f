"""The tour's section on images and texts: what the dual encoder that ships with the package makes of the emoji."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from opsin.clip.data import caption_groups
from opsin.clip.pictures import similarity_figure, zero_shot_figure
from opsin.clip.retrieval import RetrievalPair, cosine_similarity, measure_retrieval
from opsin.clip.zero_shot import ZeroShotClassifier
from opsin.data.captioned import open_captioned
from opsin.encoders.base import ImageTextEncoder
from opsin.encoders.loading import load_image_text
from opsin.pictures import RIGHT, WRONG, cut
from opsin.progress import Progress
from opsin.report import MEASURED, REPEAT, Picture, Section, Table
from opsin.search.index import ImageIndex
from opsin.search.results import SearchResults
from opsin.sources.image_source import ImageSource

MODEL = "emoji-clip"
LABELS = {
    "animal": ("animal", "dog", "cat", "bird", "fish", "insect", "monkey"),
    "building": ("building", "house", "castle", "church", "shop"),
    "clock": ("clock", "clock face", "time", "hour"),
    "clothing": ("clothing", "shirt", "shoe", "hat", "dress"),
    "face": ("face", "happy face", "sad face", "angry face"),
    "flag": ("flag", "flag of a country"),
    "food": ("food", "fruit", "vegetable", "meat", "bread", "cake"),
    "heart": ("heart", "love"),
    "person": ("person", "man", "woman", "child"),
    "plant": ("plant", "flower", "tree", "leaf"),
    "vehicle": ("vehicle", "car", "bus", "train", "ship", "airplane"),
}
"""What the zero-shot classifier is asked for, in the words that each label stands for."""
SUBGROUPS = {
    "animal": ("animal-",),
    "building": ("place-building", "place-religious"),
    "clock": ("time",),
    "clothing": ("clothing",),
    "face": ("face-",),
    "flag": ("country-flag", "subdivision-flag"),
    "food": ("food-",),
    "heart": ("heart",),
    "person": ("person", "family"),
    "plant": ("plant-",),
    "vehicle": ("transport-ground", "transport-air", "transport-water"),
}
"""The true label of an emoji: how the Unicode subgroups of that label begin."""
QUERIES = ("cowboy", "sad cat", "broken heart", "train station", "birthday", "hot drink", "income tax return")
MATRIX = {
    "a cowboy": "1F920",
    "a sad cat": "1F63F",
    "a slice of pizza": "1F355",
    "a heart": "2764-FE0F",
    "a fire truck": "1F692",
    "a man of snow": "26C4",
    "a guitar": "1F3B8",
    "the sun": "2600-FE0F",
}
"""Texts of the similarity matrix with the emoji that they mean; none of them is exactly one of its names."""
HITS = 6


@dataclass(frozen=True)
class _Labelled:
    """Zero-shot labels of the emoji that have one of them: rows of the source, truths (N,) and cosines (N, K)."""

    classifier: ZeroShotClassifier
    rows: np.ndarray
    truths: np.ndarray
    cosines: Tensor

    @property
    def right(self) -> np.ndarray:
        """Which images got their true label, bool (N,)."""
        return self.cosines.argmax(dim=1).numpy() == self.truths


def clip_section(directory: Path, minutes: float, progress: Progress | None) -> Section:
    """Measure the model of the package on all emoji, label them, and search in an index of them, which stays in
    `directory`. Nothing is trained, whatever `minutes` says."""
    shutil.rmtree(directory, ignore_errors=True)
    encoder = load_image_text(MODEL)
    source = open_captioned("emoji")
    features = encoder.encode_image(source.load(row) for row in range(len(source)))
    styles = _retrieval(encoder, source, features)
    labelled = _zero_shot(encoder, source, features)
    index = ImageIndex.create(directory / "index", encoder)
    index.update("emoji", progress=progress)
    found = {query: index.search(query, k=HITS) for query in QUERIES}
    return Section(
        title="Images and texts",
        introduction=(
            f"A dual encoder puts images and texts into one space, where an image lies near the texts that fit it. The "
            f"model {MODEL} comes with the package and was trained before on the two drawings of every emoji and their "
            "names; what it knows is measured here. With it, words find images, and any labels can be given to them."
        ),
        table_title=MEASURED,
        table=Table(("what", "result", "how"), _rows(styles, labelled)),
        pictures=[
            Picture(
                _search_figure(found, index),
                'The first images that words find, of both drawings of all emoji, with their cosines. "No confident '
                'match" says that the best hit does not stand out among so many alike drawings; with this small '
                "model that is so of many a right answer, too.",
            ),
            Picture(
                _label_figure(source, labelled),
                "Labels by words alone, one image for each true label: right in blue, wrong in orange.",
            ),
            Picture(
                _matrix_figure(encoder, source),
                "How alike texts and images are. No text is exactly a name of the emoji that it means, which is on the "
                "diagonal.",
            ),
        ],
        commands_title=REPEAT,
        commands=[
            f"opsin evaluate {MODEL} --split all",
            f'opsin classify PICTURES --model {MODEL} --labels "face,animal,food,flag" --template "{{}}" --other',
            f"opsin index emoji --out emoji.index --model {MODEL}",
            f'opsin search emoji.index "{QUERIES[1]}" --html found.html',
        ],
        limits=(
            "These are the drawings that the model was trained on: the recall says how well it has learned them. Its "
            "model card says how much worse it is on drawing styles that it has never seen. There are no emoji that it "
            "has not seen; the guide on images and texts says what a run that held some out reached on those. "
            "It knows short English names. The truth of the labels follows Unicode's subgroups; a picture with several "
            "people, or a face with a hat, could go by another label as well."
        ),
    )


def _retrieval(encoder: ImageTextEncoder, source: ImageSource, features: Tensor) -> dict[str, RetrievalPair]:
    """Recall of each drawing style apart; the text of an emoji is its first name."""
    assert source.captions is not None
    texts = encoder.encode_text(dict.fromkeys(names[0] for names in source.captions))
    groups = caption_groups(source.captions)
    styles = source.metadata["style"]
    return {
        str(style): measure_retrieval(features[styles == style], texts, groups[styles == style])
        for style in dict.fromkeys(styles.tolist())
    }


def _zero_shot(encoder: ImageTextEncoder, source: ImageSource, features: Tensor) -> _Labelled:
    classifier = ZeroShotClassifier(encoder, LABELS, templates=("{}",))
    place = {beginning: place for place, label in enumerate(LABELS) for beginning in SUBGROUPS[label]}
    truths = np.array(
        [
            next((place[beginning] for beginning in place if subgroup.startswith(beginning)), -1)
            for subgroup in source.metadata["subgroup"].tolist()
        ]
    )
    rows = np.flatnonzero(truths >= 0)
    return _Labelled(classifier, rows, truths[rows], cosine_similarity(features[rows], classifier.label_features))


def _rows(styles: dict[str, RetrievalPair], labelled: _Labelled) -> list[tuple[str, str, str]]:
    rows = []
    for style, pair in styles.items():
        scores = f"{pair.mean_recall(10):.1%}, first {pair.mean_recall(1):.1%}"
        chance = f"{pair.text_to_image.chance[10]:.1%}"
        shown = f"{pair.image_to_text.queries} drawings and their names; by chance {chance} among the first 10"
        rows.append((f"right one among the first 10, {style}", scores, shown))
    largest = float(np.bincount(labelled.truths).max() / len(labelled.truths))
    kinds = f"{len(labelled.rows)} drawings, {len(LABELS)} labels, told by words alone"
    rows.append(("right label", f"{labelled.right.mean():.1%}", kinds))
    rows.append(("always giving the commonest label", f"{largest:.1%}", "the score to beat"))
    return rows


def _label_figure(source: ImageSource, labelled: _Labelled) -> Figure:
    """The middle drawing of every label, some in each style: nothing is picked by hand."""
    kinds = [np.flatnonzero(labelled.truths == place) for place in range(len(LABELS))]
    shown = [
        int(own[len(own) // 2 + place % 2]) for place, own in enumerate(kinds)
    ]  # drawings of an emoji are neighbours
    images = [source.load(int(labelled.rows[index])) for index in shown]
    truths = [list(LABELS)[labelled.truths[index]] for index in shown]
    return zero_shot_figure(images, labelled.classifier.classify(images, top_k=3), truths, columns=6)


def _matrix_figure(encoder: ImageTextEncoder, source: ImageSource) -> Figure:
    rows = {code: row for row, code in enumerate(source.metadata["code"].tolist())}  # of both styles the last one
    images = [source.load(rows[code]) for code in MATRIX.values()]
    cosines = cosine_similarity(encoder.encode_text(MATRIX), encoder.encode_image(images))
    return similarity_figure(cosines.numpy(), images, list(MATRIX))


def _search_figure(found: dict[str, SearchResults], index: ImageIndex) -> Figure:
    """A row for each query: what was asked, whether the answer is confident, and the hits with their cosines."""
    figure = Figure(figsize=(1.3 * HITS + 2.6, 1.45 * len(found)), layout="constrained", dpi=110)
    grid = figure.subplots(len(found), HITS + 1, squeeze=False, width_ratios=[2] + [1] * HITS)
    for row, (query, results) in zip(grid, found.items(), strict=True):
        for axes in row:
            axes.axis("off")
        verdict, colour = ("confident", RIGHT) if results.confident else ("no confident match", WRONG)
        row[0].text(0, 0.6, cut(query, 24), fontsize=12, weight="bold", va="center")
        row[0].text(0, 0.35, verdict, fontsize=10, color=colour, va="center")
        for axes, hit in zip(row[1:], results, strict=False):
            axes.imshow(index.image(hit.id))
            axes.set_title(f"{hit.cosine:.2f}", fontsize=9)
    return figure
