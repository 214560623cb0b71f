"""The guided run and its report."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from matplotlib.figure import Figure

from opsin import ImageIndex
from opsin.cli.main import VERBS, main
from opsin.errors import ConfigError
from opsin.progress import Progress
from opsin.report import Picture, Report, Section, Table, machine, spread
from opsin.sources.opening import open_source
from opsin.systems import SYSTEMS
from opsin.tour import clip, run
from opsin.tour.run import run_tour
from tests.html_page import Page, assert_sound

ENVIRONMENT: dict[str, object] = {
    "cpu": "a <fast> processor",
    "cpu_threads": 2,
    "gpus": ["one & two"],
    "packages": {"opsin": "0", "torch": "0"},
}


def section(title: str = "A & <b>") -> Section:
    picture = Picture(Figure(figsize=(1, 1)), 'Says "this" & that.')
    table = Table(("what", "result"), [("<i>accuracy</i>", "50%")])
    return Section(title, "Introduction.", table, "Measured", "Limits.", [picture], ["opsin doctor"], "Repeat it")


def test_report_is_one_sound_file_whatever_the_texts_hold(tmp_path: Path) -> None:
    report = Report("Title", machine(ENVIRONMENT), "Introduction.", [section(), section()])
    page = Page(report.write(tmp_path / "deep" / "report.html"))
    assert_sound(page)
    assert page.texts["h2"] == ["A & <b>"] * 2
    assert page.texts["td"] == ["50%"] * 2
    assert [image["alt"] for image in page.images] == ['Says "this" & that.'] * 2


def test_tour_trains_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing, for a second of training."""
    assert main(["tour", "--out", str(tmp_path / "tour"), "--max-minutes", "0.02", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    report = Path(json.loads(printed.out)["report"])
    assert printed.err == ""
    page = Page(report)
    assert_sound(page)
    assert page.texts["h2"] == [
        "Image classification",
        "Image captioning",
        "Learning without labels",
        "Images and texts",
        "Drawing from words",
    ]
    assert len(page.images) == 4 + 4 + 3 + 3 + 4
    commands = [shlex.split(line) for text in page.texts["pre"] for line in text.splitlines()]
    assert {command[0] for command in commands} == {"opsin"}
    assert {command[1] for command in commands} <= VERBS.keys()
    for name in ("classification", "captioning", "simclr", "diffusion"):
        assert (report.parent / name / "model" / "model.safetensors").is_file()
    index = ImageIndex.open(report.parent / "clip" / "index")  # left for further searches
    assert (len(index), index.info.encoder) == (len(open_source("emoji")), "emoji-clip")


@pytest.fixture
def quick_tour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tour of one section that only writes a file."""

    def make(directory: Path, minutes: float, progress: Progress | None) -> Section:
        directory.mkdir(exist_ok=True)
        (directory / "minutes").write_text(str(minutes))
        return section()

    rows = {
        name: dataclasses.replace(SYSTEMS[name], tour_section=f"{section}:make", tour_share=share)
        for name, section, share in (("vit", "made.classification", 3.0), ("clip", "made.clip", 0.0))
    }
    monkeypatch.setattr(run, "SYSTEMS", rows)
    for row in rows.values():
        monkeypatch.setitem(sys.modules, row.tour_section.partition(":")[0], SimpleNamespace(make=make))


@pytest.mark.usefixtures("quick_tour")
def test_a_tour_replaces_only_what_a_tour_has_made(tmp_path: Path) -> None:
    run_tour(tmp_path / "tour", training_minutes=4)
    assert (tmp_path / "tour" / "classification" / "minutes").read_text() == "4.0"
    assert (tmp_path / "tour" / "clip" / "minutes").read_text() == "0.0"  # nothing to train takes nothing from others
    assert run_tour(tmp_path / "tour", training_minutes=5) == tmp_path / "tour" / "report.html"
    assert (tmp_path / "tour" / "classification" / "minutes").read_text() == "5.0"

    mine = tmp_path / "runs" / "classification" / "minutes"
    mine.parent.mkdir(parents=True)
    mine.write_text("a run of mine")
    with pytest.raises(ConfigError, match="made by something else than a tour"):
        run_tour(tmp_path / "runs")
    assert mine.read_text() == "a run of mine"


@pytest.mark.usefixtures("quick_tour")
def test_unusable_tours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_minutes must be above 0, not 0"):
        run_tour(tmp_path / "tour", training_minutes=0)
    assert not (tmp_path / "tour").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be used"):
        run_tour(tmp_path / "file")
    (tmp_path / "tour").mkdir()
    with filelock.FileLock(tmp_path / "tour" / ".lock"), pytest.raises(ConfigError, match="another tour"):
        run_tour(tmp_path / "tour")


def test_labels_of_the_tour_are_told_by_subgroups_that_exist() -> None:
    """Each label has drawings, each beginning of a subgroup is one, and none has two labels."""
    subgroups = set(open_source("emoji").metadata["subgroup"].tolist())
    assert clip.LABELS.keys() == clip.SUBGROUPS.keys()
    beginnings = [beginning for label in clip.LABELS for beginning in clip.SUBGROUPS[label]]
    for beginning in beginnings:
        assert any(subgroup.startswith(beginning) for subgroup in subgroups), beginning
    for subgroup in subgroups:
        assert sum(subgroup.startswith(beginning) for beginning in beginnings) <= 1, subgroup
    assert set(clip.MATRIX.values()) <= set(open_source("emoji").metadata["code"].tolist())


def test_texts_of_the_matrix_are_no_names() -> None:
    source = open_source("emoji")
    assert source.captions is not None
    names = dict(zip(source.metadata["code"].tolist(), source.captions, strict=True))
    assert [text for text, code in clip.MATRIX.items() if text in names[code]] == []


def test_spread_over_what_there_is() -> None:
    assert spread(range(10, 20), 3) == [10, 14, 19]
    assert spread([4, 7], 5) == [4, 7]
    assert spread([], 5) == []
