"""What a model's directory holds: weights that survive float16, and which text encoder they need."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from opsin.checkpoint import export_pretrained, load_pretrained
from opsin.config import load_json
from opsin.diffusion.config import ProcessConfig
from opsin.diffusion.data import open_splits
from opsin.diffusion.gaussian_diffusion import BetaSchedule, make_betas
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.text import EncoderIdentity, TextTable
from opsin.diffusion.train import DiffusionTask, train_diffusion
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import CheckpointError
from opsin.training.run import TrainReport

from .conftest import COLOURS, BagOfWords, tiny_config
from .test_training import write_table

TEXTS = [*COLOURS, *(f"all {name}" for name in COLOURS), "a broken picture"]


def test_half_of_the_size_and_the_same_pictures(colour_run: tuple[Path, TrainReport], tmp_path: Path) -> None:
    half = export_pretrained(colour_run[0], tmp_path / "half", half=True)
    tensors = load_pretrained(half, kind=TextToImage.kind)[1]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    whole = (colour_run[0] / "model" / "model.safetensors").stat().st_size
    assert (half / "model.safetensors").stat().st_size < 0.6 * whole
    models = [
        TextToImage.from_pretrained(path, device="cpu", precision="32", text_encoder=BagOfWords())
        for path in (colour_run[0], half)
    ]
    for name in ("alphas_cumprod", "posterior_std", "loss_weight"):
        assert torch.equal(*(getattr(model.model.diffusion, name) for model in models))
    first, second = (np.asarray(model.generate("red")[0].images[0]).astype(int) for model in models)
    assert np.abs(first - second).max() <= 3


@pytest.mark.parametrize("schedule", get_args(BetaSchedule))
def test_models_of_every_schedule_are_loaded(schedule: BetaSchedule, prompted_folder: Path, tmp_path: Path) -> None:
    process = ProcessConfig(timesteps=50, beta_schedule=schedule)
    train_diffusion(tiny_config(prompted_folder, max_steps=1, process=process), tmp_path, text_encoder=BagOfWords())
    diffusion = TextToImage.from_pretrained(tmp_path, device="cpu").model.diffusion
    assert torch.equal(diffusion.betas, make_betas(schedule, 50).float())


def test_a_directory_without_some_weights(colour_run: tuple[Path, TrainReport], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = export_pretrained(colour_run[0], tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["text_mean"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="text_mean"):
        TextToImage.from_pretrained(copy)


def test_another_text_encoder_of_the_same_name(prompted_folder: Path, tmp_path: Path) -> None:
    def write_embeddings(encoder: BagOfWords) -> Path:
        rows = {text: row for row, text in enumerate(TEXTS)}
        size = encoder.width
        return write_table(
            *(tmp_path / "table.pt",),
            idx_mapping=rows,
            embs=encoder.encode_text(TEXTS),
            pca_components=torch.eye(size),
            mean=torch.zeros(size),
        )

    table = write_embeddings(BagOfWords())
    train_diffusion(tiny_config(prompted_folder, text_encoder=str(table), max_steps=1), tmp_path / "run")
    content = load_json(tmp_path / "run" / "model" / "config.json")
    assert content["text_encoder"] == str(table)
    assert content["text_fingerprint"] == TextTable.load(table).fingerprint
    model = TextToImage.from_pretrained(tmp_path / "run", device="cpu")
    assert len(model.generate("red", steps=1)[0].images) == 1

    changed = BagOfWords()
    changed.encode_text = lambda texts, normalize=True: torch.randn(len(texts), 16)  # type: ignore[method-assign]
    write_embeddings(changed)
    again = TextToImage.from_pretrained(tmp_path / "run", device="cpu")
    with pytest.raises(CheckpointError, match=r"table.pt is not the one that the model was trained with: its finger"):
        again.generate("red")
    assert again.generate("", steps=1)[0].prompt == ""  # needs no text encoder


def test_identity_of_the_default_encoder() -> None:
    from opsin.diffusion.text import load_text_encoder

    encoder = load_text_encoder("emoji-clip", "cpu")
    identity = EncoderIdentity.of(encoder)
    assert identity == ("emoji-clip", fingerprint(encoder))
    assert len(identity.fingerprint) == 64


def test_texts_are_centred_by_those_of_training_only(prompted_folder: Path) -> None:
    """Held-out captions may be anything without moving a number of the network."""
    config = tiny_config(prompted_folder, max_train=1)
    splits = open_splits(config, BagOfWords())
    network = DiffusionTask(config, splits).text_to_image().model
    used = {row for rows in splits.train.texts_of for row in rows}
    features = BagOfWords().encode_text([splits.texts[row] for row in sorted(used)])
    torch.testing.assert_close(network.text_mean, features.mean(dim=0))
    assert len(used) == 2 < len(splits.texts)
    splits.features[sorted(set(range(len(splits.texts))) - used)] = 100.0
    assert torch.equal(DiffusionTask(config, splits).text_to_image().model.text_mean, network.text_mean)
