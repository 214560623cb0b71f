"""Where and how code runs: device, precision, seeds, memory format, caches, network policy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from opsin.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISIONS = ("auto", "32", "bf16", "16")


def cache_dir() -> Path:
    """Directory of everything that can be built or downloaded again: `$OPSIN_CACHE` or the user's cache folder."""
    configured = os.environ.get("OPSIN_CACHE")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("opsin", appauthor=False))


def is_offline() -> bool:
    """True when `OPSIN_OFFLINE` or `HF_HUB_OFFLINE` is set: then no socket may be opened."""
    values = (os.environ.get(name, "") for name in ("OPSIN_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in {"1", "true", "yes", "on"} for value in values)


@contextmanager
def environment_default(name: str, value: str) -> Iterator[None]:
    """In the block an environment variable has this value, unless it had one before."""
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def is_first_process() -> bool:
    """False in all but one of the processes that torchrun starts for a run: that one reports."""
    return os.environ.get("RANK", "0") == "0"


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; any other name is a torch device string.

    Raises ConfigError when the device does not exist here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:1 or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        usable = ", ".join(kind for kind, present in available.items() if present)
        raise ConfigError(f"device {name!r} is not available on this machine; available: {usable}")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} does not exist: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def has_native_bf16(device: torch.device) -> bool:
    """True where bfloat16 matrix products run in hardware, so that bf16 is faster than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        has_kernels = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return bool(has_kernels and torch.cpu._is_avx512_bf16_supported())
    return False


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` is `bf16` where it is native and `32` elsewhere.

    Raises ConfigError for an unknown name, and for `16` on a CPU, where float16 has neither kernels nor a loss scaler.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}: use one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "32"
    if name == "16" and device.type == "cpu":
        raise ConfigError("precision 16 needs a GPU; on a CPU use bf16 or 32")
    return name


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """The autocast context for inference at a precision of `resolve_precision`."""
    import torch

    resolved = resolve_precision(precision, device)
    dtype = torch.float16 if resolved == "16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=resolved != "32")


def refuse_damaged(outputs: torch.Tensor, model: str) -> None:
    """Raise CheckpointError where what a model gives is NaN or Inf; `model` names it in the message."""
    if not bool(outputs.isfinite().all()):
        raise CheckpointError(
            f"{model} gives NaN or Inf: its weights are damaged, or too large for this precision. Try --precision 32; "
            "if that does not help, train the model or get its files again"
        )


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive_seed(*parts)`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


@contextmanager
def random_state_kept() -> Iterator[None]:
    """After the block torch's own random numbers go on as if it had not been."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # else there is nothing to keep
    with torch.random.fork_rng(gpus):
        yield


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """In the block torch's own random numbers follow from the parts; afterwards they go on as if it had not been."""
    import torch

    with random_state_kept():
        torch.manual_seed(derive_seed(*parts))
        yield


def describe_environment() -> dict[str, object]:
    """What a result depends on besides the config: versions, hardware, threads. JSON types only."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in ("opsin", "torch", "torchvision", "lightning-fabric", "numpy")},
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "native_bf16": has_native_bf16(torch.device("cuda" if gpus else "cpu")),
        "gpus": gpus,
    }


def cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part of the module is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
