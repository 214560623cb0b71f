"""`opsin classify --labels` and `opsin evaluate --zero-shot`, with what a person can get wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.cli.main import main
from opsin.images.preprocessing import Preprocessing
from tests.classification.conftest import make_colour_folder
from tests.encoders.clip_models import save_directory, tiny_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_directory(tmp_path_factory.mktemp("models") / "clip", tiny_clip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_colour_folder(tmp_path_factory.mktemp("data") / "colours", per_class=2)
    (folder / "red" / "broken.png").write_bytes(b"no image")
    return folder


def test_classify_by_labels(model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "labels.png"
    command = ["classify", str(folder), "--model", model, "--labels", "a person, an animal,food", "--other"]
    assert main([*command, "-k", "2", "--json", "--picture", str(picture), "--logit-scale", "5"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["labels"] == ["a person", "an animal", "food", "other"]
    assert document["logit_scale"] == 5
    assert [Path(row["id"]).name for row in document["skipped"]] == ["broken.png"]
    assert len(document["images"]) == 6
    for row in document["images"]:
        assert len(row["labels"]) == len(row["probabilities"]) == len(row["cosines"]) == 2
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert main([*command, "--template", "a photo of {}", "--template", "{}"]) == 0
    output = capsys.readouterr().out
    assert "other " in output and "left out" in output


def test_labels_of_a_file_may_have_commas(
    model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeffsalt, pepper\r\n\r\n  Brötchen \r\n".encode())
    image = str(folder / "red" / "00.png")
    assert main(["classify", image, "--model", model, "--labels", f"@{tmp_path / 'labels.txt'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["salt, pepper", "Brötchen"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--labels", ""], 2, "none is given"),
        (["--labels", "a dog"], 2, "only 'a dog' is given (--other"),
        (["--labels", "a dog,,food"], 2, "a label is empty"),
        (["--labels", "a dog,food,A DOG"], 2, "'A DOG' is there twice"),
        (["--labels", "a dog,Other", "--other"], 2, "'other' is there twice"),
        (["--labels", "@missing.txt"], 1, "missing.txt cannot be read: No such file"),
        (["--labels", "a,b", "--template", "a photo"], 2, "has no {}"),
        (["--labels", "a,b", "--logit-scale", "0"], 2, "--logit-scale must be above 0"),
        (["--labels", "a,b", "--attention", "maps"], 2, "--attention is for trained classifiers"),
        (["--labels", "a,b", "--batch-size", "5"], 2, "--batch-size is for trained classifiers"),
        (["--labels", "a,b", "--picture", "a.jpg"], 2, "--picture writes PNG"),
        (["--labels", "a,b", "-k", "0"], 2, "--top-k"),
        (["--labels", "a,b", "--model", "nothing"], 1, "there is no model 'nothing'"),
        (["--other"], 2, "--other is for labels of your own; give --labels"),
        (["--template", "{}"], 2, "--template is for labels of your own"),
        (["--model", "open_clip:ViT-B-32/openai"], 2, "give --labels"),
    ],
)
def test_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert main(["classify", str(folder / "red" / "00.png"), *options]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err


def test_models_of_another_kind(model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ViTConfig(patch_size=4, embed_dim=32, num_layers=1, num_heads=2, dim_feedforward=32)
    content = ClassifierContent(model=config, class_names=("a", "b"), preprocessing=Preprocessing(image_size=16))
    classifier = Classifier(build_model(config, 16, 2), content)
    classifier.save_pretrained(tmp_path / "vit")
    image = str(folder / "red" / "00.png")
    assert main(["classify", image, "--model", str(tmp_path / "vit"), "--labels", "a dog,food"]) == 1
    assert "encodes images only" in capsys.readouterr().err
    assert main(["classify", image, "--model", model]) == 2
    assert "give --labels" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main(["classify", str(tmp_path / "broken.png"), "--model", model, "--labels", "a dog,food"]) == 1
    assert "not even the only file is a readable image" in capsys.readouterr().err


def test_evaluate(model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", model, "--zero-shot", "--data", str(folder)]
    assert main([*command, "--json", "--picture", str(tmp_path / "confusion.png")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["class_names"] == ["blue", "green", "red"]
    assert [sum(row) for row in document["confusion"]] == [2, 2, 2]
    right = sum(document["confusion"][index][index] for index in range(3))
    assert document["accuracy"] == pytest.approx(right / 6)
    assert [row["id"] for row in document["skipped"]] == ["red/broken.png"]
    assert (tmp_path / "confusion.png").exists()
    assert main([*command, "--template", "a {} thing"]) == 0
    output = capsys.readouterr()
    assert "template 'a {} thing'" in output.out and "true \\ predicted" in output.out
    (comparison,) = document["baselines"]
    assert comparison["value"] == pytest.approx(1 / 3)
    assert ("next: opsin classify IMAGES" in output.err) == comparison["is_better"]
    assert ("warning: accuracy" in output.err) != comparison["is_better"]


def test_images_that_decide_no_scale(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal images: whatever the scale, their classes cannot be told apart."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9), "grey").save(tmp_path / name / "0.png")
    assert main(["evaluate", model, "--zero-shot", "--data", str(tmp_path)]) == 0
    remarks = capsys.readouterr().err
    assert "do not decide a logit scale" in remarks and "--logit-scale" not in remarks


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_name_that_is_no_text_costs_no_answers(
    model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_option: tuple[str, ...]
) -> None:
    """Standard output in UTF-8 refuses such names by itself."""
    name = os.fsdecode(b"\xff\x1b[31m.png")
    shutil.copy(folder / "red" / "00.png", tmp_path / name)
    (tmp_path / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["classify", str(tmp_path), "--model", model, "--labels", "a person,food", *json_option]) == 0
    output.seek(0)
    printed = output.read()
    assert "\x1b" not in printed
    if json_option:
        document = json.loads(printed)
        assert Path(document["images"][0]["image"]).name == name
        assert "\\udcfe.png is not an image" in document["skipped"][0]["reason"]
    else:
        assert "\\udcff\\x1b[31m.png" in printed and "left out" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--zero-shot"], "name their source with --data"),
        (["--zero-shot", "--data", "emoji", "--beams", "2"], "--beams is for captioners, and"),
        (["--zero-shot", "--data", "emoji", "--template", "x"], "has no {}"),
        (["--template", "{}"], "--template is for models that are evaluated by --zero-shot, and"),
    ],
)
def test_wrong_usage_of_evaluate(
    model: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", model, *options]) == 2
    assert message in capsys.readouterr().err


def test_model_of_open_clip_is_judged_with_zero_shot_only(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for reference in ("open_clip:ViT-B-32/openai", model):
        assert main(["evaluate", reference, "--data", "emoji"]) == 2
        assert "--zero-shot" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.zip", "a.parquet"])
def test_images_of_an_archive_and_of_parquet_files(
    name: str, model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(folder.rglob("0*.png"))
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), tmp_path / name)
    options = ["--model", model, "--labels", "a,b", "--json", "--picture", str(tmp_path / "labels.png")]
    assert main(["classify", *map(str, files), *options]) == 0
    expected = [row["probabilities"] for row in json.loads(capsys.readouterr().out)["images"]]
    assert main(["classify", str(tmp_path / name), *options]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [row["probabilities"] for row in images] == [pytest.approx(row, abs=1e-4) for row in expected]
    assert images[0]["image"].startswith(f"{tmp_path / name}/")
