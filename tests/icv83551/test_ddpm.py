"""The course's diffusion notebook: its data files, its trainer, and the faults of the course's own code."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icv83551 import emoji_dataset
from icv83551.ddpm_trainer import Trainer
from icv83551.emoji_dataset import EmojiDataset, TextEmbedder
from icv83551.emoji_file import load_course_emoji
from icv83551.gaussian_diffusion import GaussianDiffusion
from icv83551.unet import Unet
from opsin.errors import CheckpointError, ConfigError, DataError
from tests.diffusion.conftest import BagOfWords

TEXTS = [["red square"], ["blue square", "azure box"], ["green square"]]
WIDTH = 8


def write_course_emoji(path: Path) -> Path:
    generator = np.random.default_rng(0)
    entries: dict[str, Any] = {}
    for row, texts in enumerate(TEXTS):
        images = [generator.integers(256, size=(20 + row, 24, 3), dtype=np.uint8) for _ in range(2)]
        images[0] = np.asfortranarray(images[0])
        entries[f"U+{row}"] = {"images": images, "texts": texts}
    np.savez(path, **entries)
    return path


def write_embeddings(path: Path) -> Path:
    texts = [text for own in TEXTS for text in own]
    generator = torch.Generator().manual_seed(0)
    embs = torch.randn(len(texts), WIDTH, generator=generator)
    components = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    content = {
        "idx_mapping": {text: row for row, text in enumerate(texts)},
        "embs": embs.half(),
        "pca_components": components,
        "mean": embs.mean(dim=0),
    }
    torch.save(content, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_course_emoji(tmp_path / "emoji_data.npz"), write_embeddings(tmp_path / "text_embeddings.pt")


def make_trainer(files: tuple[Path, Path], folder: Path, **options: Any) -> Trainer:
    torch.manual_seed(0)
    network = Unet(dim=4, condition_dim=WIDTH, dim_mults=(1, 2))
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=3)
    settings = {"train_batch_size": 2, "train_num_steps": 4, "results_folder": folder, **options}
    return Trainer(diffusion, EmojiDataset(8, *files), torch.device("cpu"), **settings)


# ------------------------------------------------------------------------------------------------ the data


def test_items(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    dataset = EmojiDataset(16, *files)
    printed = capsys.readouterr().out
    assert printed == "emoji_data.npz already downloaded.\ntext_embeddings.pt already downloaded.\n"
    assert len(dataset) == 3
    table = torch.load(files[1], weights_only=True)
    texts = set()
    for _ in range(20):
        image, given = dataset[1]
        assert image.shape == (3, 16, 16)
        assert image.dtype == given["text_emb"].dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        torch.testing.assert_close(given["text_emb"], table["embs"][table["idx_mapping"][given["text"]]].float())
        texts.add(given["text"])
    assert texts == set(TEXTS[1])
    some = dataset.random_model_kwargs(7)
    assert some["text_emb"].shape == (7, WIDTH)
    assert len(some["text"]) == 7


def test_images_are_those_of_the_file(files: tuple[Path, Path]) -> None:
    with np.load(files[0], allow_pickle=True) as expected:
        for entry, key in zip(load_course_emoji(files[0]), expected.files, strict=True):
            content = expected[key].item()
            assert entry.texts == tuple(content["texts"])
            for mine, theirs in zip(entry.images, content["images"], strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_principal_components(files: tuple[Path, Path]) -> None:
    dataset = EmojiDataset(8, *files, num_text_emb_pca=3)
    assert dataset[0][1]["text_emb"].shape == (3,)
    embedder = TextEmbedder()
    with pytest.raises(ConfigError, match="load_processed"):
        embedder.embed("red square")
    embedder.load_processed(files[1])
    emb = embedder.embed("red square")
    torch.testing.assert_close(embedder.encode_pca(emb, 3), embedder.embed("red square", num_pca=3))
    torch.testing.assert_close(embedder.decode_pca(embedder.encode_pca(emb)), emb, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="num_text_emb_pca"):
        EmojiDataset(8, *files, num_text_emb_pca=WIDTH + 1)


class OneVector:
    def __init__(self, width: int) -> None:
        self.width = width

    def embed(self, text: str) -> Tensor:
        return torch.full((self.width,), float(len(text)))


def test_new_texts(files: tuple[Path, Path]) -> None:
    dataset = EmojiDataset(8, *files)
    torch.testing.assert_close(dataset.embed_new_text("abc", OneVector(WIDTH)), torch.full((WIDTH,), 3.0))
    with pytest.raises(DataError, match="the data set has"):
        dataset.embed_new_text("abc", OneVector(5))
    reduced = EmojiDataset(8, *files, num_text_emb_pca=2)
    assert reduced.embed_new_text("abc", OneVector(WIDTH)).shape == (2,)


def test_embedded_emoji_without_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (tmp_path / "a.npz", tmp_path / "b.pt")
    monkeypatch.setattr(emoji_dataset, "DATA_PATH", places[0])
    monkeypatch.setattr(emoji_dataset, "TEXT_EMB_PATH", places[1])
    dataset = EmojiDataset(8, *places, text_encoder=BagOfWords(12))
    assert capsys.readouterr().out == (
        f"a.npz is not there: using the {len(dataset)} emoji that come with opsin.\n"
        "b.pt is not there: using embeddings of bag-of-words, 12 wide.\n"
    )
    assert len(dataset) > 1500
    image, given = dataset[770]
    assert image.shape == (3, 8, 8)
    assert given["text_emb"].shape == (12,)
    full = dataset.text_embedder.encode_pca(given["text_emb"])
    torch.testing.assert_close(dataset.text_embedder.decode_pca(full), given["text_emb"], rtol=1e-3, atol=1e-4)


def test_files_that_are_not_where_they_are_said_to_be(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Other data in their place would be trained on without a word."""
    absent = tmp_path / "absent"
    for places in ((absent, files[1]), (files[0], absent)):
        with pytest.raises(DataError, match=f"there is no file {absent}; put it there, or leave the path out"):
            EmojiDataset(8, *places, text_encoder=BagOfWords(12))


def test_texts_without_embedding(files: tuple[Path, Path]) -> None:
    np.savez(files[0], x={"images": [np.zeros((4, 4, 3), np.uint8)], "texts": ["unheard of"]})
    with pytest.raises(DataError, match="for example 'unheard of'"):
        EmojiDataset(8, *files)


# -------------------------------------------------------------------------------------------- hostile files


class Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def write_entry(
    path: Path, pickled: bytes, header: str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
) -> Path:
    file = io.BytesIO()
    text = header.ljust(117) + "\n"
    file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + pickled)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", file.getvalue())
    return path


@pytest.mark.parametrize(
    "content",
    [
        Runs(os.mkdir, "touched"),
        {"images": [np.zeros((4, 4, 3), np.uint8)], "texts": [Runs(os.mkdir, "touched")]},
        np.array({"images": Runs(eval, "__import__('os').mkdir('touched')"), "texts": ["a"]}, dtype=object),
        Runs(getattr, [], "append"),
        Runs(np.fromfile, "somewhere"),
        Path("somewhere"),
    ],
)
def test_hostile_pickles_run_nothing(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = write_entry(tmp_path / "x.npz", pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match="was refused.*only arrays, strings"):
            load_course_emoji(path)
    assert not (tmp_path / "touched").exists()


def test_an_entry_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        for _ in range(80):
            entry.write(bytes(2**20))
    with pytest.raises(DataError, match="x.npy unpacks to more than"):
        load_course_emoji(path)


def test_damaged_files(tmp_path: Path) -> None:
    good = write_course_emoji(tmp_path / "good.npz").read_bytes()
    path = tmp_path / "x.npz"
    for content in (b"", b"no archive", good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="was refused"):
            load_course_emoji(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_course_emoji(tmp_path / "absent.npz")
    for content, message in (
        ({"images": [np.zeros((4, 4), np.uint8)], "texts": ["a"]}, "shape .H, W, 3."),
        ({"images": [], "texts": ["a"]}, "at least one"),
        ({"images": [np.zeros((4, 4, 3))], "texts": ["a"]}, "uint8"),
        ({"images": [np.zeros((4, 4, 3), np.uint8)], "texts": [3]}, "strings"),
        ({"texts": ["a"]}, "no dictionary with"),
        (["a"], "no dictionary with"),
    ):
        with pytest.raises(DataError, match=message):
            load_course_emoji(write_entry(path, pickle.dumps(np.array(content, dtype=object), protocol=3)))
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataError, match="not a dictionary"):
        load_course_emoji(path)


# ---------------------------------------------------------------------------------------------- the trainer


def test_trains_samples_and_saves(files: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(files, tmp_path / "run", sample_every=2, save_every=4)
    modes: list[bool] = []
    losses_of = trainer.diffusion_model.p_losses

    def watched(*arguments: Any) -> Tensor:
        modes.append(trainer.diffusion_model.training)
        return losses_of(*arguments)

    trainer.diffusion_model.p_losses = watched  # type: ignore[method-assign]
    losses = trainer.train()
    assert len(losses) == trainer.step == 4
    assert all(np.isfinite(losses))
    assert modes == [True] * 4  # the samples after the second step did not leave it in evaluation mode
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model-4.pt", "sample-2.png", "sample-4.png"]


def names_of_network(levels: int) -> set[str]:
    """The names of the weights in a checkpoint of the course; a block that keeps its width has no `res_conv`."""
    block = ["mlp.1", "block1.proj", "block2.proj"]
    layers = ["init_conv", "time_mlp.1", "time_mlp.3", "condition_mlp.0", "condition_mlp.2", "final_conv"]
    blocks = ["mid_block1", "mid_block2"]
    for level in range(levels):
        blocks += [f"downs.{level}.0", f"downs.{level}.1", f"ups.{level}.1", f"ups.{level}.2"]
        layers += [f"downs.{level}.2", f"ups.{level}.0.1", f"ups.{level}.1.res_conv", f"ups.{level}.2.res_conv"]
    layers += [f"{name}.{layer}" for name in blocks for layer in block]
    norms = {f"{name}.{half}.norm.g" for name in blocks for half in ("block1", "block2")}
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} | norms


def test_checkpoint_has_the_courses_keys(files: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    trainer = make_trainer(files, tmp_path)
    trainer.train()
    trainer.save(70000)
    state = torch.load(tmp_path / "model-70000.pt", weights_only=True)
    assert set(state) == {"step", "model", "opt"}
    names = {name for name in state["model"] if not name.startswith("model.")}
    assert names == {
        "betas",
        "alphas",
        "alphas_cumprod",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "posterior_std",
        "loss_weight",
    }
    network = {name.removeprefix("model.") for name in state["model"] if name.startswith("model.")}
    assert network == names_of_network(levels=2)
    other = make_trainer(files, tmp_path)
    capsys.readouterr()
    other.load(70000)
    assert capsys.readouterr().out == f"loading model from {tmp_path}/model-70000.pt.\n"
    assert other.step == 4
    assert other.opt.state_dict()["state"][0]["step"] == 4
    weights = zip(other.diffusion_model.parameters(), trainer.diffusion_model.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in weights)


def test_drawing_after_load_is_without_dropout(files: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(files, tmp_path)
    trainer.save(1)
    trainer.load(1)
    network = trainer.diffusion_model.model
    modes: list[bool] = []
    network.init_conv.register_forward_hook(lambda *_: modes.append(network.training))
    given = {"text_emb": torch.randn(2, WIDTH), "cfg_scale": 1}
    trainer.diffusion_model.sample(batch_size=2, model_kwargs=given)
    assert modes == [False] * 3
    assert set(given) == {"text_emb", "cfg_scale"}


def test_checkpoints_that_cannot_be_used(files: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(files, tmp_path)
    trainer.save(1)
    before = {name: value.clone() for name, value in trainer.diffusion_model.state_dict().items()}
    good = (tmp_path / "model-1.pt").read_bytes()
    state = torch.load(tmp_path / "model-1.pt", weights_only=True)
    (tmp_path / "model-2.pt").write_bytes(good[: len(good) // 2])
    torch.save({**state, "extra": Runs(os.mkdir, str(tmp_path / "touched"))}, tmp_path / "model-3.pt")
    torch.save({"model": state["model"]}, tmp_path / "model-4.pt")
    torch.save({**state, "model": {"a": torch.zeros(1)}}, tmp_path / "model-5.pt")
    torch.save({**state, "opt": {"state": {}, "param_groups": []}}, tmp_path / "model-6.pt")
    for milestone, message in (
        (2, "was refused"),
        (3, "was refused"),
        (4, "it needs step, model, opt"),
        (5, "belong to another model"),
        (6, "optimiser state"),
        (7, "there is no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            trainer.load(milestone)
    assert not (tmp_path / "touched").exists()
    assert all(torch.equal(before[name], value) for name, value in trainer.diffusion_model.state_dict().items())


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("step", "abc", "step must be a whole number, not 'abc'"),
        ("step", None, "step must be a whole number, not None"),
        ("step", -1, "step must be a whole number, not -1"),
        ("opt", 5, "opt must be the state of an optimiser, not int"),
        ("opt.state", "x", "the optimiser state in .* does not fit"),
        ("opt.param_groups", None, "the optimiser state in .* does not fit"),
        ("opt.state.0", 3, "the optimiser state in .* does not fit"),
        ("opt.state.0.exp_avg", torch.zeros(1), "the optimiser state in .* does not fit"),
        ("opt.state.0.exp_avg_sq", None, "the optimiser state in .* does not fit"),
        ("opt.state.1.exp_avg", torch.full((4,), torch.nan), "the optimiser state in .* is not finite"),
        ("model", 5, "model must be a dictionary of tensors"),
        ("model.model.init_conv.bias", "x", "model must be a dictionary of tensors"),
        (
            "model.model.init_conv.bias",
            torch.full((4,), torch.nan),
            "1 of 117 tensors holds NaN or Inf, the first is model.init_conv.bias",
        ),
        ("model", {5: torch.zeros(1)}, "the weights in .* do not fit this model"),
    ],
)
def test_checkpoints_with_other_things_in_them(
    part: str, value: object, message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each is one sentence, and model, optimiser and step are as they were before."""
    trainer = make_trainer(files, tmp_path)
    trainer.train()
    trainer.save(1)
    state = torch.load(tmp_path / "model-1.pt", weights_only=True)
    first, _, rest = part.partition(".")
    target, keys = state, [first]
    if first == "opt" and rest:
        keys += [int(key) if key.isdigit() else key for key in rest.split(".")]
    elif rest:
        keys.append(rest)
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    state["model"] = {**state["model"], "betas": state["model"]["betas"] + 1} if part != "model" else value
    torch.save(state, tmp_path / "model-2.pt")
    trainer.train_num_steps = 6
    trainer.train()
    trainer.save(3)
    with pytest.raises(CheckpointError, match=message):
        trainer.load(2)
    trainer.save(4)
    assert (tmp_path / "model-4.pt").read_bytes() == (tmp_path / "model-3.pt").read_bytes()


def test_a_checkpoint_that_the_disk_does_not_take(files: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(files, tmp_path)
    trainer.save(1)
    before = (tmp_path / "model-1.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="model-1.pt could not be written"):
            trainer.save(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "model-1.pt").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*model*")] == ["model-1.pt"]


def test_guidance_scale_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    diffusion = GaussianDiffusion(Unet(dim=4, condition_dim=WIDTH, dim_mults=(1, 2)), image_size=8, timesteps=5)
    diffusion.sample(1, model_kwargs={"text_emb": torch.zeros(1, WIDTH), "cfg_scale": 2.31})
    printed = capsys.readouterr()
    assert printed.out == "Classifier-free guidance scale: 2.31\n"
    assert "sampling loop time step" in printed.err


def test_unknown_settings_raise_what_the_courses_code_raises() -> None:
    for expected in (AssertionError, ValueError):
        with pytest.raises(expected, match="unknown objective 'pred_score'"):
            GaussianDiffusion(None, image_size=4, objective="pred_score")
    with pytest.raises(ValueError, match="unknown schedule 'quadratic'"):
        GaussianDiffusion(None, image_size=4, beta_schedule="quadratic")
