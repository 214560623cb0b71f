"""Embedding with Ray Data: the same bytes as without it, and one clear line when something goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opsin.cli.main import main
from opsin.errors import CheckpointError, ConfigError, MissingExtraError
from opsin.search.collection import open_collection
from opsin.search.embedding import embed, encoder_info, plan
from opsin.search.ray_engine import ShardWriter
from tests.search.colours import ColourEncoder, load_colours, paint_many
from tests.search.test_embedding import content, load_small_clip

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ray") / "photos"
    paint_many(directory, 50)
    (directory / "020.png").write_bytes(b"no image")
    return directory


@pytest.fixture(scope="module")
def results(photos: Path) -> dict[str, Any]:
    """What `ray_run` prints; its directories lie beside the photos."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.search.ray_run", str(photos), str(photos.parent)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_ray_gives_the_same_bytes(photos: Path, results: dict[str, Any], tmp_path: Path) -> None:
    """And lists the broken image."""
    embed(photos, tmp_path / "local", load_small_clip, rows_per_shard=16)
    assert results["good"] == [4, ["020.png"]]
    assert content(photos.parent / "good") == content(tmp_path / "local")


def test_a_worker_without_the_weights_is_named_as_such(photos: Path, results: dict[str, Any]) -> None:
    assert results["offline"] == ["OfflineError", "the weights are not on this machine"]
    assert not (photos.parent / "offline").exists()


def test_a_worker_that_dies_is_not_started_for_ever(photos: Path, results: dict[str, Any]) -> None:
    kind, message = results["deadly"]
    assert kind == "CheckpointError"
    assert message.startswith("Ray failed (") and message.endswith("or use --shard i/n")
    assert "\n" not in message
    assert not (photos.parent / "deadly").exists()


class OddEncoder(ColourEncoder):
    def encode_image(self, *_: object, **__: object) -> Any:
        raise KeyError("a long story\nof many lines")


def test_what_goes_wrong_in_a_worker_is_a_result(photos: Path, tmp_path: Path) -> None:
    collection = open_collection(photos)
    task = plan(collection, encoder_info(ColourEncoder()), rows_per_shard=16)[1]

    def problem(load: Any, out: Path) -> Any:
        writer = pickle.loads(pickle.dumps(ShardWriter(collection, out, load, 4)))
        (found,) = writer({"task": [task]})["problem"]
        return found

    found = problem(OddEncoder, tmp_path / "odd")
    assert isinstance(found, CheckpointError)
    assert str(found).startswith("Ray failed (KeyError: 'a long story\\nof many lines'); the shards")
    assert not (tmp_path / "odd").exists()
    (tmp_path / "full" / "000001.npy").mkdir(parents=True)
    assert "000001.npy could not be written" in str(problem(load_colours, tmp_path / "full"))
    assert problem(load_colours, tmp_path / "out") is None
    assert len(content(tmp_path / "out")) == 3


@pytest.mark.parametrize("module", ["ray", "ray.data"])
def test_without_ray(module: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"needs Ray Data: pip install 'opsin\[ray\]'"):
        embed(photos, tmp_path / "out", load_colours, engine="ray")
    assert not (tmp_path / "out").exists()


def test_without_ray_on_the_command_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(["embed", str(photos), "--out", str(out), "--engine", "ray", "--device", "cpu", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("opsin: the engine ray needs Ray Data: pip install 'opsin[ray]'")
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_encoders_that_cannot_be_told_apart_are_refused(photos: Path, tmp_path: Path) -> None:
    encoder = ColourEncoder()
    del encoder.fingerprint
    with pytest.raises(ConfigError, match="ColourEncoder holds no network.*attribute `fingerprint`"):
        embed(photos, tmp_path / "out", lambda: encoder)
