"""Parquet files as Hugging Face image data sets write them, and as other people do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opsin.data.captioned import with_captions
from opsin.data.pixels import load_pixels
from opsin.errors import DataError
from opsin.sources import parquet_files
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled, open_source
from opsin.sources.parquet import parquet_source
from opsin.sources.parquet_files import find_parquet
from tests.conftest import MakeImage, MakeParquet, encoded, image_cell


def schema_metadata(names: list[str]) -> dict[str, str]:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def labels_of(source: ImageSource) -> list[str]:
    assert source.labels is not None
    assert source.class_names is not None
    return [source.class_names[label] for label in source.labels]


def test_hugging_face_columns(make_parquet: MakeParquet) -> None:
    columns = {
        "image": [image_cell((row, 0, 0), f"{row}.png") for row in range(3)],
        "label": [2, 0, 1],
        "captions": [["a", "b"], [], None],
        "width": [4, 4, 4],
    }
    source = open_source(make_parquet("train.parquet", columns, schema_metadata(["ant", "bee", "cow"])))
    assert source.ids == ["train/000000", "train/000001", "train/000002"]
    assert source.class_names == ("ant", "bee", "cow")
    assert labels_of(source) == ["cow", "ant", "bee"]
    assert source.captions == [("a", "b"), (), ()]
    assert [source.load(row).getpixel((0, 0)) for row in range(3)] == [(row, 0, 0) for row in range(3)]
    assert source.splits is None


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([1, 0], None, ["1", "0"]),
        ([7, 10**12, 7], None, ["7", "1000000000000", "7"]),
        ([2.0, 0.0], None, ["2", "0"]),
        ([1.0, 0.0], ["no", "yes"], ["yes", "no"]),
        (["dog", "cat"], None, ["dog", "cat"]),
        (pa.array(["dog", "cat"]).dictionary_encode(), None, ["dog", "cat"]),
        ([True, False], ["no", "yes"], ["yes", "no"]),
    ],
)
def test_kinds_of_labels(make_parquet: MakeParquet, labels: Any, names: list[str] | None, expected: list[str]) -> None:
    metadata = None if names is None else schema_metadata(names)
    file = make_parquet("a.parquet", {"image": [image_cell()] * len(labels), "label": labels}, metadata)
    source = open_source(file)
    assert labels_of(source) == expected
    assert source.class_names is not None and len(source.class_names) == 2


@pytest.mark.parametrize("metadata", [{"huggingface": "no json"}, {"huggingface": "[]"}, {"other": "x"}])
def test_schema_metadata_of_another_kind(make_parquet: MakeParquet, metadata: dict[str, str]) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()], "label": [0]}, metadata)
    assert open_source(file).class_names == ("0",)


@pytest.mark.parametrize("column", ["captions", "caption", "text", "title", "Caption", "caption_0"])
def test_names_of_caption_columns(make_parquet: MakeParquet, column: str) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()] * 3, column: [" one ", None, " "]})
    assert open_source(file).captions == [("one",), (), ()]


def test_several_columns_of_captions_are_all_taken(make_parquet: MakeParquet) -> None:
    columns = {"caption_1": ["b", None], "Caption_0": ["a", "x"], "caption_2": [["c", "d"], []], "text": ["no", "no"]}
    assert open_source(make_parquet("a.parquet", {"image": [image_cell()] * 2, **columns})).captions == [
        ("a", "b", "c", "d"),
        ("x",),
    ]


def test_columns_that_are_no_captions_are_named(make_parquet: MakeParquet) -> None:
    source = open_source(make_parquet("a.parquet", {"image": [image_cell()], "caption": [3], "legend": ["a dog"]}))
    with pytest.raises(DataError, match=r"The columns of a\.parquet are image, caption, legend$"):
        with_captions(source)


@pytest.mark.parametrize("columns", [{"text": [1]}, {"caption": [{"raw": "a"}]}, {"label": [[0.5]]}, {"label": [0.5]}])
def test_columns_of_unusable_types_count_as_absent(make_parquet: MakeParquet, columns: dict[str, Any]) -> None:
    source = open_source(make_parquet("a.parquet", {"image": [image_cell()], **columns}))
    assert source.labels is None
    assert source.captions is None


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_in_a_column_named_img(make_parquet: MakeParquet, kind: pa.DataType) -> None:
    file = make_parquet("a.parquet", {"img": pa.array([encoded("blue")], type=kind)})
    assert open_source(file).load(0).getpixel((0, 0)) == (0, 0, 255)


def test_broken_rows_are_named_and_dropped(make_parquet: MakeParquet) -> None:
    cells = [
        image_cell("red"),
        None,
        {"bytes": None, "path": "b.png"},
        {"bytes": b"no", "path": None},
        image_cell("blue"),
    ]
    source = open_source(make_parquet("a.parquet", {"image": cells, "label": [0, 1, 2, 3, 4]}))
    with pytest.raises(DataError, match=r"a/000001 of .*a\.parquet has no image"):
        source.load(1)
    usable, pixels = load_pixels(source, 4)
    assert labels_of(usable) == ["0", "4"]
    assert pixels[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert [row.id for row in usable.skipped] == ["a/000001", "a/000002", "a/000003"]


@pytest.mark.parametrize("labels", [[None, 1, -1, 0], [np.nan, 1.0, -1.0, 0.0]], ids=["integers", "pandas"])
def test_rows_without_label_are_skipped_where_labels_count(
    make_parquet: MakeParquet, labels: list[float | None]
) -> None:
    columns = {"image": [image_cell((row, 0, 0)) for row in range(4)], "label": labels, "text": list("abcd")}
    file = make_parquet("a.parquet", columns)
    assert open_source(file).captions == [("a",), ("b",), ("c",), ("d",)]
    source = open_labelled(str(file))
    assert labels_of(source) == ["1", "0"]
    assert source.captions == [("b",), ("d",)]
    assert [source.load(row).getpixel((0, 0)) for row in range(2)] == [(1, 0, 0), (3, 0, 0)]
    assert [row.reason for row in source.skipped] == ["2 images without a label, for example a/000000"]


@pytest.mark.parametrize("labels", [[None, None], [-1, -1], [np.nan, np.nan], [0.5, 1.0]])
def test_no_label_at_all_is_an_unlabelled_source(make_parquet: MakeParquet, labels: list[float | None]) -> None:
    source = open_source(make_parquet("a.parquet", {"image": [image_cell()] * 2, "label": labels}))
    assert len(source) == 2
    assert source.labels is None


# -------------------------------------------------------------------------------------------- several files


def test_files_of_a_directory_by_split(make_parquet: MakeParquet, tmp_path: Path) -> None:
    names = (
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation",
        "test_small",
        ".trash",
    )
    for row, name in enumerate(names):
        make_parquet(f"d/{name}.parquet", {"image": [image_cell((row, 0, 0))], "label": [row]})
    source = open_source(tmp_path / "d")
    assert source.splits is not None
    assert sorted(zip(source.ids, map(str, source.splits), labels_of(source), strict=True)) == [
        ("test_small/000000", "test", "3"),
        ("train-00000-of-00002/000000", "train", "0"),
        ("train-00001-of-00002/000000", "train", "1"),
        ("validation/000000", "val", "2"),
    ]
    assert [source.load(row).getpixel((0, 0))[0] for row in range(4)] == source.labels.tolist()  # type: ignore[union-attr, index]


def test_files_without_a_split(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("d/part1.parquet", {"image": [image_cell()]})
    make_parquet("d/part2.parquet", {"image": [image_cell()]})
    assert list(find_parquet(tmp_path / "d")) == [None]
    assert open_source(tmp_path / "d").splits is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training", "train"),
        ("dev", "val"),
        ("testing", "test"),
        ("eval-0000", "test"),
        ("test2017", "test"),
        ("x", None),
    ],
)
def test_splits_have_many_names(make_parquet: MakeParquet, tmp_path: Path, name: str, split: str | None) -> None:
    make_parquet(f"{name}.PARQUET", {"image": [image_cell()]})
    assert list(find_parquet(tmp_path)) == [split]


def test_files_without_a_split_are_not_trained_on_where_others_have_one(
    make_parquet: MakeParquet, tmp_path: Path
) -> None:
    for name in ("train", "unseen"):
        make_parquet(f"d/{name}.parquet", {"image": [image_cell()]})
    source = open_source(tmp_path / "d")
    assert source.ids == ["train/000000"]
    assert [row.id for row in source.skipped] == ["unseen.parquet"]


def test_classes_that_files_number_differently(make_parquet: MakeParquet, tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        make_parquet(f"d/{split}.parquet", {"image": [image_cell()], "label": [0]}, schema_metadata(names))
    with pytest.raises(DataError, match="name their classes differently: dog, cat; and cat, dog"):
        open_source(tmp_path / "d")


def test_texts_as_labels_are_numbered_over_all_files(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("d/train.parquet", {"image": [image_cell()] * 2, "label": ["dog", "cat"]})
    make_parquet("d/test.parquet", {"image": [image_cell()], "label": ["ant"]})
    source = open_source(tmp_path / "d")
    assert source.class_names == ("ant", "cat", "dog")
    assert labels_of(source.split("train")) == ["dog", "cat"]


def test_file_without_the_label_column_leaves_the_others_labelled(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("d/train.parquet", {"image": [image_cell()] * 2, "label": [0, 1]})
    make_parquet("d/test.parquet", {"image": [image_cell()], "text": ["hidden"]})
    assert open_source(tmp_path / "d").captions == [("hidden",), (), ()]
    source = open_labelled(str(tmp_path / "d"))
    assert source.ids == ["train/000000", "train/000001"]
    assert labels_of(source) == ["0", "1"]
    assert [row.reason for row in source.skipped] == ["1 image without a label, for example test/000000"]


def test_names_for_integer_labels_can_be_given(make_parquet: MakeParquet) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()], "label": [1]})
    assert parquet_source({None: [file]}, "a", class_names=("x", "y")).class_names == ("x", "y")


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": [0], "photo": [image_cell()]}, "no column `image`; its columns are label, photo"),
        ({"image": [{"path": "a.png"}]}, "no field `bytes`"),
        ({"image": ["a.png"]}, "holds string, not encoded images"),
        ({"image": pa.array([], type=pa.binary())}, "has no rows"),
    ],
)
def test_file_that_is_no_source(make_parquet: MakeParquet, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(make_parquet("a.parquet", columns))


def test_label_beyond_the_names(make_parquet: MakeParquet) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()], "label": [2]}, schema_metadata(["ant", "bee"]))
    with pytest.raises(DataError, match="a label is 2, and there are 2 classes"):
        open_source(file)


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_damaged_file(make_parquet: MakeParquet, keep: int) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()]})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.parquet is not a readable parquet file"):
        open_source(file)


def test_images_in_columns_of_two_types(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("d/train.parquet", {"image": [image_cell("red")]})
    make_parquet("d/test.parquet", {"image": pa.array([encoded("blue")], type=pa.binary())})
    source = open_source(tmp_path / "d")
    assert {source.ids[row]: source.load(row).getpixel((0, 0)) for row in range(2)} == {
        "train/000000": (255, 0, 0),
        "test/000000": (0, 0, 255),
    }


# -------------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([["dog", "cat"], ["cat"], [], None], ("cat", "dog")),
        ([[1, 0], [0], [], [-1]], ("0", "1")),
        (pa.array([["dog ", "cat"], ["CAT"], ["cat"], ["cat"]]), ("cat", "dog")),
    ],
)
def test_lists_of_labels(make_parquet: MakeParquet, labels: Any, names: tuple[str, ...]) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()] * 4, "label": labels})
    source = open_source(file)
    assert (source.labels, source.class_names) == (None, names)
    assert source.label_sets is not None
    assert source.label_sets[:2] == [(0, 1), (0,)]
    assert source.select(np.array([1])).label_sets == [(0,)]
    with pytest.raises(DataError, match="1 of the 4 images of .* has several labels, for example a/000000"):
        open_labelled(str(file))


def test_lists_of_one_label_each_are_labels(make_parquet: MakeParquet) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell()] * 3, "labels": [["b"], ["a"], []]})
    assert labels_of(open_labelled(str(file))) == ["b", "a"]


# -------------------------------------------------------------------------------------------- repositories


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001", "data/test-00000-of-00001"),
        ("train/0000", "test/0000"),
        ("data/train/0000", "data/test/0000"),
        ("plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001"),
        ("default/train/0000", "default/test/0000"),
    ],
)
def test_repository_as_downloaded(make_parquet: MakeParquet, tmp_path: Path, train: str, test: str) -> None:
    make_parquet(f"repo/{train}.parquet", {"image": [image_cell((1, 0, 0)), image_cell((2, 0, 0))], "label": [0, 1]})
    make_parquet(f"repo/{test}.parquet", {"image": [image_cell((3, 0, 0))], "label": [1]})
    (tmp_path / "repo/README.md").write_text("---\n", encoding="utf-8")
    (tmp_path / "repo/example.png").write_bytes(encoded())
    source = open_source(tmp_path / "repo")
    assert len(set(source.ids)) == 3
    reds = {split: [] for split in ("train", "test")}  # type: ignore[var-annotated]
    for row, split in enumerate(source.splits if source.splits is not None else ()):
        reds[str(split)].append(source.load(row).getpixel((0, 0))[0])  # type: ignore[index]
    assert reds == {"train": [1, 2], "test": [3]}


def test_repository_of_several_configurations(make_parquet: MakeParquet, tmp_path: Path) -> None:
    for name in ("small", "large"):
        make_parquet(f"repo/{name}/train.parquet", {"image": [image_cell()]})
    with pytest.raises(DataError, match="several configurations of a dataset, in large, small; name one of"):
        open_source(tmp_path / "repo")
    assert open_source(tmp_path / "repo/small").ids == ["train/000000"]


def test_few_rows_below_many_images_are_not_the_source(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("photos/results/train.parquet", {"image": [image_cell()]})
    for row in range(3):
        (tmp_path / f"photos/{row}.png").write_bytes(encoded())
    assert open_source(tmp_path / "photos").ids == ["0.png", "1.png", "2.png"]


# -------------------------------------------------------------------------------------------- bounds


def repeated(value: Any, count: int) -> pa.Array:
    """A value that a parquet file stores once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([value]))


def test_small_files_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    """Read by a process that may have 1.5 GB of address space besides its libraries."""
    images, captions = repeated(encoded(), 3000), repeated("x" * 10**6, 3000)
    files: dict[str, tuple[dict[str, pa.Array], str]] = {
        "image-stored-once": ({"image": repeated(bytes(10**6), 3000)}, "is not an image"),
        "compressed-image": ({"image": pa.array([bytes(10**8)] * 3)}, "its column 'image' unpacks from"),
        "caption-stored-once": ({"image": images, "caption": captions}, "fine"),
        "rows": ({"image": pa.nulls(2_000_000, pa.binary())}, "too few for images"),
    }
    for name, (columns, _) in files.items():
        path, dictionary = tmp_path / f"{name}.parquet", name != "compressed-image"
        pq.write_table(pa.table(columns), path, use_dictionary=dictionary, compression="zstd", store_schema=False)
        assert path.stat().st_size < 1_000_000
    script = f"""
import resource
import opsin.sources.folders, opsin.sources.parquet
from opsin.sources.opening import open_source
from opsin.errors import DataError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000,) * 2)
for name in {list(files)}:
    try:
        source = open_source(f"{tmp_path}/{{name}}.parquet")
        source.load(len(source) - 1)
        assert [sum(map(len, texts)) for texts in source.captions] == [10**6] * 3000
        print("fine")
    except DataError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    for line, (_, expected) in zip(done.stdout.splitlines(), files.values(), strict=True):
        assert expected in line, done.stdout + done.stderr


def test_images_are_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "CACHED_BYTES", 1)
    images = pa.array([encoded((row, 0, 0)) for row in range(10)])
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=3)
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "a.parquet")))
    order = [9, 0, 4, 4, 8, 2]
    assert [source.load(row).getpixel((0, 0))[0] for row in order] == order


def test_labels_of_two_types(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("d/train.parquet", {"image": [image_cell()], "label": [0]})
    make_parquet("d/test.parquet", {"image": [image_cell()], "label": ["cat"]})
    with pytest.raises(DataError, match="labels must be texts or whole numbers"):
        open_source(tmp_path / "d")


def test_selected_rows_load_their_own_image(make_parquet: MakeParquet) -> None:
    file = make_parquet("a.parquet", {"image": [image_cell((row, 0, 0)) for row in range(6)]})
    chosen = open_source(file).select(np.array([4, 2]))
    assert [chosen.load(row).getpixel((0, 0)) for row in range(2)] == [(4, 0, 0), (2, 0, 0)]


def test_parquet_files_below_that_opsin_wrote_are_no_data(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("photos/1.png")
    shards = tmp_path / "photos" / "embeddings"
    shards.mkdir()
    (shards / "manifest.json").write_text("{}")
    (shards / "000000.npy").write_bytes(b"")
    pq.write_table(pa.table({"path": ["1.png"] * 9}), shards / "000000.parquet")
    os.mkfifo(tmp_path / "photos" / "pipe.parquet")
    assert find_parquet(tmp_path / "photos") == {}
    assert open_source(tmp_path / "photos").ids == ["1.png"]


@pytest.mark.parametrize("twice", ["image", "label"])
def test_two_columns_of_one_name(tmp_path: Path, twice: str) -> None:
    cells, labels = pa.array([image_cell()] * 2), pa.array(["a", "b"])
    columns = {"image": [cells, cells, labels], "label": [cells, labels, labels]}[twice]
    names = {"image": ["image", "image", "label"], "label": ["image", "label", "label"]}[twice]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=f"has two columns '{twice}'; rename one of them"):
        open_source(tmp_path / "x.parquet")


def test_two_classes_of_one_name(make_parquet: MakeParquet) -> None:
    path = make_parquet("x.parquet", {"image": [image_cell()] * 2, "label": [0, 1]}, schema_metadata(["a", "a"]))
    with pytest.raises(DataError, match="two of its classes are called 'a'"):
        open_source(path)


def test_names_of_classes_are_fit_to_print(make_parquet: MakeParquet) -> None:
    names = ["\x1b[31mred", "\ud800"]
    path = make_parquet("x.parquet", {"image": [image_cell()] * 2, "label": [0, 1]}, schema_metadata(names))
    assert open_source(path).class_names == ("\\x1b[31mred", "\\ud800")


def test_blank_labels_are_none(make_parquet: MakeParquet) -> None:
    source = open_source(make_parquet("x.parquet", {"image": [image_cell()] * 3, "label": ["a", " ", ""]}))
    assert source.class_names == ("a",) and source.labels is not None
    assert source.labels.tolist() == [0, -1, -1]
