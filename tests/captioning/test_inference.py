"""What a captioner is asked for at the edges: single paths, long captions, unusable features, nothing held out."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.captioning.config import DecoderConfig, EncoderConfig
from opsin.captioning.evaluation import evaluate_all, evaluate_captioner
from opsin.captioning.inference import Captioner, CaptionerContent
from opsin.captioning.splits import open_splits
from opsin.captioning.train import CaptioningTask, train_captioner
from opsin.captioning.vocabulary import Vocabulary
from opsin.errors import ConfigError, DataError
from opsin.images.preprocessing import Preprocessing
from opsin.training.run import TrainReport
from tests.course_data import write_course_coco

from .conftest import make_captioned_folder, tiny_config

Run = tuple[Path, TrainReport]


def feature_captioner() -> Captioner:
    """For features of width 5, with random weights and a decoder that never ends by itself."""
    vocabulary = Vocabulary.from_texts(["a b c"])
    content = CaptionerContent(
        encoder=EncoderConfig(),
        decoder=DecoderConfig(embed_dim=16, num_layers=1, num_heads=2, max_length=40),
        words=vocabulary.words,
        preprocessing=Preprocessing(image_size=16),
        feature_dim=5,
    )
    torch.manual_seed(0)
    model = Captioner.build(content)
    assert model.decoder.output_bias is not None
    model.decoder.output_bias.data[vocabulary.word_to_idx["<END>"]] = -100.0
    return Captioner(model, content)


def change_run(captioner: Captioner, **settings: Any) -> None:
    """Other settings of the run that made it."""
    run = captioner.run
    assert run is not None
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, **settings))
    captioner.content = dataclasses.replace(captioner.content, run=run)


def test_a_single_image_needs_no_list(colour_run: Run, captioned_folder: Path) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    path = captioned_folder / "red0.png"
    expected = captioner.caption([path])
    assert captioner.caption(str(path)) == captioner.caption(path) == expected
    opened = Image.open(path)
    assert captioner.caption(opened) == captioner.caption(np.asarray(opened)) == expected


def test_no_images_at_once_is_refused(colour_run: Run) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        Captioner.from_pretrained(colour_run[0], device="cpu").caption([Image.new("RGB", (4, 4))], batch_size=0)


def test_captions_may_be_as_long_as_the_model_knows() -> None:
    for beams in (1, 2):
        (caption,) = feature_captioner().caption_features(np.zeros((1, 5)), beams=beams)
        assert len(caption.words) == 40


def test_read_only_and_broken_features() -> None:
    captioner = feature_captioner()
    features = np.zeros((2, 5), dtype=np.float32)
    features.setflags(write=False)
    assert len(captioner.caption_features(features)) == 2
    for number in (np.nan, np.inf):
        with pytest.raises(DataError, match="not finite"):
            captioner.caption_features(np.full((2, 5), number))


def test_captions_of_every_measured_split_that_collapse_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_captioned_folder(tmp_path / "same", per_colour=4)
    rows = ["file,caption", *(f"{path.name},always the same" for path in sorted(folder.glob("*.png")))]
    (folder / "captions.csv").write_text("\n".join(rows))
    config = tiny_config(folder, max_steps=20, test_fraction=0.3, val_fraction=0.3)
    with caplog.at_level(logging.WARNING):
        train_captioner(config, tmp_path / "run")
    warnings = [record.message for record in caplog.records if "collapsed" in record.message]
    assert ["'val'" in warnings[0], "'test'" in warnings[1], len(warnings)] == [True, True, 2]
    assert "all 3 images" in warnings[0] and "all 4 images" in warnings[1]


def test_one_validation_image_still_tells_weights_apart(tmp_path: Path) -> None:
    """CIDEr-D of one image is 0 at every validation."""
    folder = make_captioned_folder(tmp_path / "few", per_colour=3)
    config = tiny_config(folder, val_fraction=0.1, validations=3, max_steps=30)
    report = train_captioner(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [(row["val_cider_d"], row["val_loss"]) for row in rows if "val_loss" in row]
    assert [score for score, _ in validations] == [0, 0, 0]
    losses = [loss for _, loss in validations]
    assert report.metrics["val_loss"] == min(losses) < losses[0]


def test_nothing_was_held_out(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    change_run(captioner, val_fraction=0.0, test_fraction=0.0)
    with pytest.raises(DataError, match="was held out from training; judge all of it with --split all"):
        evaluate_captioner(captioner)
    assert len(evaluate_captioner(captioner, split="all", beams=1).ids) == 30


def test_a_model_that_does_not_say_what_it_was_trained_on(colour_run: Run, captioned_folder: Path) -> None:
    """It is not judged on the emoji as if it came from them, and every source is another one to it."""
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    captioner.content = dataclasses.replace(captioner.content, run=None)
    for evaluate in (evaluate_captioner, evaluate_all):
        with pytest.raises(DataError, match="does not say what it was trained on; name a source with --data"):
            evaluate(captioner)
    evaluation = evaluate_captioner(captioner, str(captioned_folder))
    assert (evaluation.split, evaluation.beams, len(evaluation.ids)) == ("all", 3, 30)
    assert len(evaluate_all(captioner, str(captioned_folder), beams=1)) == 1


def test_own_source_read_as_another_kind_is_judged_on_the_same_images(tmp_path: Path) -> None:
    """Its rows have another order then, by which training images would pass for held out ones."""
    folder = make_captioned_folder(tmp_path / "images", per_colour=4)
    names = sorted((path.name for path in folder.glob("*[0-9].png")), reverse=True)
    images = [{"id": row, "file_name": name} for row, name in enumerate(names)]
    annotations = [{"image_id": row, "caption": f"called {name}"} for row, name in enumerate(names)]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_all.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    config = tiny_config(f"coco:{folder}", val_fraction=0.4)
    captioner = CaptioningTask(config, open_splits(config)).captioner()
    own = evaluate_captioner(captioner, beams=1)
    for other in (str(folder), f"coco:{folder}/"):
        again = evaluate_captioner(captioner, other, beams=1)
        assert (again.split, again.ids, again.result.references) == ("val", own.ids, own.result.references)


def test_worst_features_are_named_as_in_the_files(tmp_path: Path) -> None:
    write_course_coco(tmp_path / "data")
    config = tiny_config(f"course-coco:{tmp_path / 'data'}", max_val=3, max_steps=1)
    train_captioner(config, tmp_path / "run")
    captioner = Captioner.from_pretrained(tmp_path / "run", device="cpu")
    some = evaluate_captioner(captioner, beams=1)
    change_run(captioner, max_val=None)
    names = evaluate_captioner(captioner, beams=1).ids
    assert len(some.ids) == 3 and set(some.ids) < set(names) == {f"val image {row}" for row in range(20)}
    assert set(some.ids) != {f"val image {row}" for row in range(3)}
    with pytest.raises(DataError, match="no split 'all'; it has train, val, and features are judged on one at a time"):
        evaluate_captioner(captioner, split="all")
