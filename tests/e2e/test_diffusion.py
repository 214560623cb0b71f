"""Train and draw from the command line; and what a person can get wrong on the way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.cli.main import main
from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.model import DiffusionContent
from tests.diffusion.conftest import COLOURS, BagOfWords, make_prompted_folder

from .conftest import Opsin, assert_one_clear_line

Command = Callable[..., subprocess.CompletedProcess[str]]

TINY = [
    *("--image-size", "8", "--dim", "16", "--dim-mults", "1", "2", "--timesteps", "50", "--val-fraction", "0.2"),
    *("--batch-size", "16", "--learning-rate", "0.005", "--ema-decay", "0.95", "--validations", "1"),
    *("--device", "cpu", "--precision", "32", "--export", "last"),
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
    return make_prompted_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings in the course's format, as the text encoder of the command line."""
    texts = [*COLOURS, *(f"all {name}" for name in COLOURS), "a broken picture"]
    embs = BagOfWords().encode_text(texts)
    path = tmp_path_factory.mktemp("table") / "text_embeddings.pt"
    rows = {text: row for row, text in enumerate(texts)}
    width = embs.shape[1]
    torch.save(
        {"idx_mapping": rows, "embs": embs.half(), "pca_components": torch.eye(width), "mean": torch.zeros(width)}, path
    )
    return path


def train(
    command: Command, data: object, table: object, out: Path, *options: object
) -> subprocess.CompletedProcess[str]:
    arguments = ("--data", data, "--text-encoder", table, "--out", out, "--max-steps", 2, "--json", *TINY, *options)
    return command("train", "diffusion", *arguments)


@pytest.fixture(scope="module")
def run(folder: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "diffusion", "--data", folder, "--text-encoder", table, "--out", out, "--max-steps", 150]
    assert main([*map(str, arguments), "--quiet", *TINY]) == 0
    return out


def test_train_and_generate(opsin: Opsin, run: Path, tmp_path: Path) -> None:
    options = ("-n", 3, "--guidance", 1, "--steps", 10, "--filmstrip", "--precision", 32)
    drawn = opsin("generate", "red", "all blue", "--model", run, "--out", "grid.png", *options)
    assert drawn.returncode == 0, drawn.stderr
    assert "all blue" in drawn.stdout
    assert "pictures: grid.png, grid-filmstrip.png" in drawn.stderr
    for name in ("grid.png", "grid-filmstrip.png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
        for colour in ("red", "blue"):
            assert (np.abs(pixels - COLOURS[colour]).max(axis=1) < 60).sum() > 500


def test_generate_prints_one_document(command: Command, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x" / "grid.png"
    for sampler in ("ddpm", "ddim", "dpm-solver", "unipc"):
        options = ("--sampler", sampler, "--steps", 3, "-n", 1, "--json")
        result = command("generate", "red", "--model", run, "--out", out, *options)
        assert result.returncode == 0, result.stderr
        single = out.with_name("grid-1.png")
        prompts = [{"prompt": "red", "images": [str(single)]}]
        assert json.loads(result.stdout) == {"model": str(run), "prompts": prompts, "pictures": [str(out)]}
        with Image.open(single) as picture:
            assert (picture.format, picture.size) == ("PNG", (8, 8))


def test_the_seed_decides(command: Command, run: Path, tmp_path: Path) -> None:
    def picture(*options: object) -> bytes:
        arguments = ("generate", "red", "--model", run, "--out", tmp_path / "x.png", "--steps", 3, *options)
        assert command(*arguments).returncode == 0
        return (tmp_path / "x.png").read_bytes()

    assert picture("--seed", 4) == picture("--seed", 4) != picture("--seed", 5)
    assert picture("--guidance", -5) != picture("--guidance", 1e5)


@pytest.mark.parametrize("which", ["best", "last"])
def test_weights_of_a_run_are_exported(command: Command, run: Path, tmp_path: Path, which: str) -> None:
    exported = command("export", run, "--weights", which, "--out", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    ask = ("generate", "red", "--steps", 2, "-n", 1, "--out", tmp_path / "x.png", "--model")
    assert command(*ask, tmp_path / "model").returncode == 0
    if which == "last":  # as the run was told to export
        kept = (tmp_path / "x-1.png").read_bytes()
        assert command(*ask, run).returncode == 0
        assert (tmp_path / "x-1.png").read_bytes() == kept


def test_enlarged_images_have_the_same_pixels(command: Command, run: Path, tmp_path: Path) -> None:
    ask = ("generate", "red", "--model", run, "--steps", 1, "-n", 1, "--out")
    assert command(*ask, tmp_path / "small.png").returncode == 0
    assert command(*ask, tmp_path / "large.png", "--scale", 3).returncode == 0
    with Image.open(tmp_path / "small-1.png") as small, Image.open(tmp_path / "large-1.png") as large:
        assert (np.kron(np.asarray(small), np.ones((3, 3, 1), np.uint8)) == np.asarray(large)).all()
    assert_one_clear_line(
        command(*ask, tmp_path / "x.png", "--scale", 0), "--scale must be at least 1 and at most 64", code=2
    )


def test_images_and_ways_between_prompts(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    Image.new("L", (12, 10), 255).save(tmp_path / "mask.png")
    start = ("generate", "red", "--model", run, "--out", tmp_path / "x.png", "--steps", 4, "-n", 2)
    image = ("--image", folder / "green0.png")
    for options in (image, (*image, "--strength", 0.2), (*image, "--mask", tmp_path / "mask.png")):
        assert command(*start, *options).returncode == 0
    assert command("generate", "red", "blue", *start[2:], "--interpolate").returncode == 0
    assert_one_clear_line(command(*start, "--image", folder / "broken.png"), "is not an image")
    assert_one_clear_line(command(*start, *image, "--strength", 2), "--strength must be", code=2)


def test_drawings_never_replace_what_they_begin_at(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    kept = (folder / "green0.png").read_bytes()
    for name in ("x.png", "x-1.png", "x-02.png"):
        (tmp_path / name).write_bytes(kept)
    (tmp_path / "link.png").symlink_to("x-1.png")
    ask = ("generate", "red", "red", "--model", run, "--out", tmp_path / "x.png", "--steps", 1)
    for name, count in (("x.png", 2), ("x-1.png", 2), ("x-02.png", 5), ("link.png", 2)):
        for options in (("--image", tmp_path / name), ("--image", folder / "green1.png", "--mask", tmp_path / name)):
            result = command(*ask, *options, "-n", count)
            assert_one_clear_line(result, f"{options[-2]} {tmp_path / name} is a file that", code=2)
    assert all((tmp_path / name).read_bytes() == kept for name in ("x.png", "x-1.png", "x-02.png"))
    assert command(*ask, "--image", tmp_path / "x-02.png", "-n", 2).returncode == 0
    assert (tmp_path / "x-02.png").read_bytes() == kept


def test_long_prompts_and_many_drawings(command: Command, run: Path, tmp_path: Path) -> None:
    end = ("--model", run, "--out", tmp_path / "x.png", "--steps", 1)
    long, longer = (command("generate", "red" + count * " ", *end, "-n", 1).stdout for count in (300, 9000))
    assert long == longer
    ask = ("generate", "red", *end, "--filmstrip")
    result = command(*ask, "-n", 41)
    assert result.returncode == 0, result.stderr
    left_out = [line for line in result.stderr.splitlines() if "ends after" in line]
    assert len(left_out) == 1 and "x-filmstrip.png ends after 40 rows, with 40 of the 41 drawings" in left_out[0]
    assert (tmp_path / "x-41.png").is_file()
    assert "ends after" not in command(*ask, "-n", 40).stderr


def test_a_model_of_few_time_steps_draws_by_default(command: Command, table: Path, tmp_path: Path) -> None:
    config, process = UnetConfig(dim=4, dim_mults=(1,)), ProcessConfig(timesteps=3)
    content = DiffusionContent(model=config, process=process, image_size=8, text_encoder=str(table), text_dim=16)
    TextToImage(TextToImage.build(content), content).save_pretrained(tmp_path / "model")
    result = command("generate", "red", "--model", tmp_path / "model", "--out", tmp_path / "x.png")
    assert result.returncode == 0, result.stderr


def test_drawings_outlive_a_figure_that_fails(
    command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room for the figure")

    monkeypatch.setattr("opsin.diffusion.pictures.save_figure", fail)
    result = command("generate", "red", "--model", run, "--out", tmp_path / "x.png", "--steps", 1, "-n", 2)
    assert result.returncode == 1 and "no room for the figure" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-1.png", "x-2.png"]


def test_places_that_cannot_be_written_are_refused_before_drawing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("a.png", "b-2.png", "c-filmstrip.png"):
        (tmp_path / name).mkdir()
    ask = ("generate", "red", "--model", "no-such-model", "-n", 2, "--filmstrip")
    for name, place in (("a.png", "a.png"), ("b.png", "b-2.png"), ("c.png", "c-filmstrip.png")):
        assert_one_clear_line(command(*ask, "--out", tmp_path / name), f"{tmp_path / place} is a directory", code=2)
    below = command(*ask, "--out", tmp_path / "file" / "deeper" / "x.png")
    assert_one_clear_line(below, f"because {tmp_path / 'file'} is a file", code=2)
    assert_one_clear_line(command(*ask, "--out", tmp_path / "new" / "x.png"), "there is no model 'no-such-model'")


def test_a_text_encoder_that_was_moved(command: Command, run: Path, table: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone" / "text_embeddings.pt")
    model = TextToImage.from_pretrained(run, device="cpu", text_encoder=gone)
    model.save_pretrained(tmp_path / "model")
    ask = ("generate", "red", "--model", tmp_path / "model", "--out", tmp_path / "x.png", "--steps", 1)
    assert_one_clear_line(command(*ask), "gone", "say where it is now with --text-encoder")
    assert command(*ask, "--text-encoder", table).returncode == 0
    other = command(*ask, "--text-encoder", "emoji-clip")
    assert_one_clear_line(other, "emoji-clip is not the one that the model was trained with", "with --text-encoder")


def test_names_and_captions_that_are_no_text(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"pictures \xff")
    folder.mkdir()
    rows = []
    for number in range(6):
        name = os.fsdecode(b"\xe9%d.png" % number)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": f"bad \udcff cap {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "run"
    for options in ((), ("--resume", "--max-steps", 3)):
        trained = train(command, folder, "emoji-clip", out, *options)
        assert trained.returncode == 0, trained.stderr
    assert json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))["training"]["data"] == str(folder)
    drawn = command("generate", "caf\udce9", "--model", out, "--out", tmp_path / "x.png", "--steps", 1)
    assert drawn.returncode == 0, drawn.stderr
    judged = command("evaluate", out, "--prompts", 1, "--samples", 1, "--steps", 1, "--report", tmp_path / "r.json")
    assert judged.returncode == 0, judged.stderr


def test_wrong_usage(command: Command, run: Path, tmp_path: Path) -> None:
    end = ("--model", run, "--out", tmp_path / "x.png")
    assert_one_clear_line(command("generate", *end), "say what to draw", code=2)
    assert_one_clear_line(command("generate", "red", *end, "-n", 0), "--num-images must be", code=2)
    assert_one_clear_line(command("generate", "red", *end, "--interpolate"), "takes two prompts", code=2)
    assert_one_clear_line(command("generate", "red", *end, "--mask", "m.png"), "give --image", code=2)
    assert_one_clear_line(command("generate", "red", *end, "--steps", 0), "--steps must be at least 1", code=2)
    assert_one_clear_line(command("generate", "red", *end, "--steps", 51), "steps must be at least 1 and at most 50")
    assert_one_clear_line(command("generate", "red", *end, "--strength", 0.5), "give --image", code=2)
    jpeg = command("generate", "red", "--model", run, "--out", tmp_path / "x.jpg")
    assert_one_clear_line(jpeg, "ends in .png, not 'x.jpg'", code=2)
    assert_one_clear_line(command("generate", "redd", *end), "no embedding of 'redd'", "did you mean 'red'")
    assert_one_clear_line(command("generate", "red", *end, "--guidance", "nan"), "--guidance must be", code=2)
    missing = command("generate", "red", "--model", "no-such-model", "--out", tmp_path / "x.png")
    assert_one_clear_line(missing, "there is no model 'no-such-model'")
    assert not (tmp_path / "x.png").exists()


def test_data_that_cannot_be_used(command: Command, folder: Path, table: Path, tmp_path: Path) -> None:
    odd = train(command, folder, table, tmp_path / "a", "--image-size", 10)
    assert odd.returncode != 0
    assert "must be divisible by 4" in odd.stderr
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert_one_clear_line(train(command, tmp_path, table, tmp_path / "b"), "has no captions")
    assert_one_clear_line(train(command, "emoji", table, tmp_path / "c"), "has no embedding of")
    assert_one_clear_line(
        train(command, folder, tmp_path / "no.pt", tmp_path / "d"), "text embeddings", "cannot be read"
    )
    assert_one_clear_line(train(command, folder, "no-such-model", tmp_path / "e"), "there is no model")
    assert not any((tmp_path / name).exists() for name in "abcde")


def test_a_damaged_state_is_refused_and_kept(command: Command, folder: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = train(command, folder, table, out)
    assert trained.returncode == 0, trained.stderr
    skipped = {row["id"]: row["reason"] for row in json.loads(trained.stdout)["skipped"]}
    assert skipped["silent.png"] == "has no caption"
    state = out / "checkpoints" / "last.pt"
    half = state.read_bytes()[:2000]
    state.write_bytes(half)
    resumed = train(command, folder, table, out, "--resume", "--max-steps", 4)
    assert_one_clear_line(resumed, "was refused")
    assert state.read_bytes() == half


def test_profile(command: Command, run: Path) -> None:
    document = json.loads(command("profile", run, "--json").stdout)
    assert document["input"] == [1, 3, 8, 8]
    assert {"downs", "mid_block1", "ups"} <= {part["name"] for part in document["parts"]}
