"""`opsin evaluate RUN --protocol`: what it prints, and which options belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from opsin.cli.main import main
from opsin.probing.evaluation import Knn, Linear, evaluate_encoder
from opsin.simclr.inference import SimclrEncoder

from ..simclr.conftest import Run, make_pattern_folder


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_the_command_prints_the_protocol_beside_the_score(
    name: str, pattern_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(pattern_run[0])
    options = ["--protocol", name, "--labels-fraction", "1", "--device", "cpu", "--precision", "32"]
    picture = tmp_path / "picture.png"
    assert main(["evaluate", run, *options, "--json", "--quiet", "--picture", str(picture)]) == 0
    document = json.loads(capsys.readouterr().out)
    encoder = SimclrEncoder.from_pretrained(run, device="cpu", precision="32")
    expected = evaluate_encoder(encoder, {"knn": Knn, "linear": Linear}[name](labels_fraction=1.0))
    assert document["accuracy"] == pytest.approx(expected.trained.metrics.accuracy, abs=1e-6)
    assert document["labels_fraction"] == pytest.approx(36 / 37, abs=1e-6)
    assert document["protocol"] == expected.protocol and "36 of 37 labelled images" in expected.protocol
    assert expected.untrained is not None
    assert document["untrained"]["accuracy"] == pytest.approx(expected.untrained.metrics.accuracy, abs=1e-6)
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert main(["evaluate", run, *options]) == 0
    printed = capsys.readouterr()
    assert expected.protocol in printed.out and "the same untrained" in printed.out
    assert "left out  fine/broken.png" in printed.out and f"next: opsin evaluate {run} --protocol" in printed.err


def test_a_classifier_can_be_evaluated_by_its_features_and_options_have_their_protocol(
    pattern_run: Run, pattern_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(pattern_run[0])
    for options, words in (
        (["--protocol", "linear", "-k", "3"], "-k and --temperature are for --protocol knn, not for linear"),
        (["--labels-fraction", "1.5"], "--labels-fraction must be above 0 and at most 1, not 1.5"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--k", "0"], "--k must be at least 1"),
        (["--worst", "3"], "--worst is for captioners"),
        (["--guidances", "2"], "--guidances is for text-to-image models"),
        (["--zero-shot", "--protocol", "knn"], "--protocol is for encoders, and"),
    ):
        assert main(["evaluate", run, *options, "--quiet"]) == 2
        assert words in capsys.readouterr().err
    assert main(["evaluate", run, "--data", str(pattern_folder), "-k", "3", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["k"] == 3


def test_the_earlier_name_of_the_courses_protocol_still_works(
    pattern_run: Run, pattern_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["evaluate", str(pattern_run[0]), "--data", str(pattern_folder), "--device", "cpu", "--json"]
    found = []
    for option in (["--protocol", "linear-seed"], ["--protocol=linear-seed"], ["--protocol", "linear-course"]):
        assert main([*common, *option]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] == found[2] and found[0]["name"] == "linear-course"
    assert main(["evaluate", "linear-seed", "--protocol", "knn"]) == 1
    assert "linear-seed" in capsys.readouterr().err


def test_fitted_on_one_source_and_evaluated_on_another(
    pattern_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_pattern_folder(tmp_path / "a", 6), make_pattern_folder(tmp_path / "b", 2)
    options = ["--data", str(second), "--train-data", str(first), "--device", "cpu", "--json"]
    for protocol in ("knn", "linear"):
        picture = tmp_path / f"{protocol}.png"
        command = ["evaluate", str(pattern_run[0]), "--protocol", protocol, "--labels-fraction", "1"]
        assert main([*command, *options, "--picture", str(picture)]) == 0
        printed = capsys.readouterr()
        document = json.loads(printed.out)
        assert (document["count"], document["labelled"], document["split"]) == (6, 18, "all")
        assert document["train_data"] == str(first) and f"18 of 19 labelled images of {str(first)!r}" in printed.out
        assert f"--data {second} --train-data {first} --protocol" in printed.err and picture.is_file()
