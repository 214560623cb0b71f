"""Train, evaluate, caption from the command line; and everything that a person can get wrong on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from PIL import Image

from opsin.cli.main import main
from tests.captioning.conftest import make_captioned_folder
from tests.course_data import write_course_coco

from .conftest import Opsin, assert_one_clear_line

Command = Callable[..., subprocess.CompletedProcess[str]]

PARTS = ("--encoder.", "--decoder.")
TINY = [
    *("--image-size", "16", "--patch-size", "4", "--shift", "1", "--label-smoothing", "0", "--max-length", "12"),
    *(f"{part}{name}" for part in PARTS for name in ("embed-dim=32", "num-heads=2", "dim-feedforward=32")),
    *("--encoder.num-layers", "1", "--decoder.num-layers", "2"),
    *("--batch-size", "12", "--learning-rate", "0.01", "--validations", "1", "--device", "cpu"),
]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, where its imports are already paid for."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [str(argument) for argument in arguments]
        code = main(argv)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(argv, code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "captioner", "--data", folder, "--out", out, "--val-fraction", 0.2, "--max-steps", 200]
    assert main([*map(str, arguments), "--quiet", *TINY]) == 0
    return out


def train(command: Command, data: Path | str, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return command("train", "captioner", "--data", data, "--out", out, "--max-steps", 2, "--json", *TINY, *options)


def lines_of(result: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_train_and_caption(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--data", folder, "--out", out, "--max-steps", 200, "--val-fraction", 0.2, "--quiet", *TINY)
    trained = opsin("train", "captioner", *options)
    assert trained.returncode == 0, trained.stderr
    assert "val_cider_d" in trained.stdout
    assert "left out  silent.png: has no caption" in trained.stdout
    captioned = opsin("caption", folder / "red0.png", folder / "broken.png", "--model", out)
    assert captioned.returncode == 0, captioned.stderr
    (row,) = [line for line in captioned.stdout.splitlines() if "red0.png" in line]
    assert "red" in row.split("red0.png")[1]
    assert f"left out  {folder / 'broken.png'} is not an image" in captioned.stdout


def test_images_give_one_document(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    images = (folder / "green1.png", folder / "broken.png", folder / "blue1.png")
    looked = tmp_path / "looked"
    result = command("caption", *images, "--model", run, "--json", "--attention", looked, "--batch-size", 1)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [row["image"] for row in document["images"]] == [str(images[0]), str(images[2])]
    assert ["green" in row["caption"] for row in document["images"]] == [True, False]
    assert [row["id"] for row in document["skipped"]] == [str(images[1])]
    assert sorted(path.name for path in looked.iterdir()) == ["0000-green1.png", "0001-blue1.png"]


def test_a_folder_gives_json_lines(command: Command, run: Path, folder: Path) -> None:
    rows = lines_of(command("caption", folder, "--model", run, "--json", "--beams", 1, "--batch-size", 4))
    assert len(rows) == 3 * 10 + 1 + 1
    assert [row["image"] for row in rows if "skipped" in row] == [str(folder / "broken.png")]
    for row in rows:
        assert ("caption" in row) != ("skipped" in row)
        name = Path(row["image"]).stem.rstrip("0123456789")
        assert name in ("broken", "silent") or name in row["caption"]


def test_limits_and_drawn_words(command: Command, run: Path, folder: Path) -> None:
    def captions(*options: object) -> list[str]:
        rows = lines_of(command("caption", folder, "--model", run, "--json", *options))
        return [row["caption"] for row in rows if "caption" in row]

    assert max(len(text.split()) for text in captions("--max-length", 2)) == 2
    assert min(len(text.split()) for text in captions("--min-length", 6, "--no-repeat-ngram", 1)) >= 6
    wild = ("--top-p", 1, "--temperature", 5)
    assert captions(*wild, "--seed", 3) == captions(*wild, "--seed", 3) != captions(*wild, "--seed", 4)


def test_evaluate_says_its_protocol(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    result = command("evaluate", run, "--json", "--worst", 2, "--picture", tmp_path / "worst.png")
    assert result.returncode == 0, result.stderr
    (document,) = json.loads(result.stdout)["evaluations"]
    assert document["exact_match"] == 1
    assert {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", "distinct_ratio"} <= document.keys()
    assert f"{document['count']} images of {str(folder)!r}, split 'val', 3 beams" in document["protocol"]
    assert len(document["worst"]) == 2
    assert document["worst"][0]["cider_d"] <= document["worst"][1]["cider_d"]
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.size[0] > 300
    table = command("evaluate", run, "--data", folder, "--beams", 1)
    for text in ("BLEU-4", "ROUGE-L", "CIDEr-D", "exact match", "greedy decoding", "worst captions"):
        assert text in table.stdout
    assert "left out  silent.png" in table.stdout
    assert table.stderr.startswith("warning: CIDEr-D")  # six images are too few to be sure
    assert "over 6 images" in table.stderr and table.stderr.count("\n") == 1


def test_collapsed_captions_are_a_warning(command: Command, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "same")
    images = sorted(path.name for path in folder.glob("*.png"))
    rows = ["file,caption", *(f"{name},always the same" for name in images)]
    (tmp_path / "same" / "captions.csv").write_text("\n".join(rows))
    assert train(command, tmp_path / "same", tmp_path / "run", "--max-steps", 30).returncode == 0
    result = command("evaluate", tmp_path / "run", "--data", folder, "--quiet")
    assert (
        "warning: the captions have collapsed: all 30 images of the split 'all' got 'always the same'" in result.stderr
    )


def test_both_protocols_for_emoji(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = train(command, "emoji", out, "--style-fraction", 0.02, "--captions", "first", "--beams", 1)
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads(trained.stdout)["metrics"]
    assert {"test_cider_d", "test_bleu4", "other_style_exact_match", "other_style_cider_d"} <= metrics.keys()
    evaluations = json.loads(command("evaluate", out, "--json").stdout)["evaluations"]
    assert [evaluation["split"] for evaluation in evaluations] == ["test", "other-style"]
    assert "seen in training in another style only" in evaluations[1]["protocol"]
    for prefix, evaluation in zip(("test", "other_style"), evaluations, strict=True):
        for name in ("exact_match", "bleu4", "cider_d"):
            assert evaluation[name] == pytest.approx(metrics[f"{prefix}_{name}"])


def test_profile_counts_encoder_and_decoder(command: Command, run: Path) -> None:
    document = json.loads(command("profile", run, "--json").stdout)
    assert [part["name"] for part in document["parts"]] == ["encoder", "decoder"]
    assert (document["input"], document["caption_length"]) == ([1, 3, 16, 16], 12)
    assert all(part["macs"] > 0 for part in document["parts"])
    assert "a caption of 12 words" in command("profile", run).stdout


def test_wrong_usage_exits_with_2(command: Command, run: Path, folder: Path) -> None:
    caption = ("caption", folder / "red0.png", "--model", run)
    assert_one_clear_line(command(*caption, "--beams", 0), "--beams must be at least 1", code=2)
    assert_one_clear_line(command(*caption, "--temperature", 2), "give --top-p", code=2)
    assert_one_clear_line(command("caption", "--model", run), "name at least one image", code=2)
    assert_one_clear_line(command("evaluate", run, "--worst", 0), "--worst must be at least 1", code=2)
    assert_one_clear_line(command(*caption, "--max-length", 40), "knows 12 positions only")
    assert_one_clear_line(command(*caption, "--min-length", 12), "min_length (12)", "below max_length (12)")
    assert_one_clear_line(command(*caption, "--top-p", 2), "--top-p must be above 0", code=2)
    assert_one_clear_line(
        command("caption", folder / "broken.png", "--model", run), "not even the only file is a readable"
    )
    assert_one_clear_line(command("classify", folder / "red0.png", "--model", run), "kind 'captioner'")


@pytest.mark.parametrize(("recipe", "needed"), [("photos", "--data SRC"), ("overfit-50", "--data course-coco:DIR")])
def test_recipes_for_data_of_ones_own_say_so(command: Command, tmp_path: Path, recipe: str, needed: str) -> None:
    result = command("train", "captioner", "--recipe", recipe, "--out", tmp_path / "x")
    assert_one_clear_line(result, f"no data is named for the recipe {recipe!r}; give {needed}", code=2)
    assert not (tmp_path / "x").exists()


def test_texts_beside_images(command: Command, folder: Path, run: Path, tmp_path: Path) -> None:
    for name in ("red0.png", "blue0.png", "broken.png"):
        shutil.copy(folder / name, tmp_path)
    Image.open(folder / "red0.png").save(tmp_path / "red0.jpg")
    (tmp_path / "blue0.txt").write_text("my own words")
    caption = ("caption", tmp_path, "--model", run, "--sidecar")
    assert_one_clear_line(command("caption", tmp_path, "--model", run, "--overwrite"), "give --sidecar", code=2)
    first = command(*caption, "--json")
    documents = {Path(row["image"]).name: row for row in lines_of(first)}
    assert "wrote 1 text beside the images, and 2 images had one already" in first.stderr
    # Of the two images whose text would have the same name, the first has it.
    assert (tmp_path / "red0.txt").read_text() == documents["red0.jpg"]["caption"] + "\n"
    assert (tmp_path / "blue0.txt").read_text() == "my own words"
    again = command(*caption, "--overwrite")
    assert "wrote 2 texts beside the images, and 1 image had one already\n" in again.stderr
    assert (tmp_path / "blue0.txt").read_text() == documents["blue0.png"]["caption"] + "\n"
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["blue0.txt", "red0.txt"]  # none of a broken image
    shutil.copy(folder / "red0.png", picture := tmp_path / "picture.txt")
    assert command("caption", picture, "--model", run, "--sidecar", "--overwrite").returncode == 0
    assert picture.read_bytes() == (folder / "red0.png").read_bytes()
    stored = command("caption", "emoji", "--model", run, "--sidecar")
    assert_one_clear_line(stored, "stored inside another file", code=2)


def write_captions(folder: Path, copy: Path, rows: list[str]) -> Path:
    """A copy of the folder with another table of captions."""
    shutil.copytree(folder, copy)
    (copy / "captions.csv").write_text("\n".join(["file,caption", *rows]), encoding="utf-8")
    return copy


def test_captions_of_missing_images(command: Command, folder: Path, tmp_path: Path) -> None:
    wrong = write_captions(folder, tmp_path / "wrong", ["gone1.png,a cat", "gone2.png,a dog"])
    assert_one_clear_line(train(command, wrong, tmp_path / "x"), "names no image that is there", "'gone1.png'")
    some = write_captions(folder, tmp_path / "some", [*(f"red{index}.png,red" for index in range(9)), "gone.png,a cat"])
    trained = train(command, some, tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    skipped = {row["id"]: row["reason"] for row in json.loads(trained.stdout)["skipped"]}
    assert "no such image is there" in skipped["gone.png"]
    assert skipped["silent.png"] == "has no caption"


def test_odd_captions(command: Command, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Empty ones, one of 10,000 words, other scripts, emoji, and several of one image."""
    rows = [*(f"red{index}.png,Ωραία γάτα 猫 🐱" for index in range(9)), "blue0.png,", "blue1.png,!?", "red0.png,again"]
    rows.append(f"green0.png,{'long ' * 10_000}")
    trained = train(command, write_captions(folder, tmp_path / "odd", rows), tmp_path / "run", "--val-fraction", 0)
    assert trained.returncode == 0, trained.stderr
    skipped = {row["id"] for row in json.loads(trained.stdout)["skipped"]}
    assert {"blue0.png", "blue1.png", "silent.png"} <= skipped
    words = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))["words"]
    assert {"ωραία", "γάτα", "猫", "🐱", "again", "long"} <= set(words)
    assert "1 of 11 training captions have more than 10 words" in caplog.text
    empty = write_captions(folder, tmp_path / "empty", [f"red{index}.png,?!" for index in range(9)])
    assert_one_clear_line(train(command, empty, tmp_path / "x"), "none of the 32 images", "a caption with a word in it")
    (tmp_path / "odd" / "captions.csv").unlink()
    assert_one_clear_line(train(command, tmp_path / "odd", tmp_path / "x"), "has no captions", "metadata.jsonl")
    assert not (tmp_path / "x").exists()


def test_annotations_in_which_an_id_stands_for_two_images(command: Command, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "coco")
    images = [{"id": 7, "file_name": name} for name in ("red0.png", "red1.png")]
    annotations = [{"image_id": 7, "caption": "red"}, {"image_id": 8, "caption": "blue"}]
    file = tmp_path / "coco" / "captions_train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    data = f"coco:{tmp_path / 'coco'}"
    assert_one_clear_line(train(command, data, tmp_path / "x"), "the id 7 stands for two images")
    file.write_text(json.dumps({"images": images[:1], "annotations": annotations}))
    assert_one_clear_line(train(command, data, tmp_path / "x"), "captions but no image, for example 8")


def test_features_that_do_not_fit(command: Command, folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_course_coco(data)
    captions = data / "coco2014_captions.h5"
    good = captions.read_bytes()
    trained = train(command, f"course-coco:{data}", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    caption = command("caption", folder / "red0.png", "--model", tmp_path / "run")
    assert_one_clear_line(caption, "trained on features", "`opsin evaluate RUN`")
    assert "opsin caption" not in command("evaluate", tmp_path / "run").stderr
    options = ("--data", f"course-coco:{data}", "--out", tmp_path / "again", "--max-steps", 1, *TINY)
    again = command("train", "captioner", *options)
    assert again.returncode == 0 and "opsin caption" not in again.stderr
    assert "warning: CIDEr-D" in again.stderr and "next:" not in again.stderr  # one step is no better than one caption
    drawn = command("evaluate", tmp_path / "run", "--picture", tmp_path / "x.png")
    assert_one_clear_line(drawn, "was trained on features", code=2)

    with h5py.File(captions, "a") as file:
        del file["val_captions"]
    assert_one_clear_line(command("evaluate", tmp_path / "run"), "has no key 'val_captions'", "it has")
    captions.write_bytes(good)
    with h5py.File(captions, "a") as file:
        shorter = file["train_image_idxs"][:-1]
        del file["train_image_idxs"]
        file["train_image_idxs"] = shorter
    assert_one_clear_line(train(command, f"course-coco:{data}", tmp_path / "x"), "there are 120", "indices for 119")
    captions.write_bytes(good)
    for split in ("train", "val"):
        shutil.copy(data / f"{split}2014_vgg16_fc7.h5", data / f"{split}2014_vgg16_fc7_pca.h5")
    assert_one_clear_line(command("evaluate", tmp_path / "run"), "features of width 512", "width 4096")


def test_a_vocabulary_that_does_not_fit_the_weights(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run / "model", tmp_path / "model"))
    content = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    content["words"].append("violet")
    (copy / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert_one_clear_line(command("caption", folder / "red0.png", "--model", copy), "tensors differ")
    content["words"] = content["words"][4:]
    (copy / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert_one_clear_line(command("caption", folder / "red0.png", "--model", copy), "the vocabulary lacks <NULL>")
