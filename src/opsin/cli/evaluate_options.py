"""What `opsin evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from opsin.cli.options import Bounds, Flag, ModelOptions
from opsin.sources.exclusion import Patterns


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """Options of `opsin evaluate`."""

    FIRST = ("data", "split", "protocol", "zero_shot", "picture")
    RENAMED = {"--protocol=linear-seed": "--protocol=linear-course"}

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME."""
    data: Annotated[str | None, tyro.conf.arg(metavar="SRC")] = None
    """A data source; by default the one that the model was trained on."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times;
    those of the run count for its own source in any case."""
    split: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """train, val, test or all; by default test where there is one, else the images held out from training. Captioners
    that left one style of some emoji out of training also have other-style, and by default both are judged; so may
    models of images and texts, which are judged on one split at a time. A text-to-image model draws prompts of its
    training images and held-out ones by default."""
    zero_shot: Flag = False
    """Of a model of images and texts, which may also be open_clip:ARCHITECTURE/TAG: classify the images of a labelled
    source (--data) by the names of its classes, and say how well that went."""
    template: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """With --zero-shot: a text that is made of each class, its name at {}. Can be given several times."""
    protocol: Literal["knn", "linear", "linear-course", "finetune"] | None = None
    """Evaluate the features of an encoder on a labelled source, beside the same network untrained: by the vote of
    nearest neighbors (what a model of `opsin train simclr` is evaluated by without this option), by logistic
    regression, by the course's linear layer on augmented images, or by training all weights. knn and linear take any
    encoder, such as timm:NAME."""
    train_data: Annotated[str | None, tyro.conf.arg(metavar="SRC")] = None
    """Of --protocol: fit on the labels of this source, and evaluate on --data: on its test or validation split where it
    has one, else on all of it (--split all)."""
    labels_fraction: Annotated[float | None, Bounds(above=0, most=1), tyro.conf.arg(metavar="SHARE")] = None
    """Of --protocol: the share of the labels that are used, evenly from every class. By default 1 for knn, 0.1 for
    linear-course and finetune; for linear 0.1 where that leaves 10 images of most classes, else 1."""
    k: Annotated[int | None, Bounds(), tyro.conf.arg(aliases=["-k"], metavar="INT")] = None
    """Of --protocol knn: how many neighbours vote, all where there are fewer. By default as many as the square root of
    the number of labelled images, 200 at most, and no more than the smallest class has images."""
    temperature: Annotated[float | None, Bounds(above=0), tyro.conf.arg(metavar="FLOAT")] = None
    """Of --protocol knn: what cosines are divided by before they are exponentiated to weights; 0.5 by default."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Also draw into this PNG file: the confusion matrix of a classifier, of --zero-shot and of fine-tuning, nearest
    neighbours for knn, a map of the features for linear, curves for linear-course, the worst captions of a captioner,
    the fidelity of a text-to-image model, whose drawings then are in FILE-nearest.png beside their nearest training
    images."""
    mistakes: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Of a classifier: also draw into this PNG file the images that it is surest of and wrong about."""
    near_duplicates: Flag = False
    """Also look for images that look like training images in another size, format or quality. All of both are decoded
    for it; copies of training images are always looked for."""
    beams: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="INT")] = None
    """Of a captioner: captions that the search keeps for each image; by default as many as in the test of its run."""
    worst: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="N")] = None
    """Of a captioner: how many of the images with the worst captions to list; 5 by default."""
    guidances: Annotated[str | None, tyro.conf.arg(metavar="W,W,…")] = None
    """Of a text-to-image model: guidance scales to draw with, as in `opsin generate`; 2 by default."""
    steps: Annotated[str | None, tyro.conf.arg(metavar="N,N,…")] = None
    """Of a text-to-image model: numbers of steps to draw with; by default 20, or all time steps of a model that has
    fewer."""
    samplers: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME,…")] = None
    """Of a text-to-image model: ddpm, ddim, dpm-solver, unipc; dpm-solver by default. All scales, numbers of steps and
    samplers are combined."""
    prompts: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="N")] = None
    """Of a text-to-image model: how many training prompts to draw, and how many that were held out; 48 by default."""
    samples: Annotated[int | None, Bounds(), tyro.conf.arg(metavar="N")] = None
    """Of a text-to-image model: drawings of each prompt; 2 by default."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Of a text-to-image model: decides which prompts are drawn, and how; of --protocol: which labels are used, and
    what else is left to chance; 0 by default."""
    judge: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Of a text-to-image model: the model of images and texts that looks at the drawings; emoji-clip by default."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="REF")] = None
    """Of a text-to-image model: where the text encoder is that it was trained with, if it has been moved since."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Of a text-to-image model: write the scores into this file as soon as they are known, one way of drawing after the
    other. What it has already is not measured again."""
