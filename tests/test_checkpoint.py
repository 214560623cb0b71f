"""Files that hold models: nothing half-written, nothing executed, and one clear error for each that is no good."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from opsin import checkpoint
from opsin.checkpoint import (
    export_pretrained,
    load_pretrained,
    load_training_state,
    push_to_hub,
    read_model_config,
    resolve_model,
    save_pretrained,
    save_training_state,
)
from opsin.config import load_json
from opsin.errors import CheckpointError, OfflineError
from opsin.files import write_json
from opsin.state_dicts import load_state_dict

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(3)}


def save_model(directory: Path, value: float = 0.0) -> Path:
    tensors = {"weight": torch.full((2, 3), value)}
    return save_pretrained(directory, kind="toy", config={"value": value}, tensors=tensors, card="# Toy\n")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ---------------------------------------------------------------------------------------- training states


def test_training_states_come_back(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    state = {"model": TENSORS, "optimizer": optimizer.state_dict(), "step": 3, "name": "x", "best": None}
    save_training_state(tmp_path / "state.pt", state)
    loaded = load_training_state(tmp_path / "state.pt")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in TENSORS.items())
    assert (loaded["step"], loaded["name"], loaded["best"]) == (3, "x", None)


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_never_executed(how: str, tmp_path: Path) -> None:
    evil = {"format_version": 1, "model": Malicious(tmp_path / "owned")}
    if how == "torch":
        torch.save(evil, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match="was refused: .* or holds code instead of plain tensors"):
        load_training_state(tmp_path / "state.pt")
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(evil))  # the attack itself works
    assert (tmp_path / "owned").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_truncated_state_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    save_training_state(tmp_path / "whole.pt", {"model": TENSORS})
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "part.pt").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match="part.pt"):
        load_training_state(tmp_path / "part.pt")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=40) | st.binary(max_size=30).map(lambda rest: b"\x80\x02" + rest))
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="state.pt"):
        load_training_state(tmp_path / "state.pt")


def test_states_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no training state at"):
        load_training_state(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_training_state(tmp_path)
    for content in ({"model": TENSORS}, TENSORS["weight"], [1]):
        torch.save(content, tmp_path / "state.pt")
        with pytest.raises(CheckpointError, match="is not a training state of opsin"):
            load_training_state(tmp_path / "state.pt")


@pytest.mark.parametrize("version", [2, "1", None])
def test_a_newer_format_is_refused(version: object, tmp_path: Path) -> None:
    torch.save({"format_version": version}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=f"format version {version}; this opsin reads up to 1. Update opsin"):
        load_training_state(tmp_path / "state.pt")
    save_model(tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    write_json(tmp_path / "model" / "config.json", {**content, "format_version": version})
    with pytest.raises(CheckpointError, match="Update opsin"):
        load_pretrained(tmp_path / "model", kind="toy")


# --------------------------------------------------------------------------------- pretrained directories


def test_paths_that_are_no_text_come_back(tmp_path: Path) -> None:
    content = {"data": os.fsdecode(b"/pictures/\xff\xc3"), "name": "Käfer 🐞 \\udcff"}
    write_json(tmp_path / "config.json", content)
    assert load_json(tmp_path / "config.json") == content
    assert "Käfer 🐞" in (tmp_path / "config.json").read_text(encoding="utf-8")
    card = f"# Trained on {content['data']}"
    model = save_pretrained(tmp_path / "model", kind="toy", config=content, tensors=TENSORS, card=card)
    assert load_pretrained(model, kind="toy")[0] == content
    assert (model / "README.md").read_text(encoding="utf-8") == r"# Trained on /pictures/\udcff\udcc3"


def test_a_model_without_a_card_is_exported(tmp_path: Path) -> None:
    (save_model(tmp_path / "model") / "README.md").unlink()
    exported = export_pretrained(tmp_path / "model", tmp_path / "out")
    assert (exported / "README.md").read_text() == ""


def _write_within_a_limit(directory: str, limit: int, answer: multiprocessing.connection.Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    messages = []
    for write in (
        lambda: save_training_state(Path(directory, "state.pt"), {"x": torch.ones(10_000)}),
        lambda: save_model(Path(directory, "model"), 2.0),
        lambda: write_json(Path(directory, "x.json"), ["x" * 10_000]),
    ):
        try:
            write()
        except CheckpointError as error:
            messages.append(str(error))
    answer.send(messages)


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_a_full_disk_loses_nothing(limit: int, tmp_path: Path) -> None:
    save_training_state(tmp_path / "state.pt", {"x": 1})
    save_model(tmp_path / "model", 1.0)
    write_json(tmp_path / "x.json", {})
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_write_within_a_limit, args=(str(tmp_path), limit, sender))
    process.start()
    messages = receiver.recv()
    process.join()
    assert process.exitcode == 0
    assert len(messages) == 3
    for message in messages:
        assert "could not be written: File too large" in message and "\n" not in message and ".tmp" not in message
    assert load_training_state(tmp_path / "state.pt") == {"x": 1}
    assert load_pretrained(tmp_path / "model", kind="toy")[0] == {"value": 1.0}
    assert (tmp_path / "x.json").read_text() == "{}\n"
    assert names_in(tmp_path) == ["model", "state.pt", "x.json"]


def test_a_model_directory_comes_back(tmp_path: Path) -> None:
    transposed = torch.arange(6.0).view(2, 3).t()
    tied = torch.ones(2)
    tensors = {"transposed": transposed, "a": tied, "b": tied, "half": torch.ones(2, dtype=torch.float16)}
    path = save_pretrained(tmp_path / "model", kind="toy", config={"x": [1, "ü"]}, tensors=tensors, card="# Käfer\n")
    assert path == tmp_path / "model"
    assert names_in(path) == ["README.md", "config.json", "model.safetensors"]
    config, loaded = load_pretrained(path, kind="toy")
    assert config == {"x": [1, "ü"]}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
    assert (path / "README.md").read_text(encoding="utf-8") == "# Käfer\n"


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    save_model(tmp_path / "model", 1.0)
    save_model(tmp_path / "model", 2.0)
    assert load_pretrained(tmp_path / "model", kind="toy")[0] == {"value": 2.0}
    assert names_in(tmp_path) == ["model"]


def test_other_files_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "mine", 1.0)
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds other files than a model \(thesis.txt\), which would be lost"):
        save_model(tmp_path / "mine", 2.0)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert load_pretrained(tmp_path / "mine", kind="toy")[0] == {"value": 1.0}
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save_model(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (Path("."), tmp_path / "here"):
        with pytest.raises(CheckpointError, match="is the working directory"):
            save_model(here)


def test_a_linked_directory_stays_a_link(tmp_path: Path) -> None:
    """As on a machine where large files are to lie on another disk."""
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    for value in (1.0, 2.0):
        save_model(tmp_path / "model", value)
        assert (tmp_path / "model").is_symlink()
        assert load_pretrained(tmp_path / "disk" / "model", kind="toy")[0] == {"value": value}
    assert names_in(tmp_path / "disk") == ["model"]


def test_a_file_system_that_cannot_sync_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems: the file is in place by then."""
    fsync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    save_model(tmp_path / "model", 1.0)
    assert load_pretrained(tmp_path / "model", kind="toy")[0] == {"value": 1.0}


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "run" / "model", 1.0)
    rename = os.rename

    def crash_at_the_second(source: Path, target: Path) -> None:
        if Path(target).name == "model":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "run" / "model", 2.0)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model").exists()
    for ref in (tmp_path / "run", tmp_path / "run" / "model"):
        assert load_pretrained(ref, kind="toy")[0] == {"value": 1.0}
    save_model(tmp_path / "run" / "model", 3.0)
    assert load_pretrained(tmp_path / "run", kind="toy")[0] == {"value": 3.0}
    assert names_in(tmp_path / "run") == ["model"]


@pytest.mark.parametrize("keep", [0, 4, 40, 90])
def test_damaged_weights_are_refused(keep: int, tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read: it is truncated"):
        load_pretrained(tmp_path / "model", kind="toy")


def test_other_kinds_and_broken_configs_are_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds a model of kind 'toy'; this command needs 'vit-classifier'"):
        load_pretrained(model, kind="vit-classifier")
    write_json(model / "config.json", {"architectures": ["BertModel"]})
    with pytest.raises(CheckpointError, match="does not describe a model of opsin"):
        load_pretrained(model, kind="toy")
    (model / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_model_config(model)


def test_weights_of_another_model_are_named() -> None:
    model = nn.Linear(3, 2)
    load_state_dict(model, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "here")
    assert torch.equal(model.bias, torch.ones(2))
    for tensors, example in [
        ({"weight": torch.zeros(2, 3)}, r"1 tensor differs \(bias: model \(2,\), file none\)"),
        ({"weight": torch.zeros(3, 3), "bias": torch.zeros(2)}, r"weight: model \(2, 3\), file \(3, 3\)"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "extra": torch.zeros(1)}, "extra: model none"),
    ]:
        with pytest.raises(CheckpointError, match=f"the weights in here belong to another model: .*{example}"):
            load_state_dict(model, tensors, "here")
    assert torch.equal(model.bias, torch.ones(2))  # nothing was loaded by halves


def test_export_keeps_the_model_or_rounds_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tensors = {"weight": torch.tensor([1 / 3, -2.5]), "count": torch.tensor([70_000])}
    save_pretrained(run / "model", kind="toy", config={"width": 2}, tensors=tensors, card="written by training")
    for half in (False, True):
        exported = export_pretrained(run, tmp_path / "out", half=half, card="by hand" if half else None)
        content, loaded = load_pretrained(exported, kind="toy")
        assert content == {"width": 2}
        assert torch.equal(loaded["count"], tensors["count"])
        assert torch.equal(loaded["weight"], tensors["weight"].half() if half else tensors["weight"])
        assert (exported / "README.md").read_text() == ("by hand" if half else "written by training")
    tensors["weight"][0] = 1e6
    save_pretrained(run / "model", kind="toy", config={}, tensors=tensors, card="")
    with pytest.raises(CheckpointError, match="weight of .* does not fit into float16"):
        export_pretrained(run, tmp_path / "out", half=True)
    assert load_pretrained(tmp_path / "out", kind="toy")[0] == {"width": 2}  # what was there is still there


# -------------------------------------------------------------------------------------------- references


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ZOO_DIRECTORY", tmp_path / "zoo")
    save_model(tmp_path / "zoo" / "emoji-clip")
    save_model(tmp_path / "zoo" / "cifar10-vit")
    save_model(tmp_path / "run" / "model")
    assert checkpoint.zoo_names() == ["cifar10-vit", "emoji-clip"]
    assert resolve_model("emoji-clip") == tmp_path / "zoo" / "emoji-clip"
    assert resolve_model(tmp_path / "run") == tmp_path / "run" / "model"
    assert resolve_model(str(tmp_path / "run" / "model")) == tmp_path / "run" / "model"
    with pytest.raises(CheckpointError, match=r"there is no model 'emoji-clp', .*did you mean 'emoji-clip'\?"):
        resolve_model("emoji-clp")
    with pytest.raises(CheckpointError, match="models that ship with opsin: cifar10-vit, emoji-clip"):
        resolve_model("zzz")
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has not written a model yet; continue it with --resume"):
        resolve_model(tmp_path / "young")
    for path in (tmp_path / "zoo", tmp_path / "run" / "model" / "README.md"):
        with pytest.raises(CheckpointError, match="is not a model directory"):
            resolve_model(path)


def test_the_hub_is_not_asked_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_OFFLINE", "1")
    model = save_model(tmp_path / "model")
    with pytest.raises(OfflineError, match="somebody/toy cannot be uploaded: this run is offline"):
        push_to_hub(model, "somebody/toy")
    with pytest.raises(OfflineError, match="`hf download opsin-tests/absent`"):
        resolve_model("hf-hub:opsin-tests/absent")
    with pytest.raises(CheckpointError, match="is not of the form hf-hub:ORG/NAME"):
        resolve_model("hf-hub:a/b/c")


def test_damaged_weights_are_not_exported(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", value=float("nan"))
    with pytest.raises(CheckpointError, match="1 of 1 tensor holds NaN or Inf, the first is weight"):
        export_pretrained(model, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x40  # still a finite number
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its weights are not those"):
        load_pretrained(tmp_path / "model", kind="toy")


def test_weights_without_a_digest_load(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model", 2.0) / "model.safetensors"
    _, tensors = load_pretrained(tmp_path / "model", kind="toy")
    save_file(tensors, weights, metadata={"format": "pt"})
    _, again = load_pretrained(tmp_path / "model", kind="toy")
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_changed_training_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_training_state(path, {"weights": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged: its bytes are not those that were written"):
        load_training_state(path)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """Byte by byte, with values where safetensors expects them."""
    tensors = {"a": torch.arange(3, dtype=torch.int8), "ü": torch.rand(2, 3), "scalar": torch.tensor(1.5)}
    files = []
    for name in "abcd":
        save_pretrained(tmp_path / name, kind="toy", config={}, tensors=tensors, card="")
        files.append(tmp_path / name / "model.safetensors")
    assert len({file.read_bytes() for file in files}) == 1
    loaded = load_file(files[0])
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
