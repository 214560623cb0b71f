"""CLIP state dicts in OpenAI's format: of ViT-B/32's real shape, small ones, and what must be refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from opsin.encoders import ImageTextEncoder, load
from opsin.encoders.open_clip import wrap
from opsin.errors import CheckpointError

from .clip_models import contiguous, tiny_clip
from .test_encoders import CPU, pictures


def openai_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """As the package `clip` keeps them: in half precision, with three numbers beside the weights."""
    tensors = {name: tensor.half() for name, tensor in contiguous(model.state_dict()).items()}
    return {
        **tensors,
        "input_resolution": torch.tensor(model.visual.image_size[0]),
        "context_length": torch.tensor(model.context_length),
        "vocab_size": torch.tensor(model.vocab_size),
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dict_of_a_small_network(tmp_path: Path, suffix: str) -> None:
    """Shapes give the architecture, and QuickGELU is used: the features are those of the network that was saved."""
    model = tiny_clip().half().float()
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(openai_tensors(model), path)
    encoder = load(str(path), device="cpu", precision="32")
    assert isinstance(encoder, ImageTextEncoder)
    original = wrap("x", model, CPU)
    original.precision = "32"
    torch.testing.assert_close(encoder.encode_text(["a dog"]), original.encode_text(["a dog"]))
    visual = encoder.network
    assert visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    with torch.no_grad():
        inputs = torch.stack([encoder.preprocess(picture) for picture in pictures()])
        torch.testing.assert_close(encoder.encode_image(pictures(), normalize=False), model.encode_image(inputs))


def test_state_dict_of_vit_b_32(tmp_path: Path) -> None:
    """The real shapes, 151 million parameters, with numbers that cost no time to draw."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"), quick_gelu=True)
    pattern = 0.02 * torch.sin(torch.arange(7919.0)).half()
    tensors = {}
    for name, tensor in model.state_dict().items():
        count = tensor.numel()
        tensors[name] = pattern.repeat(-(-count // len(pattern)))[:count].view(tensor.shape).clone()
    tensors["logit_scale"] = torch.tensor(100.0).log().half()
    path = tmp_path / "ViT-B-32.safetensors"
    save_file(tensors, path)
    del tensors, model
    encoder = load(str(path), device="cpu")
    assert isinstance(encoder, ImageTextEncoder)
    assert sum(parameter.numel() for parameter in encoder.model.parameters()) == 151_277_313
    assert encoder.encode_image(pictures(1)).shape == encoder.encode_text(["a dog"]).shape == (1, 512)
    assert encoder.logit_scale == pytest.approx(100, rel=2e-3)
    (dense,) = encoder.encode_dense(pictures(1))  # type: ignore[attr-defined]
    assert dense.grid == (7, 7)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load\('ViT-B-32\.pt'"):
        load(str(path))


class Exploit:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploited"),))


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Exploit()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Exploit()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="was refused"):
            load(str(tmp_path / name))
    assert not (tmp_path / "exploited").exists()


def test_files_that_hold_no_clip_model(tmp_path: Path) -> None:
    def refuses(name: str, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            load(str(tmp_path / name))

    (tmp_path / "empty.pt").write_bytes(b"")
    refuses("empty.pt", "was refused")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    refuses("cut.safetensors", "truncated")
    torch.save([1, 2], tmp_path / "list.pt")
    refuses("list.pt", "no state dict")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    refuses("other.pt", r"no state dict in OpenAI's format: it has no text_projection.*visual\.\*")
    tensors = openai_tensors(tiny_clip())
    torch.save({**tensors, "visual.ln_post.weight": torch.zeros(3)}, tmp_path / "shape.pt")
    refuses("shape.pt", "do not make a CLIP model")
    del tensors["transformer.resblocks.0.mlp.c_fc.bias"]
    torch.save(tensors, tmp_path / "missing.pt")
    refuses("missing.pt", r"do not make a CLIP model.*c_fc\.bias")
