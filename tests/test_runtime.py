"""Device, precision, seeds, and what the environment says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from opsin.errors import ConfigError
from opsin.runtime import (
    autocast,
    cache_dir,
    derive_seed,
    describe_environment,
    environment_default,
    has_native_bf16,
    is_offline,
    make_generator,
    resolve_device,
    resolve_precision,
    seeded,
)

CPU = torch.device("cpu")


def test_a_variable_of_the_environment_is_set_in_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPSIN_TEST", raising=False)
    with environment_default("OPSIN_TEST", "a"):
        assert os.environ["OPSIN_TEST"] == "a"
        with environment_default("OPSIN_TEST", "b"):
            assert os.environ["OPSIN_TEST"] == "a"
    assert "OPSIN_TEST" not in os.environ


def test_seeds_are_the_same_on_every_machine() -> None:
    """Written down once: a change would silently give every recorded run other batches and augmentations."""
    assert derive_seed(0, "epoch", 0) == 5115923915251036591
    assert derive_seed("a", "b") != derive_seed("ab")
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert 0 <= derive_seed("x") < 2**63


def test_generators_follow_the_seed() -> None:
    draws = [torch.rand(3, generator=make_generator(*parts)) for parts in ((0, "a"), (0, "a"), (0, "b"))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    state = torch.get_rng_state()
    torch.rand(1, generator=make_generator(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_seeded_block_leaves_the_random_numbers_of_others_alone() -> None:
    state = torch.get_rng_state()
    draws = []
    for parts in ((0, "a"), (0, "a"), (0, "b")):
        with seeded(*parts):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(RuntimeError), seeded(0):
        torch.rand(1)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), state)


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    for name in ("gpu", "", "cuda:x"):
        with pytest.raises(ConfigError, match="unknown device .* use auto, cpu, cuda, cuda:1 or mps"):
            resolve_device(name)
    with pytest.raises(ConfigError, match="'meta' is not available on this machine; available: cpu"):
        resolve_device("meta")


def test_devices_that_are_not_here() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match="'cuda:99'") as caught:
        resolve_device("cuda:99")
    assert (f"has {count} CUDA devices" if count else "not available on this machine") in str(caught.value)


def test_precisions() -> None:
    assert resolve_precision("32", CPU) == "32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("16", torch.device("cuda")) == "16"
    assert resolve_precision("auto", CPU) == ("bf16" if has_native_bf16(CPU) else "32")
    with pytest.raises(ConfigError, match="unknown precision 'fp16': use one of auto, 32, bf16, 16"):
        resolve_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="precision 16 needs a GPU"):
        resolve_precision("16", CPU)


def test_autocast() -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, "32"):
        assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(("value", "offline"), [("1", True), (" True ", True), ("on", True), ("0", False), ("", False)])
@pytest.mark.parametrize("name", ["OPSIN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(name: str, value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPSIN_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert not is_offline()
    monkeypatch.setenv(name, value)
    assert is_offline() is offline


def test_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("OPSIN_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("OPSIN_CACHE")
    assert cache_dir().name == "opsin"


def test_the_environment_is_json() -> None:
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["cpu"] and environment["cpu_threads"] >= 1
