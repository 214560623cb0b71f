"""Images that a collection has several times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from opsin.cli.main import main
from opsin.data.repeats import NEAR
from opsin.encoders import load
from opsin.encoders.base import ImageEncoder
from opsin.search import duplicates
from opsin.search.duplicates import find_duplicates
from opsin.search.index import ImageIndex


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return load("imagenet", "cpu", "32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts of two photographs, some of them again in other forms, at several depths, and a broken file."""
    folder = tmp_path_factory.mktemp("duplicates")
    palace, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    (folder / "2020" / "trip").mkdir(parents=True)
    palace.crop((0, 0, 300, 400)).save(folder / "a.png")
    palace.crop((340, 0, 640, 400)).save(folder / "b.jpg")
    flower.save(folder / "2020" / "flower.jpg", quality=95)
    flower.crop((0, 0, 200, 200)).save(folder / "corner.png")
    shutil.copy(folder / "a.png", folder / "2020" / "trip" / "a again.png")
    flower.resize((320, 214)).save(folder / "2020" / "small.webp")
    ImageOps.mirror(flower).save(folder / "2020" / "trip" / "mirror.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_copies_sizes_and_mirror_images_are_groups(photos: Path, encoder: ImageEncoder) -> None:
    found = find_duplicates(photos, encoder)
    assert [(group.kind, group.ids) for group in found.groups] == [
        ("near", ("2020/flower.jpg", "2020/trip/mirror.jpg", "2020/small.webp")),
        ("exact", ("2020/trip/a again.png", "a.png")),
    ]
    assert [own.size for own in found.groups[0].facts] == [(640, 427), (640, 427), (320, 214)]
    assert found.paths == [str(photos / name) for name in ("2020/trip/mirror.jpg", "2020/small.webp", "a.png")]
    assert [row.id for row in found.skipped] == ["broken.jpg"]
    figure = found.figure()
    assert figure is not None and sum(bool(axes.images) for axes in figure.axes) == 5
    assert find_duplicates(photos, encoder, exclude=["2020"]).groups == ()
    assert find_duplicates(photos, encoder, exclude=["2020"]).figure() is None


def test_an_index_stands_for_its_source(photos: Path, encoder: ImageEncoder, tmp_path: Path) -> None:
    index = ImageIndex.create(tmp_path / "index", encoder)
    index.update(photos, exclude=["trip"])
    assert [group.ids for group in find_duplicates(tmp_path / "index", encoder).groups] == [
        ("2020/flower.jpg", "2020/small.webp")
    ]


def test_kept_images_are_those_of_a_comparison_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ROWS_AT_A_TIME", 7)
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(40, 3, generator=generator), dim=1)
    looks = torch.rand(40, 4, generator=generator) * 0.1
    looks[[5, 20]] = torch.nan
    expected: list[int] = []
    for row in range(40):
        first = row
        for earlier in sorted(set(expected)):
            looks_same = float((looks[row] - looks[earlier]).square().mean().sqrt()) <= NEAR
            if float(vectors[row] @ vectors[earlier]) >= 0.9 or looks_same:
                first = earlier
                break
        expected.append(first)
    assert duplicates.kept_images(vectors, looks, 0.9).tolist() == expected
    assert 5 < len(set(expected)) < 35


def test_of_a_series_more_than_one_is_kept() -> None:
    """Each is near to the next one only: the first and the third are kept."""
    angles = torch.tensor([0.0, 0.4, 0.8, 1.2])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert duplicates.kept_images(vectors, torch.full((4, 1), torch.nan), 0.9).tolist() == [0, 0, 2, 2]


def test_from_the_command_line(photos: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    picture = tmp_path / "groups.png"
    assert main(["duplicates", str(photos), "--json", "--picture", str(picture)]) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert document["images"] == 7 and [group["kind"] for group in document["groups"]] == ["near", "exact"]
    assert document["groups"][1]["images"][1]["path"] == str(photos / "a.png")
    with Image.open(picture) as drawn:
        assert drawn.width > 300
    assert main(["duplicates", str(photos), "--paths", "--quiet"]) == 0
    assert capfdbinary.readouterr().out.decode().splitlines() == [
        str(photos / name) for name in ("2020/trip/mirror.jpg", "2020/small.webp", "a.png")
    ]
    assert main(["duplicates", str(photos), "--exclude", "2020"]) == 0
    assert b"3 images, of which 0 could go" in capfdbinary.readouterr().out
    assert main(["duplicates", str(photos), "--paths", "--json"]) == 2
    assert main(["duplicates", str(tmp_path / "nowhere")]) == 1
    assert b"nowhere" in capfdbinary.readouterr().err


def test_paths_of_hits(photos: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    index = str(tmp_path / "index")
    assert main(["index", str(photos), "--out", index, "--quiet"]) == 0
    capfdbinary.readouterr()
    assert main(["search", index, "--image", str(photos / "b.jpg"), "--paths", "-k", "1"]) == 0
    assert capfdbinary.readouterr().out.decode() == f"{photos / 'b.jpg'}\n"
    assert main(["search", index, "a flower", "--paths", "--json"]) == 2
