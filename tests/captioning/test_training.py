"""Training a captioner on a small folder, and what its directory then holds."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.captioning.config import CaptioningConfig, DecoderConfig, EncoderConfig
from opsin.captioning.data import CaptionTable, FeatureCaptionDataset
from opsin.captioning.evaluation import caption_loss, evaluate_captioner, evaluate_dataset, word_loss
from opsin.captioning.inference import Captioner, Decoding, Sampling
from opsin.captioning.model import build_model
from opsin.captioning.recipes import RECIPES
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.train import CaptioningTask, train_captioner
from opsin.captioning.vocabulary import Vocabulary
from opsin.checkpoint import load_pretrained
from opsin.config import from_dict, to_dict
from opsin.errors import CheckpointError, ConfigError, DataError, TrainingInterrupted
from opsin.nn.attention import MultiHeadAttention
from opsin.pretrained import RunRecord
from opsin.training.run import TrainReport
from opsin.training.task import Batch, StepOutput
from opsin.training.trainer import Trainer
from tests.course_data import write_course_coco
from tests.test_progress import Recorder

from .conftest import COLOURS, make_captioned_folder, tiny_config

Run = tuple[Path, TrainReport]


def test_learns_an_easy_folder(colour_run: Run) -> None:
    directory, report = colour_run
    assert report.metrics["val_exact_match"] == 1.0
    assert report.metrics["test_exact_match"] == 1.0
    assert report.metrics["test_cider_d"] > 1
    assert (report.steps, report.num_train, report.splits.train.table.cut) == (60, 19, 0)
    assert (
        len(report.splits.vocabulary) == 4 + 5 + 3 + 1
    )  # a picture something all in; three colours; that of the broken image
    assert {row.id for row in report.skipped} == {"silent.png", "broken.png"}
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_loss"] < np.log(13) / 3
    assert (directory / "model" / "README.md").read_text().count("test_cider_d") == 1


def test_captions_without_images_teach_the_decoder(captioned_folder: Path, tmp_path: Path) -> None:
    """The loss has that of the texts beside that of the images; what the images say is learned all the same."""
    texts = tmp_path / "texts.txt"
    texts.write_text("seven brown dogs bark\n?!\nseven brown dogs sleep\n")
    config = tiny_config(captioned_folder, texts=str(texts), max_steps=80)
    plain, joint = (open_splits(dataclasses.replace(config, texts=path)) for path in ("", str(texts)))
    assert set(joint.vocabulary.words) - set(plain.vocabulary.words) == {"seven", "brown", "dogs", "bark", "sleep"}
    assert joint.texts is not None and len(joint.texts) == 2  # a text without a word is none
    task = CaptioningTask(config, joint)
    task.model.eval()
    one = CaptionTable.from_texts([("seven brown dogs bark",)], joint.vocabulary, 10)
    losses = []
    for table in (None, one):
        task.splits = dataclasses.replace(joint, texts=table)
        generator = torch.Generator().manual_seed(0)
        losses.append(task.training_step(joint.train.__getitems__([0, 1, 2]), generator).loss.detach())
    zeros = torch.zeros(1, task.model.decoder.visual_projection.in_features)
    log_probs = task.model.decoder(zeros, one.tokens[:, :-1]).detach().log_softmax(dim=2)
    expected = -log_probs.gather(2, one.tokens[:, 1:, None]).sum() / task.mean_length
    assert float(losses[1] - losses[0]) == pytest.approx(float(expected), rel=1e-3)

    train_captioner(config, tmp_path / "run")
    captioner = Captioner.from_pretrained(tmp_path / "run", device="cpu", precision="32")
    log_probs = captioner.model.decoder(zeros, one.tokens[:, :-1]).detach().log_softmax(dim=2)
    of_words = log_probs.gather(2, one.tokens[:, 1:, None]).mean()
    assert float(of_words) > -math.log(len(captioner.vocabulary)) / 2  # twice as sure as guessing
    texts.unlink()
    assert evaluate_captioner(captioner).result.loss < math.log(len(captioner.vocabulary)) / 2
    with pytest.raises(ConfigError, match="leave texts out"):
        open_splits(tiny_config("course-coco:x", texts=str(texts)))


def test_captions_of_new_images(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    images = [Image.new("RGB", (30, 20), colour) for colour in COLOURS.values()]
    for beams in (1, 3):
        captions = captioner.caption(images, beams=beams, batch_size=2)
        assert captions == captioner.caption(images, decoding=Decoding(beams=beams), batch_size=2)
        for caption, name in zip(captions, COLOURS, strict=True):
            assert caption.text in (f"a {name} picture", f"something all in {name}")
            assert caption.text == " ".join(caption.words)
            guessing = -(len(caption.words) + 1) * math.log(len(captioner.vocabulary))
            assert guessing / 2 < caption.log_prob < 0
            assert caption.attention is None
    assert captioner.caption([]) == []


def test_words_drawn_at_random_follow_the_generator(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu", precision="32")
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()] * 4

    def drawn(seed: int, **settings: float) -> list[str]:
        sampling = Sampling(generator=torch.Generator().manual_seed(seed), **settings)  # type: ignore[arg-type]
        return [caption.text for caption in captioner.caption(images, sampling=sampling, batch_size=5)]

    assert drawn(0, temperature=5.0, top_p=1.0) == drawn(0, temperature=5.0, top_p=1.0)
    assert drawn(0, temperature=5.0, top_p=1.0) != drawn(1, temperature=5.0, top_p=1.0)
    assert drawn(3, top_p=1e-6) == [caption.text for caption in captioner.caption(images, beams=1)]


def test_captions_come_a_batch_after_the_other(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    taken: list[int] = []

    def images() -> Iterator[Image.Image]:
        for index in range(6):
            taken.append(index)
            yield Image.new("RGB", (8, 8), "red")

    captions = captioner.caption_each(images(), batch_size=2)
    assert taken == []
    next(captions)
    assert len(taken) == 2
    assert len(list(captions)) == 5


def test_precision_is_what_was_asked_for(colour_run: Run) -> None:
    pixels = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    exact = Captioner.from_pretrained(colour_run[0], device="cpu", precision="32").encode(pixels)
    rough = Captioner.from_pretrained(colour_run[0], device="cpu", precision="bf16").encode(pixels)
    assert not torch.equal(exact, rough.float())
    with pytest.raises(ConfigError, match="precision 16 needs a GPU"):
        Captioner.from_pretrained(colour_run[0], device="cpu", precision="16")


def test_attention_of_each_word(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()]
    for caption in captioner.caption(images, attention=True):
        assert caption.attention is not None
        assert caption.attention.shape == (len(caption.words), 4, 4)
        np.testing.assert_allclose(caption.attention.sum(axis=(1, 2)), 1.0, rtol=1e-3)
        assert caption.attention.dtype == np.float32


def test_attention_belongs_to_the_word_that_it_led_to(colour_run: Run) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    features = captioner.encode(torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)).float()
    (caption,) = captioner.write(features, Decoding(beams=1), attention=True)
    tokens = captioner.vocabulary.encode(caption.text)
    assert caption.attention is not None
    for place in range(len(caption.words)):
        weights = captioner.model.decoder.attention_weights(features, torch.tensor([tokens[: place + 1]]))
        expected = weights.mean(dim=(1, 2))[0, -1].view(4, 4).numpy()
        np.testing.assert_allclose(caption.attention[place], expected, atol=2e-2)


def test_save_and_load_give_the_same_captions(colour_run: Run, tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(colour_run[0], device="cpu")
    images = [np.random.default_rng(row).integers(256, size=(16, 16, 3), dtype=np.uint8) for row in range(5)]
    again = Captioner.from_pretrained(captioner.save_pretrained(tmp_path / "copy"), device="cpu")
    assert again.caption(images) == captioner.caption(images)
    assert again.vocabulary == captioner.vocabulary
    assert again.metrics == captioner.metrics
    assert captioner.run is not None
    config = tiny_config(captioner.run.config.data, test_fraction=0.2)
    digest = config.split().digest
    assert again.run == captioner.run == RunRecord(config=config, source_digest=digest)


class StoppingTask(CaptioningTask):
    """Dies in its sixth step."""

    steps = 0

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.steps += 1
        if self.steps == 6:
            raise KeyboardInterrupt
        return super().training_step(batch, generator)


def test_interrupted_run_ends_like_a_straight_one(captioned_folder: Path, tmp_path: Path) -> None:
    """Captions and augmentation are drawn by step, so a run that starts again draws the same ones."""
    config = tiny_config(captioned_folder, max_steps=8, checkpoint_minutes=0.0, label_smoothing=0.1, flip=True)
    train_captioner(config, tmp_path / "straight")
    splits = open_splits(config)
    task = StoppingTask(config, splits)
    with pytest.raises(TrainingInterrupted):
        Trainer(config.training, tmp_path / "stopped").fit(task, splits.train, to_dict(config))
    train_captioner(config, tmp_path / "stopped", resume=True)
    straight, stopped = (load_pretrained(tmp_path / name, kind="captioner")[1] for name in ("straight", "stopped"))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_run_is_not_continued_with_other_images_or_words(tmp_path: Path) -> None:
    folder = make_captioned_folder(tmp_path / "images", 4)
    config = tiny_config(folder, max_steps=2)
    train_captioner(config, tmp_path / "run")
    table = folder / "captions.csv"
    before = table.read_text()
    table.write_text(before.replace("something all in", "all of it in"))
    with pytest.raises(CheckpointError, match="the vocabulary is not the one that the run .* began with"):
        train_captioner(config, tmp_path / "run", resume=True)
    table.write_text(before)
    assert train_captioner(config, tmp_path / "run", resume=True).steps == 2
    next(folder.glob("*0.png")).unlink()
    with pytest.raises(CheckpointError, match="the set of images is not the one"):
        train_captioner(config, tmp_path / "run", resume=True)


def test_every_parameter_gets_a_gradient(captioned_folder: Path) -> None:
    config = tiny_config(captioned_folder)
    splits = open_splits(config)
    task = CaptioningTask(config, splits).train()
    batch = splits.train.__getitems__(list(range(len(splits.train))))
    task.training_step(batch, torch.Generator().manual_seed(0)).loss.backward()
    assert [name for name, value in task.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_loss_is_the_sum_over_real_words() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 6, generator=generator)
    targets = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 2], [2, 0, 0, 0]])
    expected = [-scores[n, t].log_softmax(0)[targets[n, t]] for n in range(3) for t in range(4) if targets[n, t] != 0]
    torch.testing.assert_close(caption_loss(scores, targets, 0), torch.stack(expected).sum())


def test_word_loss_asks_for_the_words_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, generator=generator)
    targets = torch.tensor([[3, 4, 2, 0], [5, 5, 3, 2], [3, 2, 0, 0], [2, 0, 0, 0]])
    logs = scores.log_softmax(dim=1)
    expected = -(logs[0, [3, 4]].mean() + (2 * logs[1, 5] + logs[1, 3]) / 3 + logs[2, 3])  # the last has no word
    torch.testing.assert_close(word_loss(scores, targets, [0, 2]), expected)
    torch.testing.assert_close(word_loss(scores, targets.flip(1), [0, 2]), expected)
    assert word_loss(scores[3:], targets[3:], [0, 2]) == 0


def test_images_are_varied_as_the_config_says(captioned_folder: Path) -> None:
    config = tiny_config(captioned_folder, shift=0)
    splits = open_splits(config)
    batch = splits.train.__getitems__(list(range(len(splits.train))))

    def losses(augment_ops: int) -> list[float]:
        task = CaptioningTask(dataclasses.replace(config, augment_ops=augment_ops), splits).train()
        values = []
        for seed in (1, 1, 2):
            torch.manual_seed(0)  # of dropout
            values.append(task.training_step(batch, torch.Generator().manual_seed(seed)).loss.item())
        return values

    plain, varied = losses(0), losses(2)
    assert plain[0] == plain[1] and varied[0] == varied[1]
    assert varied[0] != plain[0] and varied[2] != varied[0]


@pytest.mark.parametrize("word_weight", [0.0, 0.5])
def test_parts_of_a_batch_together_are_the_joint_batch(word_weight: float) -> None:
    """What accumulation and several processes rely on, for captions of very different lengths; see `StepOutput`."""
    vocabulary = Vocabulary.from_texts(["a b c d e f g"])
    texts = [("a",), ("b c d e f g a b c",), ("c d",), ("d",), ("e f g a b c d",), ("f",)]
    table = CaptionTable.from_texts(texts, vocabulary, 12)
    assert table.mean_length == (1 + 9 + 2 + 1 + 7 + 1) / 6 + 1
    encoder, decoder = EncoderConfig(), DecoderConfig(embed_dim=16, num_layers=1, num_heads=2, dropout=0.0)
    config = tiny_config(
        "emoji", encoder=encoder, image_size=64, decoder=decoder, label_smoothing=0.1, word_loss=word_weight
    )
    dataset = FeatureCaptionDataset(np.random.default_rng(0).normal(size=(6, 5)), table)
    splits = CaptionSplits(datasets={"train": dataset}, vocabulary=vocabulary, feature_dim=5)
    task = CaptioningTask(config, splits).train()
    model = task.model

    def step(rows: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        output = task.training_step(dataset.__getitems__(rows), torch.Generator())
        gradients = torch.autograd.grad(output.loss, list(model.parameters()))
        return [output.loss.detach(), output.metrics["word_accuracy"], output.metrics["caption_loss"]], list(gradients)

    joint = step([0, 1, 2, 3, 4, 5])
    parts = [(4 / 6, step([0, 2, 4, 1])), (2 / 6, step([3, 5]))]
    for kind in (0, 1):
        for index, value in enumerate(joint[kind]):
            torch.testing.assert_close(sum(share * part[kind][index] for share, part in parts), value)
    words = [len(text[0].split()) + 1 for text in texts]
    every = dataset.__getitems__([0, 1, 2, 3, 4, 5])
    captions = every["captions"][:, 0]
    per_word = caption_loss(model(every["feature"], captions[:, :-1]), captions[:, 1:], 0, label_smoothing=0.1)
    expected = per_word / sum(words)  # these are all captions there are
    torch.testing.assert_close(joint[0][2], expected.detach())
    unspoken = [vocabulary.word_to_idx[name] for name in ("<NULL>", "<END>", "<UNK>")]
    expected = (
        expected + word_weight * word_loss(model.decoder.word_scores(every["feature"]), captions[:, 1:], unspoken) / 6
    )
    torch.testing.assert_close(joint[0][0], expected.detach())


def test_one_style_of_some_emoji_is_held_out() -> None:
    config = tiny_config("emoji", style_fraction=0.25, captions="first")
    source = config.open()
    rows = config.rows(source)
    whole = tiny_config("emoji", captions="first").rows(source)
    assert len(whole["other-style"]) == 0
    np.testing.assert_array_equal(np.union1d(rows["train"], rows["other-style"]), whole["train"])
    assert len(rows["train"]) + len(rows["other-style"]) == len(whole["train"])
    assert source.groups is not None
    styles = source.metadata["style"]
    pairs = {name: set(zip(source.groups[rows[name]], styles[rows[name]], strict=True)) for name in rows}
    assert pairs["train"] & pairs["other-style"] == set()
    assert {group for group, _ in pairs["other-style"]} <= {group for group, _ in pairs["train"]}
    codes = source.metadata["code"]
    assert set(codes[rows["other-style"]]) <= set(codes[rows["train"]])
    share = len(pairs["other-style"]) / len({group for group, _ in pairs["train"]})
    assert share == pytest.approx(0.25, abs=0.01)
    assert set(styles[rows["other-style"]]) == {"openmoji", "twemoji"}
    np.testing.assert_array_equal(config.rows(source)["other-style"], rows["other-style"])


def test_styles_are_held_out_only_where_there_are_some(captioned_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no two of one thing"):
        open_splits(tiny_config(captioned_folder, style_fraction=0.1))
    write_course_coco(tmp_path / "data")
    with pytest.raises(ConfigError, match="no two of one thing"):
        open_splits(tiny_config(f"course-coco:{tmp_path / 'data'}", style_fraction=0.1))


def test_small_convolutional_encoder(captioned_folder: Path, tmp_path: Path) -> None:
    encoder = EncoderConfig(patch_size=4, embed_dim=32, num_layers=0, num_heads=2)
    report = train_captioner(tiny_config(captioned_folder, encoder=encoder), tmp_path)
    assert report.metrics["val_exact_match"] == 1.0
    model = Captioner.from_pretrained(tmp_path).model
    assert model.encoder is not None
    assert not any(isinstance(module, MultiHeadAttention) for module in model.encoder.modules())
    assert len(model.encoder.transformer.layers) == 0


def test_course_features(tmp_path: Path) -> None:
    arrays = write_course_coco(tmp_path / "data")
    config = tiny_config(f"course-coco:{tmp_path / 'data'}", max_val=15, max_steps=120)
    report = train_captioner(config, tmp_path / "run")
    assert report.num_train == 60
    assert report.metrics["val_exact_match"] > 0.9
    captioner = Captioner.from_pretrained(tmp_path / "run", device="cpu")
    assert captioner.content.feature_dim == 512
    captions = captioner.caption_features(arrays["val_features"])
    seen = {text for row in arrays["val_captions"] for text in [captioner.vocabulary.decode(row.tolist())]}
    assert len({caption.text for caption in captions} & seen) > 1
    with pytest.raises(DataError, match="features of width 512"):
        captioner.caption_features(np.zeros((2, 4096)))
    with pytest.raises(ConfigError, match="trained on features"):
        captioner.caption([Image.new("RGB", (4, 4))])
    evaluation = evaluate_captioner(captioner, beams=1)
    assert (evaluation.split, len(evaluation.ids)) == ("val", 15)
    assert evaluation.result.metrics.exact_match == report.metrics["val_exact_match"]
    with pytest.raises(DataError, match="has no split 'test'; it has train, val"):
        evaluate_captioner(captioner, split="test")
    write_course_coco(tmp_path / "wide")
    for split in ("train", "val"):
        shutil.copy(
            tmp_path / "wide" / f"{split}2014_vgg16_fc7.h5", tmp_path / "wide" / f"{split}2014_vgg16_fc7_pca.h5"
        )
    with pytest.raises(DataError, match="width 512, and those of .* have width 4096"):
        evaluate_captioner(captioner, f"course-coco:{tmp_path / 'wide'}")
    write_course_coco(tmp_path / "other")
    words = json.loads((tmp_path / "other" / "coco2014_vocab.json").read_text())
    words["idx_to_word"][-1] = "black"
    words["word_to_idx"]["black"] = words["word_to_idx"].pop("white")
    (tmp_path / "other" / "coco2014_vocab.json").write_text(json.dumps(words))
    with pytest.raises(DataError, match="is not that of this captioner"):
        evaluate_captioner(captioner, f"course-coco:{tmp_path / 'other'}")
    with pytest.raises(DataError, match="takes features, and 'emoji' holds images"):
        evaluate_captioner(captioner, "emoji")
    with pytest.raises(ConfigError, match="tokens, and decoder.max_length is 8"):
        train_captioner(
            dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, max_length=8)), tmp_path / "x"
        )


def test_images_for_features_are_refused(colour_run: Run) -> None:
    with pytest.raises(ConfigError, match="trained on images"):
        Captioner.from_pretrained(colour_run[0], device="cpu").caption_features(np.zeros((2, 32)))


def test_words_that_are_not_learned_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions = ["a red thing", "a red thing", "a blue dog", "a green 猫", "a " * 40]
    for number, text in enumerate(captions):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    open_splits(tiny_config(tmp_path, val_fraction=0, min_count=2))
    (message,) = caplog.messages
    assert "2 of 5 training captions have words that occur fewer than 2 times and are not learned, 4 words" in message
    assert "('blue', 'dog', 'green' and 1 more" in message and "1 of 5 training captions have more than" in message


def test_settings_of_the_data(captioned_folder: Path) -> None:
    splits = open_splits(tiny_config(captioned_folder, captions="first", max_train=7, max_val=2, min_count=3))
    assert len(splits.train) == 7
    assert splits.val is not None
    assert len(splits.val) == 2
    assert all(len(splits.train.table.references(row)) == 1 for row in range(7))
    assert {"a", "picture"} <= set(splits.vocabulary.words)
    assert "something" not in splits.vocabulary.words
    same = open_splits(tiny_config(captioned_folder, captions="first", max_train=7, max_val=2, min_count=3))
    assert same.vocabulary == splits.vocabulary


def test_evaluation_counts_every_caption_of_every_image(captioned_folder: Path) -> None:
    config = tiny_config(captioned_folder)
    splits = open_splits(config)
    captioner = CaptioningTask(config, splits).captioner()
    assert splits.val is not None
    whole = evaluate_dataset(captioner, splits.val)
    parts = evaluate_dataset(captioner, splits.val, batch_size=2)
    assert whole.rows == tuple(range(len(splits.val)))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-2)
    assert set(whole.summary("val")) >= {"val_loss", "val_cider_d", "val_bleu4", "val_exact_match"}


def test_evaluation_of_the_own_source_sees_the_images_of_the_run(colour_run: Run, captioned_folder: Path) -> None:
    captioner = Captioner.from_pretrained(colour_run[0])
    progress = Recorder()
    own = evaluate_captioner(captioner, progress=progress)
    assert [(title, done == total) for title, done, total in progress.reports[-1:]] == [("captioning", True)]
    assert (own.data, own.split, own.beams) == (str(captioned_folder), "test", 3)
    assert own.result.summary("test")["test_cider_d"] == pytest.approx(colour_run[1].metrics["test_cider_d"])
    assert own.result.loss == pytest.approx(colour_run[1].metrics["test_loss"], rel=1e-2)
    others = [evaluate_captioner(captioner, split=split).ids for split in ("train", "val")]
    assert sorted([*own.ids, *others[0], *others[1]]) == sorted({*own.ids, *others[0], *others[1]})
    assert len(own.ids) + len(others[0]) + len(others[1]) == 30
    scores = own.result.metrics.per_image
    order = own.result.worst(len(scores))
    assert sorted(order) == list(range(len(scores)))
    assert [scores[place].cider_d for place in order] == sorted(score.cider_d for score in scores)
    for place, name in enumerate(own.ids):
        blue, _, red = np.asarray(own.image(place)).mean(axis=(0, 1))[::-1]
        assert (blue > 100, red > 100) == (name.startswith("blue"), name.startswith("red"))
        assert all(name.removesuffix(".png").rstrip("0123456789") in text for text in own.result.references[place])
    for name, caption in zip(own.ids, own.result.captions, strict=True):
        assert name.removesuffix(".png").rstrip("0123456789") in caption.words
    other_spelling = str(captioned_folder / ".." / captioned_folder.name)
    assert evaluate_captioner(captioner, other_spelling).ids == own.ids
    assert len(evaluate_captioner(captioner, split="all").ids) == 30
    with pytest.raises(DataError, match="no split 'dev'; it has train, val, test"):
        evaluate_captioner(captioner, split="dev")


def test_evaluation_of_another_source(colour_run: Run, tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(colour_run[0])
    folder = make_captioned_folder(tmp_path / "other", per_colour=2)
    other = evaluate_captioner(captioner, str(folder), beams=1)
    assert (other.split, other.beams, len(other.ids)) == ("all", 1, 6)
    assert {row.id for row in other.skipped} == {"silent.png", "broken.png"}
    with pytest.raises(DataError, match="has no split 'test'"):
        evaluate_captioner(captioner, str(folder), "test")
    with pytest.raises(DataError, match="takes images, and 'course-coco:x' holds features"):
        evaluate_captioner(captioner, "course-coco:x")


def test_every_recipe_is_a_valid_config_that_survives_json() -> None:
    for name, recipe in RECIPES.items():
        config = recipe()
        assert from_dict(CaptioningConfig, to_dict(config)) == config, name
        assert recipe.__doc__, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 18}, "image_size"),
        ({"encoder": {"patch_size": 4, "embed_dim": 30}}, "encoder: embed_dim"),
        ({"decoder": {"embed_dim": 30}}, "decoder: embed_dim"),
        ({"decoder": {"embed_dim": 9, "num_heads": 3}}, "must be even"),
        ({"decoder": {"max_length": 2}}, "max_length must be at least 3, not 2"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "together below 1"),
        ({"val_fraction": math.nan}, "val_fraction must be at least 0 and below 1, not nan"),
        ({"test_fraction": -0.1}, "test_fraction must be at least 0"),
        ({"encoder": {"patch_size": 0}}, "patch_size must be at least 1"),
        ({"encoder": {"patch_size": 6}, "image_size": 18}, "power of two"),
        ({"encoder": {"dropout": 1.5}}, "encoder.dropout must be at least 0 and below 1, not 1.5"),
        ({"encoder": {"dropout": -0.1}}, "encoder.dropout"),
        ({"encoder": {"num_layers": -1}}, "encoder.num_layers must be at least 0"),
        ({"decoder": {"num_heads": 0}}, "decoder.num_heads must be at least 1, not 0"),
        ({"decoder": {"num_layers": 0}}, "decoder.num_layers must be at least 1"),
        ({"decoder": {"dropout": -0.1}}, "decoder.dropout"),
        ({"decoder": {"dim_feedforward": 0}}, "decoder.dim_feedforward"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"shift": 16}, r"shift \(16\) must be below image_size \(16\)"),
        ({"shift": -1}, "shift must be at least 0"),
        ({"label_smoothing": 2.0}, "label_smoothing must be at least 0 and at most 1, not 2"),
        ({"word_loss": math.inf}, "word_loss must be at most 2147483647, not inf"),
        ({"beams": 0}, "beams must be at least 1"),
        ({"min_count": 0}, "min_count must be at least 1"),
        ({"style_fraction": 1.5}, "style_fraction must be at least 0 and at most 1"),
        ({"style_fraction": 0.1, "max_train": 5}, "leave max_train out"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    parts = {"encoder": EncoderConfig, "decoder": DecoderConfig}
    with pytest.raises(ConfigError, match=message):
        tiny_config("emoji", **{name: parts[name](**own) if name in parts else own for name, own in options.items()})


def test_vocabulary_that_does_not_fit_is_refused(colour_run: Run, tmp_path: Path) -> None:
    copy = Captioner.from_pretrained(colour_run[0]).save_pretrained(tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["words"].append("violet")
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"tensors differ \(decoder.embedding.weight: model \(14, 32\), file \(13"
    ):
        Captioner.from_pretrained(copy)
    content["words"] = content["words"][4:]
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="the vocabulary lacks <NULL>"):
        Captioner.from_pretrained(copy)


def test_patch_features_can_be_the_memory() -> None:
    """What a frozen encoder gives for each image, computed once: (N, P, D)."""
    vocabulary = Vocabulary.from_texts(["red", "blue"])
    model = build_model(
        EncoderConfig(), DecoderConfig(embed_dim=16, num_layers=1, num_heads=2), 32, vocabulary, feature_dim=5
    )
    features = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
    table = CaptionTable.from_texts([("red",), ("blue",)] * 3, vocabulary, 10)
    batch = FeatureCaptionDataset(features, table).__getitems__([0, 3])
    assert model(batch["feature"], batch["captions"][:, 0]).shape == (2, 3, 6)
