"""State dicts from files that nobody vouches for: read without running code, and loaded into networks that fit them."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from opsin.counts import agree, number_of
from opsin.errors import CheckpointError, OpsinError, system_errors_as
from opsin.runtime import random_state_kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONTAINERS = ("teacher", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep a state dict, the weights that they would evaluate first."""
PREFIXES = ("module.", "backbone.")
"""What DistributedDataParallel and DINO put before the names of a network's weights."""

NetworkT = TypeVar("NetworkT", bound="nn.Module")
DIGEST_KEY = "opsin.sha256"
"""Under it the metadata of a safetensors file may hold the digest of its tensors, as `weights_digest` gives it."""
PARTS_PER_TENSOR, MORE_PARTS = 5, 500
"""How many modules and parameters a network may have for each tensor in its file, and besides. Ours have about two."""


def read_torch_file(path: Path | str, *, device: str | torch.device = "cpu", classes: Iterable[Any] = ()) -> Any:
    """What `torch.save` wrote: tensors, numbers, texts, and containers of them.

    Args:
        path: The file.
        device: Where the tensors go.
        classes: Further classes and functions that the file may name, such as those of numpy arrays.

    Raises:
        CheckpointError: The file cannot be read, is damaged, holds code, or unpacks to more bytes than it has.
    """
    import torch

    with system_errors_as(CheckpointError, f"{path} cannot be read"):
        file = open(path, "rb")  # noqa: SIM115, because what goes wrong in reading it has other reasons
    try:
        with file, torch.serialization.safe_globals(list(classes)):
            _refuse_inflated(file, path)
            return torch.load(file, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can end the unpickler in any way, an IndexError for example
        raise CheckpointError(f"{path} was refused: it is truncated, or holds code instead of plain tensors") from error


def refuse_changed_archive(path: Path | str) -> None:
    """Raise CheckpointError when a file of `torch.save` has other bytes than were written, by the checksums (CRC-32) in
    it: `torch.load` does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip() is not None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return  # torch.load says what is wrong
    if changed:
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written")


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises CheckpointError when it is missing or damaged; changed bytes are noticed where it says its digest
    (`DIGEST_KEY`).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with system_errors_as(CheckpointError, f"{path} cannot be read"), safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(DIGEST_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, since it is no mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: it is truncated or no safetensors file") from error
    if written is not None and written != weights_digest(tensors):
        raise CheckpointError(f"{path} is damaged: its weights are not those that were written")
    return tensors


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that are contiguous, on the CPU, and share no memory, with their digest."""
    from safetensors.torch import save

    content = memoryview(save(dict(tensors)))
    start = 8 + int.from_bytes(content[:8], "little")
    # Put in here, because safetensors writes what it is given as metadata in an order that changes from run to run.
    metadata = {"format": "pt", DIGEST_KEY: weights_digest(tensors)}
    header = json.dumps({"__metadata__": metadata, **json.loads(bytes(content[8:start]))}, separators=(",", ":"))
    padded = header.encode().ljust(len(header) + -len(header) % 8)  # ASCII, and values aligned to 8 bytes
    file.write(len(padded).to_bytes(8, "little"))
    file.write(padded)
    file.write(content[start:])


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of names, shapes, types and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _add_to_digest(digest, name, tensors[name])
    return digest.hexdigest()


def digest_in_order(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """As `weights_digest`, in the order in which tensors are given; those that share memory count once."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for name, tensor in tensors:
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            _add_to_digest(digest, name, tensor)
    return digest.hexdigest()


def _add_to_digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Update a digest with all that a tensor is."""
    import torch

    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def state_dict_of(path: Path | str) -> dict[str, Tensor]:
    """The weights of one network in a `.safetensors` file or in one of `torch.save`.

    A training script keeps them beside other things: they are looked for under `CONTAINERS`, and a prefix that a
    wrapper put before their names (`PREFIXES`) is taken off; what lacks the prefix then, such as the head of DINO, is
    not part of the network. Raises CheckpointError when there are none.
    """
    content = read_safetensors(path) if Path(path).suffix.lower() == ".safetensors" else read_torch_file(path)
    while isinstance(content, dict) and (inside := [key for key in CONTAINERS if isinstance(content.get(key), dict)]):
        content = content[inside[0]]
    if not isinstance(content, dict) or not content or not all(_is_tensor(value) for value in content.values()):
        raise CheckpointError(f"{path} is no state dict: it holds something else than named tensors")
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return content


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def load_state_dict(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load strictly; CheckpointError names the first tensors that do not fit, or that hold NaN or Inf."""
    _refuse_other_shapes(model, tensors, where)
    refuse_non_finite(tensors, where)
    model.load_state_dict(tensors)


def build_to_fit(
    build: Callable[[], NetworkT],
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    derived: Callable[[str], bool] = lambda name: False,
) -> NetworkT:
    """The network that `build` makes, on the CPU, with these weights.

    It is built without memory first (on torch's meta device) and compared with the tensors, so that a config which
    asks for a billion layers, or for a table of 100,000 x 100,000, is refused before it costs anything.

    Args:
        build: Makes a network with any weights.
        tensors: Its state dict.
        where: What the tensors come from, for error messages.
        derived: Tells by name which entries of the state dict follow from the config and are not among `tensors`.

    Raises:
        CheckpointError: The config describes another network than the tensors, or none; or they hold NaN or Inf.
    """
    import torch

    with torch.device("meta"), _nothing_drawn(), _LimitedParts(PARTS_PER_TENSOR * len(tensors) + MORE_PARTS, where):
        try:
            outline = build()
        except (OpsinError, MemoryError):
            raise
        except Exception as error:  # torch and Python refuse impossible sizes in many ways
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the config of {where} describes no network that can be built: {reason}") from error
    _refuse_other_shapes(outline, tensors, where, derived)
    refuse_non_finite(tensors, where)
    with random_state_kept():  # random weights are drawn, and then replaced
        network = build()
    own = {name: tensor for name, tensor in network.state_dict().items() if derived(name)}
    network.load_state_dict({**tensors, **own})
    return network


def _nothing_drawn() -> AbstractContextManager[object]:
    """While it is entered, weights are not initialised at random. Without memory there is nothing to draw, and torch
    would import its compiler for that, which takes seconds."""
    from torch.overrides import TorchFunctionMode

    class NothingDrawn(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func.__name__.endswith(("normal_", "uniform_")):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    return NothingDrawn()


class _LimitedParts:
    """While it is entered, a thread that registers more modules and parameters than this gets CheckpointError."""

    def __init__(self, limit: int, where: str) -> None:
        self.limit, self.where = limit, where
        self.count, self.thread = 0, threading.get_ident()

    def __enter__(self) -> None:
        from torch.nn.modules import module

        self.handles = [
            module.register_module_parameter_registration_hook(self._registered),
            module.register_module_module_registration_hook(self._registered),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _registered(self, module: nn.Module, name: str, part: object) -> None:
        if part is None or threading.get_ident() != self.thread:  # torch's hook is one for all threads
            return
        self.count += 1
        if self.count > self.limit:
            raise CheckpointError(
                f"the config of {self.where} describes a network with many more weights than are in the file; "
                "one of the two is damaged or belongs to another model"
            )


def _refuse_other_shapes(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    derived: Callable[[str], bool] = lambda name: False,
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not derived(name)}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := [name for name in sorted(expected.keys() | given.keys()) if expected.get(name) != given.get(name)]:
        examples = "; ".join(
            f"{name}: model {expected.get(name, 'none')}, file {given.get(name, 'none')}" for name in wrong[:3]
        )
        raise CheckpointError(
            f"the weights in {where} belong to another model: {number_of(len(wrong), 'tensor')} "
            f"{agree(len(wrong), 'differs', 'differ')} ({examples})"
        )


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError when a weight is NaN or Inf: whatever a network computes with it would be NaN as well."""
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"the weights in {where} are damaged, or their training failed: {len(broken)} of "
            f"{number_of(len(tensors), 'tensor')} {agree(len(broken), 'holds', 'hold')} NaN or Inf, the first is "
            f"{broken[0]}"
        )


def _refuse_inflated(file: BinaryIO, path: Path | str) -> None:
    """Torch stores tensors uncompressed and once. Other archives can unpack to any size."""
    members = []
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > size:
        raise CheckpointError(
            f"{path} was refused: it is a compressed archive, which can unpack to any size; torch.save writes none"
        )
