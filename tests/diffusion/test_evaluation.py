"""Judging drawings: by a judge that errs in known ways, and by emoji-clip."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.drawings import Generation, Sampling
from opsin.diffusion.evaluation import Cell, DrawingJudge, Evaluation, PartScores, evaluate_drawing
from opsin.diffusion.exam import Exam, as_images, open_exam
from opsin.diffusion.pictures import close_calls_figure, fidelity_figure
from opsin.encoders.loading import load_image_text
from opsin.errors import ConfigError, DataError
from opsin.images.opening import ImageLike, open_image
from opsin.pictures import save_figure
from opsin.pretrained import RunRecord

from .conftest import tiny_config

SIZE = 8
THINGS = 24
MISTAKEN = {f"thing {number}" for number in (1, 2, 3, 7, 11, 12)}


def drawing_of(number: int, style: int) -> np.ndarray:
    """uint8 (8, 8, 3): coarse random patches, the second style being a little brighter."""
    generator = np.random.default_rng(number)
    patches = generator.integers(40, 200, (4, 4, 3)).repeat(2, axis=0).repeat(2, axis=1)
    return (patches + 20 * style).astype(np.uint8)


DEFAULT = Sampling(steps=20)


class PatchJudge:
    """Images and texts are their patches' colours; of some names it has a wrong picture in mind."""

    name = "patch-judge"
    logit_scale = 1.0
    fingerprint = "patch-judge 1"

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        pixels = [np.asarray(open_image(image).resize((4, 4), Image.Resampling.BOX)) for image in images]
        features = torch.from_numpy(np.stack(pixels)).float().flatten(1) / 255 - 0.5
        return F.normalize(features, dim=1) if normalize else features

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        pictures = []
        for text in texts:
            number = int(re.findall(r"\d+", text)[0]) + 100 * (text in MISTAKEN)
            pictures.append(Image.fromarray(drawing_of(number, 0)))
        return self.encode_image(pictures, normalize=normalize)


class Painter:
    """Draws by a function of (prompt, number of the drawing)."""

    def __init__(self, paint: dict[str, list[Image.Image]], name: str = "painter") -> None:
        self.paint = paint
        self.fingerprint = name
        self.precision = "32"
        self.asked: list[tuple[float, int, str]] = []
        self.settings: list[tuple[str, str]] = []
        self.stop_at = 10**9

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int = 1,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        asked = sampling or DEFAULT
        assert asked.steps is not None
        self.asked.append((asked.guidance_scale, asked.steps, asked.sampler))
        self.settings.append((asked.spacing, asked.threshold))
        if len(self.asked) > self.stop_at:
            raise KeyboardInterrupt
        results = []
        for prompt in [prompts] if isinstance(prompts, str) else prompts:
            known = self.paint[prompt]
            results.append(Generation(prompt, tuple(known[index % len(known)] for index in range(num_images))))
        return results


def real_images(exam: Exam) -> dict[str, list[Image.Image]]:
    """Every real image of what an exam asks for."""
    return {
        exam.names[number]: as_images(part.real.pixels[part.real.names == number])
        for part in exam.parts.values()
        for number in part.prompts
    }


def noise_images(exam: Exam) -> dict[str, list[Image.Image]]:
    generator = np.random.default_rng(9)
    size = next(iter(exam.parts.values())).real.pixels.shape[-1]
    draw = lambda: Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))  # noqa: E731
    return {prompt: [draw(), draw()] for prompts in exam.prompts.values() for prompt in prompts}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawings of some things and one of others, all with a second caption for the first, and a broken file."""
    directory = tmp_path_factory.mktemp("things") / "images"
    directory.mkdir()
    rows = ["file,caption", "broken.png,thing 99"]
    for number in range(THINGS):
        for style in range(1 if number % 3 else 2):
            Image.fromarray(drawing_of(number, style)).save(directory / f"{number}-{style}.png")
            rows.append(f"{number}-{style}.png, thing {number} ")
        rows.append(f"{number}-0.png,the thing number {number}")
    (directory / "broken.png").write_bytes(b"no image")
    (directory / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def config(things: Path) -> DiffusionConfig:
    return tiny_config(things, image_size=SIZE, val_fraction=0.4)


@pytest.fixture(scope="module")
def exam(config: DiffusionConfig) -> Exam:
    return open_exam(RunRecord(config=config), PatchJudge(), SIZE)


@pytest.fixture(scope="module")
def judge(exam: Exam) -> DrawingJudge:
    return DrawingJudge(exam, PatchJudge())


# ---------------------------------------------------------------------------------------------- the exam


def test_held_out_prompts_are_no_captions_of_training_images(config: DiffusionConfig, exam: Exam) -> None:
    source = config.open()
    rows = config.rows(source)
    assert source.captions is not None
    trained = {text for row in rows["train"] for text in source.captions[row]}
    held_out = {source.captions[row][0] for row in rows["val"]} - trained
    assert set(exam.prompts["train"]) == {source.captions[row][0] for row in rows["train"]} - {"thing 99"}
    assert set(exam.prompts["held_out"]) == held_out - {"thing 99"}
    assert len(held_out) >= 2 and len({source.captions[row][0] for row in rows["val"]} & trained) >= 2
    assert len(exam.names) == THINGS + 1, "each first name once, also that of a broken image"
    assert exam.training is not None and len(exam.training) in (len(rows["train"]), len(rows["train"]) - 1)
    assert [row.id for row in exam.skipped] == ["broken.png"]


def test_what_held_out_means_is_said(config: DiffusionConfig, exam: Exam) -> None:
    caveat = "(held out from this network; its text encoder and the judge may have seen them)"
    assert caveat in exam.protocol
    assert caveat not in open_exam(RunRecord(config=config), PatchJudge(), SIZE, split="train").protocol


def test_an_exam_without_held_out_images_says_so(config: DiffusionConfig) -> None:
    everything = open_exam(
        RunRecord(config=dataclasses.replace(config, train_on="all")), PatchJudge(), SIZE, num_prompts=5
    )
    assert list(everything.parts) == ["train"] and len(everything.prompts["train"]) == 5
    assert "no prompt is held out from training" in everything.protocol
    again = open_exam(RunRecord(config=dataclasses.replace(config, train_on="all")), PatchJudge(), SIZE, num_prompts=5)
    assert again.prompts == everything.prompts and again.digest == everything.digest
    other = open_exam(
        RunRecord(config=dataclasses.replace(config, train_on="all")), PatchJudge(), SIZE, num_prompts=5, seed=1
    )
    assert other.prompts != everything.prompts and other.digest != everything.digest


def test_a_split_and_another_source(config: DiffusionConfig, exam: Exam, prompted_folder: Path) -> None:
    assert list(open_exam(RunRecord(config=config), PatchJudge(), SIZE, split="train").parts) == ["train"]
    validation = open_exam(RunRecord(config=config), PatchJudge(), SIZE, split="val")
    assert validation.prompts == {"held_out": exam.prompts["held_out"]}
    assert (
        "no prompt is held out" not in open_exam(RunRecord(config=config), PatchJudge(), SIZE, split="train").protocol
    )
    elsewhere = dataclasses.replace(config, data=str(prompted_folder))
    other = open_exam(RunRecord(config=elsewhere), PatchJudge(), SIZE, data=config.data)
    assert list(other.parts) == ["other"] and other.training is None
    scores = DrawingJudge(other, PatchJudge()).real["other"]
    assert scores.copies_by_both is None and scores.nearest_rms is None and scores.frechet_distance == pytest.approx(0)
    with pytest.raises(DataError, match="has other images now than when the model was trained on it"):
        open_exam(RunRecord(config=config, source_digest="another"), PatchJudge(), SIZE)
    unknown = open_exam(None, PatchJudge(), SIZE, data=config.data)
    assert unknown.prompts == other.prompts
    with pytest.raises(DataError, match="does not say what it was trained on"):
        open_exam(None, PatchJudge(), SIZE)
    with pytest.raises(DataError, match="no split 'tset'; it has train, val, test, all"):
        open_exam(RunRecord(config=config), PatchJudge(), SIZE, split="tset")
    for settings, split in ((config, "test"), (dataclasses.replace(config, train_on="all"), "val")):
        with pytest.raises(DataError, match=f"held out no images of the split '{split}'"):
            open_exam(RunRecord(config=settings), PatchJudge(), SIZE, split=split)
    with pytest.raises(ConfigError, match="prompts"):
        open_exam(RunRecord(config=config), PatchJudge(), SIZE, num_prompts=0)


def test_training_images_that_are_alike_count_once(things: Path, config: DiffusionConfig, tmp_path: Path) -> None:
    rows = ["file,caption"]
    for number in range(6):  # each twice under two names
        for name in ("a", "b"):
            Image.fromarray(drawing_of(number, 0)).save(tmp_path / f"{name}{number}.png")
            rows.append(f"{name}{number}.png,thing {number + 10 * (name == 'b')}")
    (tmp_path / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    twins = dataclasses.replace(config, data=str(tmp_path), train_on="all")
    exam = open_exam(RunRecord(config=twins), PatchJudge(), SIZE)
    assert exam.training is not None and len(exam.training) == 6
    assert DrawingJudge(exam, PatchJudge()).real["train"].copies_by_both == 1


# -------------------------------------------------------------------------------------------- the scores


def test_real_images_are_scored_as_the_judge_sees_them(exam: Exam, judge: DrawingJudge) -> None:
    for part, scores in judge.real.items():
        prompts = exam.prompts[part]
        right = [prompt for prompt in prompts if prompt not in MISTAKEN]
        assert scores.top1 == pytest.approx(len(right) / len(prompts)), part
        assert scores.top1 < 1 or not MISTAKEN & set(prompts)
    assert judge.real["train"].copies_by_both == 1 and judge.real["train"].nearest_rms == 0
    assert judge.real["held_out"].copies_by_both < 0.5  # type: ignore[operator]
    assert judge.real["held_out"].nearest_rms > 0.1  # type: ignore[operator]


def test_whoever_draws_the_real_images_gets_their_scores(exam: Exam, judge: DrawingJudge) -> None:
    measured = judge.measure(Painter(real_images(exam)), DEFAULT)
    assert set(measured.cell.scores) == {"train", "held_out"}
    for part, scores in measured.cell.scores.items():
        real = judge.real[part]
        assert (scores.top1, scores.top5) == (real.top1, real.top5)
        assert scores.images == 2 * scores.prompts
    assert measured.cell.scores["train"].copies_by_both == 1
    assert measured.cell.scores["train"].frechet_distance < 0.05  # type: ignore[operator]
    shown = measured.drawings[0]
    assert shown.nearness == 0 and np.array_equal(np.asarray(shown.drawing), np.asarray(shown.by_pixels))
    places = [call.nearness for call in measured.drawings]
    assert places == sorted(places) and len(places) == 2 * sum(map(len, exam.prompts.values()))


def test_equal_drawings_have_no_diversity(exam: Exam, judge: DrawingJudge) -> None:
    same = {prompt: images[:1] for prompt, images in real_images(exam).items()}
    for part, scores in judge.measure(Painter(same), DEFAULT).cell.scores.items():
        assert scores.same_prompt == pytest.approx(0, abs=1e-9), part
        assert scores.different_prompts == pytest.approx(judge.real[part].different_prompts, abs=0.1)
    one = next(iter(same.values()))
    bored = judge.measure(Painter(dict.fromkeys(same, one)), DEFAULT).cell.scores["train"]
    assert bored.different_prompts == pytest.approx(0, abs=1e-9)
    assert bored.top1 <= 1 / len(exam.prompts["train"])
    assert bored.frechet_distance > 5 * judge.real["train"].frechet_distance + 0.1  # type: ignore[operator]


def test_noise_is_no_copy_and_no_prompt(exam: Exam, judge: DrawingJudge) -> None:
    scores = judge.measure(Painter(noise_images(exam)), DEFAULT).cell.scores
    for part in scores.values():
        assert part.copies_by_both == 0 and part.copies_by_pixels == 0
        assert part.nearest_rms > 0.2  # type: ignore[operator]
        assert part.top1 <= 0.25


def test_one_drawing_of_each_prompt_has_no_diversity_to_measure(config: DiffusionConfig) -> None:
    exam = open_exam(RunRecord(config=config), PatchJudge(), SIZE, num_prompts=1, num_samples=1)
    judge = DrawingJudge(exam, PatchJudge())
    scores = judge.measure(Painter(real_images(exam)), DEFAULT).cell.scores["train"]
    assert (scores.images, scores.same_prompt, scores.different_prompts) == (1, None, None)
    assert (scores.frechet_distance, scores.top5_error) == (None, None)


def test_emoji_clip_judges_real_emoji_and_noise() -> None:
    config = tiny_config("emoji", image_size=32, max_train=150, text_encoder="emoji-clip")
    encoder = load_image_text("emoji-clip", "cpu", "32")
    exam = open_exam(RunRecord(config=config), encoder, 32, num_prompts=40, split="train")
    judge = DrawingJudge(exam, encoder)
    real = judge.real["train"]
    assert len(exam.names) > 1800 and real.top5 > 0.85 and real.top1 > 0.4
    scores = judge.measure(Painter(real_images(exam)), DEFAULT).cell.scores["train"]
    assert (scores.top1, scores.top5, scores.copies_by_both) == (real.top1, real.top5, 1)
    noise = judge.measure(Painter(noise_images(exam)), DEFAULT).cell.scores["train"]
    assert noise.copies_by_pixels == 0 and noise.copies_by_both == 0 and noise.top5 < 0.1
    assert noise.frechet_distance > scores.frechet_distance  # type: ignore[operator]


# -------------------------------------------------------------------------------------------- the report

WAYS = [Sampling(steps=steps, guidance_scale=scale) for scale in (0.0, 2.0) for steps in (5, 10)]


def last(evaluations: Iterable[Evaluation]) -> Evaluation:
    return list(evaluations)[-1]


def test_what_was_measured_outlives_an_interruption(exam: Exam, judge: DrawingJudge, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.json"
    painter = Painter(real_images(exam))
    painter.stop_at = 5  # two requests for each way of drawing, one for each part
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for evaluation in evaluate_drawing(judge, painter, WAYS, report):
            seen.append(len(evaluation.cells))
    assert seen == [0, 1, 2]
    document = json.loads(report.read_text())
    assert [(cell["guidance_scale"], cell["steps"]) for cell in document["cells"]] == [(0, 5), (0, 10)]

    again = Painter(real_images(exam))
    evaluation = last(evaluate_drawing(judge, again, WAYS, report))
    assert again.asked == [(2, 5, "dpm-solver")] * 2 + [(2, 10, "dpm-solver")] * 2
    straight = last(evaluate_drawing(judge, Painter(real_images(exam)), WAYS))
    assert evaluation.cells == straight.cells and evaluation.real == straight.real
    assert len(json.loads(report.read_text())["cells"]) == 4

    fewer = last(
        evaluate_drawing(judge, Painter(real_images(exam)), [*WAYS[:1], Sampling(steps=5, sampler="ddim")], report)
    )
    assert [cell.sampler for cell in fewer.cells] == ["dpm-solver", "ddim"]
    assert len(json.loads(report.read_text())["cells"]) == 5, "what was there before stays there"


def test_real_images_are_in_the_report_at_once(exam: Exam, judge: DrawingJudge, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    evaluations = evaluate_drawing(judge, Painter(real_images(exam)), WAYS[:1], report)
    first = next(evaluations).to_document()
    document = json.loads(report.read_text())
    assert {name: document[name] for name in first} == first and document["cells"] == []
    last(evaluations)
    scores = json.loads(report.read_text())["cells"]
    next(evaluate_drawing(judge, Painter(real_images(exam)), WAYS[1:], report))
    assert json.loads(report.read_text())["cells"] == scores, "what was there before stays there"


def test_scores_name_their_number_of_steps(exam: Exam, judge: DrawingJudge) -> None:
    with pytest.raises(ConfigError, match="need a number of steps"):
        judge.measure(Painter(real_images(exam)), Sampling())


def test_every_setting_of_drawing_is_passed_on_and_told_apart(exam: Exam, judge: DrawingJudge, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ways = [DEFAULT, Sampling(steps=20, spacing="leading"), Sampling(steps=20, threshold="dynamic")]
    painter = Painter(real_images(exam))
    cells = last(evaluate_drawing(judge, painter, ways, report)).cells
    expected = [("trailing", "static"), ("leading", "static"), ("trailing", "dynamic")]
    assert painter.settings == [way for way in expected for _ in exam.parts]
    assert [(cell.spacing, cell.threshold) for cell in cells] == expected
    again = Painter(real_images(exam))
    assert last(evaluate_drawing(judge, again, ways, report)).cells == cells and again.asked == []


def test_a_report_of_before_these_settings_were_written_is_continued(
    exam: Exam, judge: DrawingJudge, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    cells = last(evaluate_drawing(judge, Painter(real_images(exam)), [DEFAULT], report)).cells
    document = json.loads(report.read_text())
    del document["subject"]["precision"], document["cells"][0]["spacing"], document["cells"][0]["threshold"]
    report.write_text(json.dumps(document))
    again = Painter(real_images(exam))
    assert last(evaluate_drawing(judge, again, [DEFAULT], report)).cells == cells and again.asked == []


def test_a_report_about_something_else_is_not_replaced(
    exam: Exam, judge: DrawingJudge, config: DiffusionConfig, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    last(evaluate_drawing(judge, Painter(real_images(exam)), WAYS[:1], report))
    before = report.read_bytes()
    with pytest.raises(DataError, match=r"something else \(model changed"):
        last(evaluate_drawing(judge, Painter(real_images(exam), "another"), WAYS[:1], report))
    coarser = Painter(real_images(exam))
    coarser.precision = "bf16"
    with pytest.raises(DataError, match=r"something else \(precision changed"):
        last(evaluate_drawing(judge, coarser, WAYS[:1], report))
    other = DrawingJudge(open_exam(RunRecord(config=config), PatchJudge(), SIZE, num_prompts=2), PatchJudge())
    with pytest.raises(DataError, match="protocol"):
        last(evaluate_drawing(other, Painter(real_images(exam)), WAYS[:1], report))
    assert report.read_bytes() == before
    for content in ("", "[]", '{"cells": []}', '{"cells": [{"steps": "x"}], "subject": {}}', '{"cells": 5}'):
        report.write_text(content)
        with pytest.raises(DataError, match="no report of this kind"):
            last(evaluate_drawing(judge, Painter(real_images(exam)), WAYS[:1], report))
        assert report.read_text() == content


def test_few_names_and_a_single_training_image_have_no_scores_of_them(tmp_path: Path) -> None:
    for number in (4, 5, 6):
        Image.fromarray(drawing_of(number, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"thing {number}", encoding="utf-8")
    exam = open_exam(
        RunRecord(config=tiny_config(tmp_path, image_size=SIZE, val_fraction=0.4, max_train=1)), PatchJudge(), SIZE
    )
    judge, painter = DrawingJudge(exam, PatchJudge()), Painter(real_images(exam))
    report = tmp_path / "report.json"
    *_, result = evaluate_drawing(judge, painter, [DEFAULT], report)
    scores = result.cells[0].scores["train"]
    assert scores.top1 == 1
    assert (scores.top5, scores.top5_error, scores.copies_by_pixels, scores.copies_by_both) == (None,) * 4
    *_, again = evaluate_drawing(judge, painter, [DEFAULT], report)
    assert again == result and len(painter.asked) == len(exam.parts)
    save_figure(fidelity_figure(result), tmp_path / "fidelity.png")


def test_document_and_pictures(exam: Exam, judge: DrawingJudge) -> None:
    evaluation = last(evaluate_drawing(judge, Painter(real_images(exam)), WAYS))
    document = evaluation.to_document()
    assert document == json.loads(json.dumps(document))
    assert set(document) == {"protocol", "judge", "names", "real", "cells", "baselines"}
    fields = {field.name for field in dataclasses.fields(PartScores)}
    assert [set(cell["scores"]) for cell in document["cells"]] == [{"train", "held_out"}] * 4
    assert all(set(scores) == fields for cell in document["cells"] for scores in cell["scores"].values())
    figure = fidelity_figure(evaluation)
    assert [axes.get_title() for axes in figure.axes] == ["guidance 0", "guidance 2"] * 2
    lines = figure.axes[1].get_lines()
    assert np.array_equal(lines[1].get_xdata(), [5, 10])
    assert np.array_equal(lines[0].get_ydata(), [judge.real["train"].top5] * 2)
    grid = close_calls_figure(evaluation.drawings)
    shown = [np.asarray(axes.images[0].get_array()) for axes in grid.axes if axes.images]
    assert len(shown) % 3 == 0 and np.array_equal(shown[0], np.asarray(evaluation.drawings[0].drawing))
    assert fit_image(evaluation.drawings[0].by_pixels, SIZE).shape == (3, SIZE, SIZE)


def test_the_first_way_of_sampling_stands_beside_chance(exam: Exam) -> None:
    judge = DrawingJudge(exam, PatchJudge())
    names = {name: scores for name, scores in judge.real.items() if scores.top5 is not None}
    cells = tuple(
        Cell(guidance_scale=scale, steps=20, sampler="ddim", scores=scores)
        for scale, scores in (
            (1.0, {name: dataclasses.replace(scores, top5=0.9, prompts=30) for name, scores in names.items()}),
            (2.0, {name: dataclasses.replace(scores, top5=0.1, prompts=30) for name, scores in names.items()}),
        )
    )
    evaluation = Evaluation("", "patch-judge", THINGS, judge.real, cells)
    assert len(evaluation.baselines) == len(names) > 0
    for comparison in evaluation.baselines:
        assert (comparison.score, comparison.value) == (0.9, pytest.approx(5 / THINGS))
        assert comparison.is_better and "over 30 prompts" in comparison.sentence
    guessing = dataclasses.replace(evaluation, cells=cells[::-1]).baselines
    assert guessing and not any(comparison.is_better for comparison in guessing)
