"""Training a classifier on a small folder, and what its directory then holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.classification.config import ClassificationConfig
from opsin.classification.data import open_splits
from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.inference import Classifier, attention_rollout
from opsin.classification.pictures import (
    attention_figure,
    attention_grid,
    predictions_figure,
)
from opsin.classification.recipes import RECIPES
from opsin.classification.train import ClassificationTask, train_classifier
from opsin.cli.main import main
from opsin.cli.output import print_table
from opsin.config import from_dict, to_dict
from opsin.data.repeats import Repeat
from opsin.errors import Cancelled, CheckpointError, ConfigError, DataError
from opsin.pictures import confusion_figure
from opsin.progress import Progress
from opsin.training.metrics import classification_metrics
from opsin.training.run import TrainReport
from tests.html_page import Page

from .conftest import make_colour_folder, tiny_config

Run = tuple[Path, TrainReport]


def test_learns_an_easy_folder(colour_run: Run) -> None:
    directory, report = colour_run
    assert report.metrics["val_accuracy"] == 1.0
    assert report.steps == 40
    assert report.num_train == 27
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_loss"] < np.log(3) / 2
    for name in (
        "config.json",
        "environment.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "model/README.md",
    ):
        assert (directory / name).is_file(), name


def test_the_report_of_a_run_shows_confusions(
    colour_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data all the rest is shown."""
    run = tmp_path / "run"
    shutil.copytree(colour_run[0], run)
    assert main(["report", str(run), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert Page(run / "report.html").texts["h2"] == ["Result", "Curves", "Confusion", "Settings"]
    content = json.loads((run / "model" / "config.json").read_text())
    content["training"]["data"] = str(tmp_path / "gone")
    (run / "model" / "config.json").write_text(json.dumps(content))
    assert main(["report", str(run), "--device", "cpu"]) == 0
    assert "without the model on held-out images" in capsys.readouterr().err
    assert Page(run / "report.html").texts["h2"] == ["Result", "Curves", "Settings"]


def test_the_model_directory_is_complete(colour_run: Run, colour_folder: Path) -> None:
    directory, report = colour_run
    classifier = Classifier.from_pretrained(directory)
    assert classifier.class_names == ("blue", "green", "red")
    assert classifier.metrics["val_accuracy"] == 1.0
    assert classifier.run is not None and classifier.run.config.data == str(colour_folder)
    results = classifier.classify([colour_folder / "red" / "00.png", colour_folder / "blue" / "03.png"], top_k=2)
    assert [result.labels[0] for result in results] == ["red", "blue"]
    assert len(results[0].labels) == 2
    assert 0.5 < results[0].probabilities[0] <= 1


def test_save_and_load_give_the_same_scores(colour_run: Run, tmp_path: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    pixels = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    again = Classifier.from_pretrained(classifier.save_pretrained(tmp_path / "copy"), device="cpu")
    torch.testing.assert_close(again.predict_pixels(pixels), classifier.predict_pixels(pixels), rtol=0, atol=0)
    assert again.metrics == classifier.metrics


def test_images_of_any_kind_give_the_same_answer(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    path = colour_folder / "green" / "00.png"
    opened = Image.open(path)
    forms = [path, str(path), path.read_bytes(), opened, np.asarray(opened)]
    results = classifier.classify(forms)
    assert all(result == results[0] for result in results)


def test_one_image_gives_one_answer(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    path = colour_folder / "green" / "00.png"
    opened = Image.open(path)
    expected = classifier.classify([path])
    for image in (path, str(path), path.read_bytes(), opened, np.asarray(opened)):
        assert classifier.classify(image) == expected
    assert classifier.attention_maps(opened).shape == (1, 4, 4)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        classifier.classify([path], batch_size=0)


def test_precision_is_that_of_the_run_or_the_one_asked_for(colour_run: Run, colour_folder: Path) -> None:
    """bfloat16 keeps 8 bits of a number, so its scores differ from those in float32; on a CPU both always run."""
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = tiny_config(colour_folder, precision="bf16")
    of_run = ClassificationTask(config, open_splits(config)).classifier()
    assert of_run.precision == "bf16"
    exact = Classifier.from_pretrained(colour_run[0], device="cpu", precision="32").predict_pixels(pixels)
    rounded = Classifier.from_pretrained(colour_run[0], device="cpu", precision="bf16").predict_pixels(pixels)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(rounded, exact)
    with pytest.raises(ConfigError, match="precision 16 needs a GPU"):
        Classifier.from_pretrained(colour_run[0], device="cpu", precision="16")


def test_batches_do_not_change_the_answer(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    paths = sorted(colour_folder.rglob("*.png"))
    whole = classifier.classify(paths, batch_size=64)
    parts = classifier.classify(paths, batch_size=5)
    assert [result.labels for result in whole] == [result.labels for result in parts]
    assert classifier.classify([]) == []


def test_answers_come_before_all_images_are_read(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    read: list[Path] = []

    def files() -> Iterator[Path]:
        for file in sorted(colour_folder.rglob("*.png")):
            read.append(file)
            yield file

    results = classifier.classify_each(files(), batch_size=4)
    first = next(results)
    assert len(read) == 4
    whole = classifier.classify(sorted(colour_folder.rglob("*.png")))
    for result, same in zip([first, *results], whole, strict=True):
        assert result.labels == same.labels and result.probabilities == pytest.approx(same.probabilities, abs=1e-4)


def test_attention_maps_are_shares(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    maps = classifier.attention_maps([colour_folder / "red" / "00.png"] * 2)
    assert maps.shape == (2, 4, 4)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (maps >= 0).all()


@pytest.mark.parametrize("pool", ["mean", "class_token"])
def test_rollout_of_even_attention_is_even(pool: str) -> None:
    T = 9 + (pool == "class_token")
    weights = torch.full((1, 3, 2, T, T), 1 / T)
    torch.testing.assert_close(attention_rollout(weights, pool, 3), torch.full((1, 3, 3), 1 / 9))


def test_rollout_follows_one_patch() -> None:
    weights = torch.zeros(1, 1, 1, 4, 4)
    weights[..., 2] = 1  # every patch looks at patch 2
    expected = torch.tensor([[[0.125, 0.125], [0.625, 0.125]]])
    torch.testing.assert_close(attention_rollout(weights, "mean", 2), expected)


def test_evaluation_states_its_protocol(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0])
    own = evaluate_classifier(classifier)
    assert (own.split, own.metrics.count) == ("val", 9)
    assert own.metrics.accuracy == colour_run[1].metrics["val_accuracy"]
    assert evaluate_classifier(classifier, split="train").metrics.count == 27
    assert evaluate_classifier(classifier, split="all").metrics.count == 36
    rewritten = evaluate_classifier(classifier, str(colour_folder / "red" / ".."))  # still the images it was trained on
    assert (rewritten.split, rewritten.metrics.count) == ("val", 9)
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate_classifier(classifier, split="test")


def test_evaluation_matches_classes_by_name(colour_run: Run, tmp_path: Path) -> None:
    """A source with fewer classes, in which the same name has another number, is judged correctly."""
    make_colour_folder(tmp_path / "some", per_class=3)
    for path in (tmp_path / "some" / "blue").iterdir():
        path.unlink()
    classifier = Classifier.from_pretrained(colour_run[0])
    evaluation = evaluate_classifier(classifier, str(tmp_path / "some"))
    assert (evaluation.split, evaluation.metrics.count, evaluation.metrics.accuracy) == ("all", 6, 1.0)
    shutil.rmtree(tmp_path / "some" / "blue")
    (tmp_path / "some" / "green").rename(tmp_path / "green")
    one = evaluate_classifier(classifier, str(tmp_path / "some"))
    assert (one.metrics.count, one.metrics.accuracy) == (3, 1.0)
    (tmp_path / "some" / "red").rename(tmp_path / "some" / "Red ")
    assert evaluate_classifier(classifier, str(tmp_path / "some")).metrics.accuracy == 1.0
    (tmp_path / "some" / "Red ").rename(tmp_path / "some" / "mauve")
    with pytest.raises(DataError, match="does not know the class 'mauve'"):
        evaluate_classifier(classifier, str(tmp_path / "some"))


def test_a_run_is_not_continued_with_other_images(tmp_path: Path) -> None:
    folder = make_colour_folder(tmp_path / "images", per_class=3)
    config = tiny_config(folder, max_steps=2)
    train_classifier(config, tmp_path / "run")
    Image.new("RGB", (16, 16), "red").save(folder / "red" / "one more.png")
    with pytest.raises(CheckpointError, match="the set of images is not the one that the run .* began with"):
        train_classifier(config, tmp_path / "run", resume=True)
    classifier = Classifier.from_pretrained(tmp_path / "run")
    with pytest.raises(DataError, match="has other images now than when the model was trained .* --split all"):
        evaluate_classifier(classifier)
    assert evaluate_classifier(classifier, split="all").metrics.count == 10
    (folder / "red" / "one more.png").unlink()
    assert evaluate_classifier(classifier).split == "val"
    (folder / "blue").rename(folder / "sky")  # as many classes in another order
    with pytest.raises(CheckpointError, match="the list of classes is not the one"):
        train_classifier(config, tmp_path / "run", resume=True)


def test_a_resumed_run_that_is_finished_only_exports_again(colour_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(colour_folder, max_steps=6)
    first = train_classifier(config, tmp_path / "run")
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    again = train_classifier(config, tmp_path / "run", resume=True)
    assert again.steps == first.steps
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before


def test_one_corrupt_image_among_good_ones_is_counted(tmp_path: Path) -> None:
    folder = make_colour_folder(tmp_path / "images", per_class=4)
    (folder / "green" / "00.png").write_bytes(b"this is no image")
    report = train_classifier(tiny_config(folder, max_steps=2), tmp_path / "run")
    assert [row.id for row in report.skipped] == ["green/00.png"]


def test_unusable_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "b.png")
    with pytest.raises(DataError, match=r"one class only \(cat\)"):
        train_classifier(tiny_config(tmp_path / "one"), tmp_path / "run")
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match="has no labels"):
        train_classifier(tiny_config(tmp_path / "flat"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_recipe_is_a_valid_config_that_survives_json() -> None:
    for name, recipe in RECIPES.items():
        config = recipe()
        assert from_dict(type(config), to_dict(config)) == config, name
        assert recipe.__doc__, name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_size": 30}, "must be divisible by patch_size"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"max_train": -1}, "max_train must be at least 1"),
        ({"augment": {"shift": 32}}, r"shift \(32\) must be below image_size \(32\)"),
        ({"augment": {"mixup": -0.1}}, "mixup must be at least 0"),
        ({"augment": {"label_smoothing": 1.5}}, "label_smoothing must be at least 0 and at most 1"),
        ({"model": {"patch_size": 0}}, "patch_size must be at least 1"),
        ({"model": {"dropout": 1.0}}, "dropout must be at least 0 and below 1"),
        ({"model": {"num_heads": 5}}, "must be divisible by num_heads"),
        ({"model": {"embed_dim": 33, "num_heads": 3, "positions": "sinusoidal"}}, "even embed_dim"),
        ({"model": {"patch_size": 6}, "image_size": 36}, "power of two"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_run(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(ClassificationConfig, setting)


def test_a_model_of_another_shape_is_refused(colour_run: Run, tmp_path: Path) -> None:
    copy = Classifier.from_pretrained(colour_run[0]).save_pretrained(tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["class_names"].append("violet")
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="belong to another model"):
        Classifier.from_pretrained(copy)
    content["model"]["embed_dims"] = 3
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="model.embed_dim"):
        Classifier.from_pretrained(copy)


def test_figures_draw_what_they_are_given(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0])
    paths = sorted(colour_folder.rglob("*.png"))[:4]
    results = classifier.classify(paths)
    maps = classifier.attention_maps(paths)
    confusion = confusion_figure(np.eye(3, dtype=int) * 5, classifier.class_names)
    assert [tick.get_text() for tick in confusion.axes[0].get_xticklabels()] == ["blue", "green", "red"]
    assert sum(text.get_text() == "5" for text in confusion.axes[0].texts) == 3
    titles = [axes.get_title() for axes in predictions_figure(paths, results, ["blue", "blue", "blue", "red"]).axes]
    assert titles[3].endswith("is red")
    assert len(attention_figure(paths[0], maps[0], results[0]).axes) == 3
    assert len(attention_grid(paths, maps, columns=2).axes) == 9


def test_an_evaluation_has_its_baseline_and_its_mistakes(colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    (learned,) = evaluate_classifier(classifier, str(colour_folder), "all").baselines
    assert learned.is_better and learned.value == pytest.approx(1 / 3)
    classifier.content = replace(classifier.content, class_names=("green", "red", "blue"))  # all wrong
    evaluation = evaluate_classifier(classifier, str(colour_folder), "all")
    (comparison,) = evaluation.baselines
    assert comparison.score == 0.0 and not comparison.is_better and "pretrained encoder" in comparison.sentence
    mistakes = evaluation.mistakes(5)
    assert len(mistakes) == 5
    assert [mistake.confidence for mistake in mistakes] == sorted((m.confidence for m in mistakes), reverse=True)
    for mistake in mistakes:
        assert mistake.id.startswith(mistake.truth) and mistake.predicted != mistake.truth
        pixels = np.asarray(evaluation.image(mistake)).mean(axis=(0, 1))
        assert mistake.truth == ("red", "green", "blue")[int(pixels.argmax())]


def test_training_ends_with_its_baseline(colour_run: Run) -> None:
    (comparison,) = colour_run[1].baselines
    assert (comparison.score, comparison.value) == (1.0, pytest.approx(1 / 3))
    assert comparison.count == 9 and comparison.is_better


def test_copies_of_training_images_are_said(colour_run: Run, tmp_path: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    own = evaluate_classifier(classifier)
    assert own.overlap is not None and own.overlap.warnings == []
    assert classifier.run is not None
    data = Path(classifier.run.config.data)
    training = {repeat.training_id for repeat in _copied(classifier, data, tmp_path / "copies")}
    assert training and not training & {own.source.ids[row] for row in range(len(own.source))}
    assert evaluate_classifier(classifier, split="train").overlap is None


def _copied(classifier: Classifier, data: Path, folder: Path) -> tuple[Repeat, ...]:
    shutil.copytree(data, folder)
    overlap = evaluate_classifier(classifier, str(folder)).overlap
    assert overlap is not None and len(overlap.repeats) == 27  # what was trained on, of 36
    assert "27 of the 36 images" in overlap.warnings[0]
    return overlap.repeats


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_damaged_weights_are_refused_instead_of_scored(number: float, colour_run: Run, colour_folder: Path) -> None:
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    with torch.no_grad():
        classifier.model.head.weight[0, 0] = number
    for use in (
        lambda: classifier.classify([colour_folder / "red" / "00.png"]),
        lambda: evaluate_classifier(classifier),
    ):
        with pytest.raises(CheckpointError, match="weights are damaged"):
            use()


def test_many_classes_are_written_sparsely(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = classification_metrics(torch.eye(3000), torch.arange(3000).roll(1))
    names = [f"class {index}" for index in range(3000)]
    text = json.dumps(metrics.class_document(names))
    assert len(text) < 1_000_000
    document = json.loads(text)
    assert document["confusion"] is None and len(document["confusion_counts"]) == 3000
    assert document["per_class"][5] == {"class": "class 5", "images": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    for table in metrics.class_tables(names):
        print_table(table.header, table.rows, table.title)
    assert len(capsys.readouterr().out.splitlines()) < 3010


def test_evaluate_draws_mistakes_and_warns_of_copies(
    colour_run: Run, colour_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, wrong = str(colour_run[0]), tmp_path / "wrong.png"
    assert main(["evaluate", run, "--mistakes", str(wrong), "--quiet"]) == 0
    assert not wrong.exists() and capsys.readouterr().err == ""
    shutil.copytree(colour_folder, tmp_path / "mixed")
    (tmp_path / "mixed" / "red").rename(tmp_path / "mixed" / "other")
    (tmp_path / "mixed" / "blue").rename(tmp_path / "mixed" / "red")
    (tmp_path / "mixed" / "other").rename(tmp_path / "mixed" / "blue")
    options = ["--data", str(tmp_path / "mixed"), "--mistakes", str(wrong), "--near-duplicates", "--json"]
    assert main(["evaluate", run, *options]) == 0
    output = capsys.readouterr()
    with Image.open(wrong) as figure:
        assert figure.format == "PNG" and figure.width > 1000
    document = json.loads(output.out)
    assert len(document["training_repeats"]) == 27 and len(document["near_duplicates"]) >= 27
    assert document["accuracy"] == pytest.approx(1 / 3, abs=1e-6) and not document["baselines"][0]["is_better"]
    assert [row["recall"] for row in document["per_class"]] == [0, 1, 0]
    assert output.err.count("warning: ") == 3 and "next: opsin classify" not in output.err
    assert "pretrained encoder" in output.err


def test_an_evaluation_reports_and_can_be_stopped(colour_run: Run) -> None:
    class Watcher(Progress):
        seen: list[tuple[str, float]] = []
        stop = False

        def report(self, title: str, done: float, total: float | None, unit: str = "", status: str = "") -> None:
            self.seen.append((title, done))

        def should_stop(self) -> bool:
            return self.stop

    watcher = Watcher()
    classifier = Classifier.from_pretrained(colour_run[0], device="cpu")
    evaluate_classifier(classifier, progress=watcher)
    assert watcher.seen == [("classifying", 0), ("classifying", 9)]
    watcher.stop = True
    with pytest.raises(Cancelled, match="classifying was stopped after 0 of 9 images"):
        evaluate_classifier(classifier, progress=watcher)
