"""The tour's section on captioning: a transformer decoder learns to name emoji."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opsin.captioning.evaluation import Evaluation, evaluate_all
from opsin.captioning.inference import Captioner
from opsin.captioning.metrics import is_exact_match
from opsin.captioning.pictures import attention_by_word, captions_figure
from opsin.captioning.recipes import emoji
from opsin.captioning.train import train_captioner
from opsin.progress import Progress
from opsin.report import MEASURED, REPEAT, Picture, Section, Table, spread
from opsin.training.curves import learning_curves
from opsin.training.run import TrainReport

SHIPPED = "emoji-captioner"
"""The model of the package, which the same recipe trained for longer than a tour can."""
SHOWN = 8
"""Pictures of each kind, right and wrong."""


def captioning_section(directory: Path, minutes: float, progress: Progress | None) -> Section:
    """Train by time budget, then show curves, right and wrong captions, and where the decoder looked for each word."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = emoji()
    training = dataclasses.replace(recipe.training, epochs=None, max_steps=None, max_minutes=minutes)
    report = train_captioner(dataclasses.replace(recipe, training=training), directory, progress=progress)
    beginner = evaluate_all(Captioner.from_pretrained(report.model))
    captioner = Captioner.from_pretrained(SHIPPED)
    unseen, other_style = evaluate_all(captioner)
    return Section(
        title="Image captioning",
        introduction=(
            "A transformer decoder over a small image encoder, both from scratch, learned to write the names of emoji "
            "word by word. Of a tenth of them it saw one drawing style only: can it name them in the other? And what "
            "does it say about emoji that it never saw? The short training of the tour shows how it begins; the "
            f"pictures are of {SHIPPED}, which comes with the package and was trained by the same recipe for ten "
            "minutes."
        ),
        table_title=MEASURED,
        table=Table(("what", "result", "how"), _rows(captioner, report, beginner, (unseen, other_style))),
        pictures=_pictures(directory, captioner, unseen, other_style),
        commands_title=REPEAT,
        commands=[
            f"opsin train captioner --recipe emoji --max-minutes {minutes:g} --out runs/captions",
            "opsin evaluate runs/captions",
            f"opsin caption PICTURES --model {SHIPPED} --attention pictures/",
        ],
        limits=(
            "One seed. Many names cannot be guessed from a picture that was never "
            "seen: of a flag, for example, only the colours show. BLEU-4 counts runs of four words, which few names "
            "have; texts are cut into words by opsin's own rules, so scores compare only among themselves."
        ),
    )


def _rows(
    captioner: Captioner,
    report: TrainReport[Any],
    beginner: Sequence[Evaluation],
    shipped: Sequence[Evaluation],
) -> list[tuple[str, str, str]]:
    parameters = sum(parameter.numel() for parameter in captioner.model.parameters())
    rows = []
    for kind, place in (("seen in the other style only", 1), ("never seen", 0)):
        for maker, evaluations in ((f"after {report.seconds / 60:.1f} minutes", beginner), (SHIPPED, shipped)):
            metrics = evaluations[place].result.metrics
            how = f"{metrics.count} drawings, {evaluations[place].beams} beams; BLEU-4 is of 1, CIDEr-D of 10"
            scores = f"{metrics.exact_match:.1%}, BLEU-4 {metrics.bleu4:.3f}, CIDEr-D {metrics.cider_d:.2f}"
            rows.append((f"exact name, emoji {kind}, {maker}", scores, how))
    return [
        *rows,
        (
            "training",
            f"{report.seconds / 60:.1f} minutes",
            f"{report.steps} steps, {report.num_train} drawings, {len(report.splits.vocabulary)} words",
        ),
        (
            "network",
            f"{parameters / 1e6:.2f} M parameters",
            f"encoder and decoder, on {captioner.preprocessing.image_size} x {captioner.preprocessing.image_size} "
            "pixels, recipe emoji",
        ),
    ]


def _pictures(directory: Path, captioner: Captioner, unseen: Evaluation, other_style: Evaluation) -> list[Picture]:
    looked = [unseen.image(place) for place in spread(range(len(unseen.ids)), 4)]
    return [
        Picture(
            learning_curves(directory / "metrics.jsonl", "cider_d", "CIDEr-D", train_loss="caption_loss"),
            "Learning curves of the short training; CIDEr-D is measured on emoji that are held out for it.",
        ),
        Picture(
            _right_and_wrong(other_style),
            "Emoji seen in training in the other style only: right names (blue), and wrong ones (orange).",
        ),
        Picture(_right_and_wrong(unseen), "Emoji never seen in training: right names (blue), and wrong ones (orange)."),
        Picture(
            attention_by_word(looked, captioner.caption(looked, attention=True)),
            "Where the decoder looked, word by word, on emoji never seen: bright patches count more for the word.",
        ),
    ]


def _right_and_wrong(evaluation: Evaluation) -> Figure:
    result = evaluation.result
    exact = [is_exact_match(own.text, texts) for own, texts in zip(result.captions, result.references, strict=True)]
    right, wrong = ([place for place, is_right in enumerate(exact) if is_right is kind] for kind in (True, False))
    places = [*spread(right, SHOWN), *spread(wrong, SHOWN)]
    return captions_figure(
        [evaluation.image(place) for place in places],
        [result.captions[place].text for place in places],
        [result.references[place] for place in places],
    )
