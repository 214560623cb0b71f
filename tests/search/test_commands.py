"""`opsin index`, `opsin search` and `opsin embed` from the command line, with what a person can get wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from opsin.cli.main import main
from opsin.training.run import TrainReport
from tests.clip.conftest import COLOURS
from tests.encoders.clip_models import save_directory, tiny_clip
from tests.search.colours import paint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(colour_run: tuple[Path, TrainReport]) -> str:
    """Knows four colours by name."""
    return str(colour_run[0] / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        for number in range(4):
            paint(tmp_path / "photos" / name / f"{number}.png", tuple(value + number for value in colour))
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def index(photos: Path, tmp_path: Path, model: str, capsys: Capture) -> Path:
    assert main(["index", str(photos), "--out", str(tmp_path / "index"), "--model", model, "--quiet"]) == 0
    capsys.readouterr()
    return tmp_path / "index"


def run_json(capsys: Capture, *command: str | Path) -> dict:
    code = main([*map(str, command), "--json"])
    output = capsys.readouterr()
    assert code == 0, output.err
    return json.loads(output.out)


def lines(output: str) -> list[str]:
    """Without the columns of a table."""
    return [" ".join(line.split()) for line in output.splitlines()]


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


# ------------------------------------------------------------------------------------------------- index


def test_index_and_update(photos: Path, tmp_path: Path, model: str, capsys: Capture) -> None:
    out = tmp_path / "index"
    assert main(["index", str(photos), "--out", str(out), "--model", model]) == 0
    output = capsys.readouterr()
    assert {"added 16", "in the index 16"} <= set(lines(output.out))
    assert "left out  empty.jpg is empty (zero bytes)" in output.out and "broken.png" in output.out
    assert f"next: opsin search {out}" in output.err
    assert main(["index", str(photos), "--out", str(out)]) == 0
    assert f'next: opsin search {out} "what to look for"' in capsys.readouterr().err  # though nothing was encoded
    paint(photos / "new.png", (9, 9, 9))
    (photos / "red" / "0.png").rename(photos / "moved.png")
    (photos / "grey" / "0.png").unlink()
    report = run_json(capsys, "index", photos, "--out", out)
    assert (report["added"], report["deleted"], report["changed"]) == (["new.png"], ["grey/0.png"], [])
    assert report["moved"] == [{"from": "red/0.png", "to": "moved.png"}]
    assert (report["images"], report["encoded"], report["unchanged"]) == (16, 1, 14)
    assert [row["id"] for row in report["skipped"]] == ["broken.png", "empty.jpg"]


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("missing", [], 1, "missing"),
        ("nothing", [], 1, "no image was found below"),
        ("broken", [], 1, "none of the images of"),
        ("photos", ["--model", "no-such-model"], 1, "there is no model 'no-such-model'"),
        ("photos", ["--model", ""], 1, "the name of the model is empty"),
        ("photos", ["--device", "tpu"], 1, "tpu"),
    ],
)
def test_nothing_to_index(
    photos: Path, tmp_path: Path, model: str, capsys: Capture, source: str, options: list[str], code: int, message: str
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken").mkdir()
    shutil.copy(photos / "broken.png", tmp_path / "broken")
    command = ["index", str(tmp_path / source), "--out", str(tmp_path / "index"), "--model", model, *options]
    assert main(command) == code
    output = capsys.readouterr()
    assert output.out == ""
    complaint = output.err.strip("\n").split("\n")[-1]  # after the bar of the progress
    assert message in complaint and complaint.startswith("opsin: ") and "unexpected" not in complaint


def test_an_index_is_not_written_over(index: Path, photos: Path, tmp_path: Path, model: str, capsys: Capture) -> None:
    before = content(index)
    paint(tmp_path / "other" / "a.png", (1, 2, 3))
    refused = {
        "which is still there; make another index": ["index", tmp_path / "other", "--out", index],
        "cannot be added to it": ["index", photos, "--out", index, "--model", "open_clip:ViT-B-32/openai"],
        "in use for something else": ["index", photos, "--out", photos, "--model", model],
    }
    for message, command in refused.items():
        assert main([*map(str, command)]) == 1
        assert message in capsys.readouterr().err
    with FileLock(index / ".lock"):
        assert main(["index", str(photos), "--out", str(index)]) == 1
    assert "another process is updating the index" in capsys.readouterr().err
    assert content(index) == before


# ------------------------------------------------------------------------------------------------ search


def test_search_by_words(index: Path, photos: Path, capsys: Capture) -> None:
    for name in COLOURS:
        found = run_json(capsys, "search", index, name, "picture", "-k", "4")
        assert {Path(hit["id"]).parent.name for hit in found["hits"]} == {name}
        assert (found["query"], found["images"], found["refused"]) == (f"{name} picture", 16, [])
        cosines = [hit["cosine"] for hit in found["hits"]]
        assert cosines == sorted(cosines, reverse=True)
        assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4]
        assert all(Path(hit["path"]).is_file() and not hit["missing"] for hit in found["hits"])
    assert main(["search", str(index), "red picture", "-k", "2"]) == 0
    output = capsys.readouterr()
    assert "red/" in output.out and "cosine" in output.out and "--html" in output.err


def test_search_by_image_combination_and_weights(index: Path, photos: Path, capsys: Capture) -> None:
    image = photos / "blue" / "2.png"
    found = run_json(capsys, "search", index, "--image", image, "-k", "1")
    assert found["hits"][0]["cosine"] == pytest.approx(1, abs=2e-3)
    assert found["hits"][0]["id"].startswith("blue/")
    options = ["--image", image, "--minus", "blue picture"]
    found = run_json(capsys, "search", index, "red picture", *options, "-k", "4")
    assert {Path(hit["id"]).parent.name for hit in found["hits"]} == {"red"}
    weights = ["--weight", "0.1", "--weight", "3", "--weight", "0"]
    found = run_json(capsys, "search", index, "red picture", *options, *weights, "-k", "4")
    assert {Path(hit["id"]).parent.name for hit in found["hits"]} == {"blue"}
    assert found["query"] == f"red picture image {image} without blue picture"


def test_names_of_images_are_images(
    index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """`--image a b`, `--image a --image b`, and names among the words, such as a shell makes of `*.png`."""
    monkeypatch.chdir(photos)
    (photos / "red" / "my photo.png").symlink_to(photos / "red" / "0.png")
    one, other = "blue/1.png", "red/0.png"

    def search(*query: str) -> tuple[dict, str]:
        assert main(["search", str(index), *query, "-k", "8", "--json"]) == 0
        output = capsys.readouterr()
        return json.loads(output.out), output.err

    (both, silence) = search("--image", one, "--image", other)
    assert both["query"] == f"image {one} image {other}" and "taken as" not in silence
    assert {Path(hit["id"]).parent.name for hit in both["hits"]} == {"blue", "red"}
    assert search("--image", one, other)[0] == both
    found, remarks = search(one, other)
    assert found == both and f"taken as images: {one}, {other}" in remarks
    found, remarks = search(one, "--image", other)
    assert found == both and f"taken as an image: {one}" in remarks
    with_words, _ = search("green picture", one)
    assert with_words == search("green picture", "--image", one)[0]
    assert search("red/my photo.png")[0]["query"] == "image red/my photo.png"
    shared = ("red picture", "--minus", "blue picture")
    several = search(*shared, "--image", one, other, "--weight", "1", "2", "3", "-0.5")
    once_each = (
        "--image",
        one,
        "--image",
        other,
        "--weight",
        "1",
        "--weight",
        "2",
        "--weight",
        "3",
        "--weight",
        "-0.5",
    )
    assert several == search(*shared, *once_each)
    assert main(["search", str(index), one, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_queries_of_standard_input(index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    blue, missing = photos / "blue" / "0.png", photos / "broken.png"
    text = f"\ufeffred picture\n\n  \nblue picture\r\n{blue}\n".encode()

    def answers(text: bytes, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
        code = main(["search", str(index), "-", *options])
        return code, *capsys.readouterr()

    code, out, _ = answers(text, "-k", "4", "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [document["query"] for document in documents] == ["red picture", "blue picture", f"image {blue}"]
    alone = [run_json(capsys, "search", index, query, "-k", "4") for query in ("red picture", "blue picture", blue)]
    assert documents == alone
    code, out, _ = answers(text, "-k", "2")
    assert code == 0 and [out.count(word) for word in ("red picture", "blue picture", "rank")] == [1, 1, 3]
    code, out, err = answers(f"red\n{missing}\nblue\n\udcff.png\n".encode(errors="surrogateescape"), "--json")
    answered = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and ["error" in document for document in answered] == [False, True, False, True]
    assert "broken.png" in answered[1]["error"] and "broken.png" in err
    assert answered[3]["error"] == "the query is neither text in UTF-8 nor the name of an image file"
    code, out, _ = answers(b"red\nblue\n", "--minus", "blue", "--json")
    assert [json.loads(line)["query"] for line in out.splitlines()] == ["red without blue", "blue without blue"]
    assert answers(b"") == (0, "", "")
    assert answers(b"red", "--html", "a.html")[0] == 2
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["search", str(index), "-"]) == 2


def test_what_the_encoder_cannot_read_is_said(
    photos: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["index", str(photos), "--out", str(tmp_path / "index"), "--quiet"]) == 0
    capsys.readouterr()
    apple = run_json(capsys, "search", tmp_path / "index", "red apple")["hits"]
    assert run_json(capsys, "search", tmp_path / "index", "🍎")["hits"] == apple
    assert caplog.messages == []
    run_json(capsys, "search", tmp_path / "index", "赤いりんご", "--minus", "red")
    (message,) = caplog.messages
    assert "photo-clip can read nothing of 1 of 2 query texts ('赤いりんご')" in message


def test_an_encoder_that_reads_no_texts_is_searched_by_image(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["index", str(photos), "--out", str(tmp_path / "in dex"), "--model", "cifar10-simclr"]
    for _ in range(2):
        assert main(command) == 0
        assert f"next: opsin search '{tmp_path / 'in dex'}' --image FILE" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "in dex"), "red"]) == 1
    assert "knows images only; search with --image" in capsys.readouterr().err


def test_more_hits_than_images_any_language_and_a_file_deleted_since(
    index: Path, photos: Path, capsys: Capture
) -> None:
    (photos / "red" / "1.png").unlink()
    found = run_json(capsys, "search", index, "ein roter Ball 赤い", "-k", "1000000")
    assert len(found["hits"]) == 16
    assert [hit["id"] for hit in found["hits"] if hit["missing"]] == ["red/1.png"]
    assert main(["search", str(index), "red", "-k", "99"]) == 0
    assert "red/1.png  (deleted since)" in capsys.readouterr().out


def test_printed_paths_lead_to_the_files_from_where_one_is(
    index: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for here in (photos / "red", photos.parent, tmp_path):
        monkeypatch.chdir(here)
        assert main(["search", str(index), "red", "-k", "1"]) == 0
        shown = Path(next(word for word in capsys.readouterr().out.split() if word.endswith(".png")))
        assert shown.is_file() and shown.resolve().parent == (photos / "red").resolve()


def test_contact_sheet(index: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "sheet.html"
    assert main(["search", str(index), "<red> picture", "--html", str(page)]) == 0
    assert "contact sheet: " in capsys.readouterr().err
    text = page.read_text()
    assert text.count("<img") == 5 and "&lt;red&gt;" in text and "<red>" not in text
    assert main(["search", str(index), "red", "--html", str(tmp_path / "photos")]) == 1
    output = capsys.readouterr()
    assert "cosine" in output.out and "photos" in output.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([""], 2, "the query is empty"),
        (["  \n"], 2, "the query is empty"),
        ([], 2, "the query is empty"),
        (["red", "-k", "0"], 2, "-k must be at least 1"),
        (["red", "-k", "many"], 2, ""),
        (["red", "--minus", ""], 1, "the query is empty"),
        (["--minus", "red"], 2, "the query is empty"),
        (["red", "--minus", "red"], 1, "cancel each other out"),
        (["red", "--weight", "1", "--weight", "2"], 1, "1 parts and 2 weights"),
        (["red", "--weight", "nan"], 2, "--weight must be at least -1000000 and at most 1000000, not nan"),
        (["--image", "missing.png"], 1, "missing.png"),
        (["--image", "photos/broken.png"], 1, "broken.png"),
        (["--image", "photos/empty.jpg"], 1, "empty.jpg"),
        (["--image", "photos/notes.txt"], 1, "notes.txt"),
        (["red", "--backend", "faiss"], 2, ""),
    ],
)
def test_queries_that_make_no_sense(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, options: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(index.parent)
    assert main(["search", str(index), *options]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err and "unexpected" not in output.err


def test_an_index_that_cannot_be_used(index: Path, tmp_path: Path, model: str, capsys: Capture) -> None:
    def complaint(directory: Path) -> str:
        assert main(["search", str(directory), "red"]) == 1
        output = capsys.readouterr()
        assert output.out == "" and len(output.err.splitlines()) == 1
        return output.err

    assert "holds no index; make one with 'opsin index" in complaint(tmp_path / "missing")
    shutil.copytree(index, tmp_path / "newer")
    with closing(sqlite3.connect(tmp_path / "newer" / "index.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "format version 99" in complaint(tmp_path / "newer")
    other = save_directory(tmp_path / "model", tiny_clip(seed=1))
    with closing(sqlite3.connect(index / "index.sqlite3")) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'encoder'", (json.dumps(str(other)),))
        connection.commit()
    assert "has other weights now" in complaint(index)
    shutil.rmtree(other)
    assert f"there is no model '{other}'" in complaint(index)


# ------------------------------------------------------------------------------------------------- embed


@pytest.fixture
def as_written(photos: Path, tmp_path: Path, model: str, capsys: Capture) -> Iterator[Path]:
    command = ["embed", str(photos), "--out", str(tmp_path / "whole"), "--model", model, "--rows-per-shard", "5"]
    assert main(command) == 0
    output = capsys.readouterr()
    assert {"shards written 4", "left out empty.jpg is empty (zero bytes)"} <= set(lines(output.out))
    assert "all shards are there" in output.err
    yield tmp_path / "whole"


def test_embed_as_a_whole_and_in_shares(as_written: Path, photos: Path, model: str, capsys: Capture) -> None:
    out = as_written.with_name("shares")
    command = ["embed", photos, "--out", out, "--model", model, "--rows-per-shard", "5"]
    first = run_json(capsys, *command, "--shard", "2/2")
    assert (first["complete"], first["written"], first["shards"]) == (False, 2, 4)
    assert main([*map(str, command), "--shard", "1/2"]) == 0
    assert content(out) == content(as_written)
    capsys.readouterr()
    again = run_json(capsys, *command)
    assert (again["written"], again["kept"], again["images"], again["complete"]) == (0, 4, 16, True)
    assert np.load(out / "000000.npy").dtype == np.float16


def test_an_index_of_embeddings(as_written: Path, photos: Path, tmp_path: Path, model: str, capsys: Capture) -> None:
    out = tmp_path / "index"
    report = run_json(capsys, "index", "--from", as_written, "--out", out)
    assert (report["images"], len(report["added"]), report["encoded"], report["model"]) == (16, 16, 0, model)
    found = run_json(capsys, "search", out, "red picture", "-k", "4")
    assert {Path(hit["id"]).parent.name for hit in found["hits"]} == {"red"}
    assert run_json(capsys, "index", photos, "--out", out)["unchanged"] == 16
    assert main(["index", "--out", str(tmp_path / "none")]) == 2
    assert "SRC must be given, or --from" in capsys.readouterr().err
    options = ["--from", str(as_written), "--model", "emoji-clip"]
    assert main(["index", str(photos), "--out", str(tmp_path / "other"), *options]) == 1
    assert "which is not the same encoder or has other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--shard", "3/2"], 2, "there is no share 3/2"),
        (["--shard", "half"], 2, "a share of the shards is written i/n"),
        (["--rows-per-shard", "0"], 2, "--rows-per-shard must be at least 1"),
        (["--engine", "spark"], 2, ""),
        (["--model", "no-such-model"], 1, "there is no model"),
        (["--out", "photos"], 1, "holds other files"),
        (["--out", "photos/notes.txt"], 1, "is a file"),
    ],
)
def test_embedding_that_makes_no_sense(
    photos: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(photos.parent)
    settings = {"--out": "out", "--model": model} | dict(zip(options[::2], options[1::2], strict=True))
    assert main(["embed", str(photos), *(part for pair in settings.items() for part in pair)]) == code
    output = capsys.readouterr()
    assert output.out == "" and message in output.err and "unexpected" not in output.err
    assert not Path("out").exists()


def test_a_directory_that_cannot_be_written(photos: Path, model: str, capsys: Capture) -> None:
    for verb in ("index", "embed"):
        out = "/proc/nothing"
        assert main([verb, str(photos), "--out", out, "--model", model]) == 1
        output = capsys.readouterr()
        assert output.out == "" and out in output.err and "unexpected" not in output.err


def test_names_that_are_no_text(index: Path, photos: Path, capsys: Capture) -> None:
    name = os.fsdecode(b"new\nline \xff.png")
    with Image.open(photos / "red" / "0.png") as image:
        image.save(photos / "plain.png")
    (photos / "plain.png").rename(photos / name)
    report = run_json(capsys, "index", photos, "--out", index)
    assert len(report["added"]) == 1 and report["encoded"] == 0
    found = run_json(capsys, "search", index, "--image", photos / "red" / "0.png", "-k", "99")
    assert report["added"][0] in [hit["id"] for hit in found["hits"]] and "\n" not in report["added"][0]


def test_an_index_keeps_what_it_excludes(photos: Path, tmp_path: Path, model: str, capsys: Capture) -> None:
    out = tmp_path / "index"
    first = run_json(capsys, "index", photos, "--out", out, "--model", model, "--exclude", "red", "--exclude", "0.png")
    assert first["images"] == 3 * (len(COLOURS) - 1)
    again = run_json(capsys, "index", photos, "--out", out)
    assert (again["images"], again["added"], again["deleted"]) == (first["images"], [], [])
    other = run_json(capsys, "index", photos, "--out", out, "--exclude", "0.png")
    assert (len(other["added"]), other["deleted"]) == (3, [])
    everything = run_json(capsys, "index", photos, "--out", out, "--exclude", "")
    assert everything["images"] == 4 * len(COLOURS)
    assert run_json(capsys, "index", photos, "--out", out)["images"] == 4 * len(COLOURS)
    shards = run_json(capsys, "embed", photos, "--out", tmp_path / "shards", "--model", model, "--exclude", "red")
    assert shards["images"] == 4 * (len(COLOURS) - 1)
