"""Texts as vectors: by a text encoder, or from a table of embeddings that were computed before."""

from __future__ import annotations

import hashlib
import operator
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin import encoders
from opsin.config import nearest_name
from opsin.encoders.base import TextEncoder
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import CheckpointError, ConfigError, DataError, DataNotFoundError
from opsin.state_dicts import read_torch_file

TABLE_KEYS = ("idx_mapping", "embs", "pca_components", "mean")
NUMPY_GLOBALS = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype(np.float16)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int32)),
    type(np.dtype(np.int64)),
]


class EncoderIdentity(NamedTuple):
    """Which text encoder vectors are from."""

    name: str
    fingerprint: str
    """See `opsin.encoders.fingerprint`."""

    @classmethod
    def of(cls, encoder: TextEncoder) -> EncoderIdentity:
        return cls(encoder.name, fingerprint(encoder))


class TextTable:
    """Embeddings of known texts, as in the course's `text_embeddings.pt`, which also has their principal components."""

    def __init__(self, name: str, rows: Mapping[str, int], embs: Tensor, components: Tensor, mean: Tensor) -> None:
        """`rows` gives each text its row of `embs` (n, E); `components` (E, E) has a component in each row."""
        self.name = name
        self.rows = dict(rows)
        self.embs = embs.float()
        self.components = components.float()
        self.mean = mean.float()

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all texts and their embeddings."""
        digest = hashlib.sha256(self.embs.contiguous().numpy().tobytes())
        digest.update(repr(sorted(self.rows.items())).encode())
        return digest.hexdigest()

    @classmethod
    def load(cls, path: Path | str) -> TextTable:
        """Read a file without unpickling code. Raises DataError when it is absent, damaged, or no such table."""
        try:
            content = read_torch_file(path, classes=NUMPY_GLOBALS)
        except CheckpointError as error:
            kind = DataNotFoundError if isinstance(error, FileNotFoundError) else DataError
            raise kind(f"the text embeddings cannot be used: {error}") from error
        if not isinstance(content, dict) or set(TABLE_KEYS) - content.keys():
            raise DataError(f"{path} is no table of text embeddings: it needs {', '.join(TABLE_KEYS)}")
        embs, components, mean = (_numbers(content[key], f"{path}: {key}") for key in TABLE_KEYS[1:])
        if embs.ndim != 2 or components.shape != (embs.shape[1],) * 2 or mean.shape != embs.shape[1:]:
            raise DataError(
                f"{path}: embs {tuple(embs.shape)}, pca_components {tuple(components.shape)} and mean "
                f"{tuple(mean.shape)} do not fit together"
            )
        return cls(str(path), _row_numbers(content["idx_mapping"], len(embs), path), embs, components, mean)

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        """float32 (N, E). Raises DataError for a text that is not in the table."""
        texts = list(texts)
        if unknown := [text for text in texts if text not in self.rows]:
            near = nearest_name(unknown[0], self.rows)
            hint = f"did you mean {near!r}?" if near else "use a model with a text encoder for texts of your own"
            raise DataError(f"the table {self.name} has no embedding of {unknown[0][:80]!r}; {hint}")
        found = self.embs[[self.rows[text] for text in texts]]
        return F.normalize(found, dim=1) if normalize else found


def _numbers(value: Any, where: str) -> Tensor:
    """A float32 tensor of what a table holds under one key; DataError unless it is an array of finite numbers."""
    try:
        numbers = torch.as_tensor(value)
        if not numbers.is_complex() and numbers.isfinite().all():
            return numbers.float()
    except (TypeError, ValueError, RuntimeError):  # no array at all, or one that cannot be looked into
        pass
    raise DataError(f"{where} must be an array of numbers, all of them finite")


def _row_numbers(mapping: Any, count: int, path: Path | str) -> dict[str, int]:
    """Texts and their rows, which may be numbers of Python, numpy or torch; DataError when there are not so many."""
    try:
        rows = {text: operator.index(row) for text, row in mapping.items()}
        if all(isinstance(text, str) and 0 <= row < count for text, row in rows.items()):
            return rows
    except (AttributeError, TypeError):  # no mapping, or not to whole numbers
        pass
    raise DataError(f"{path}: idx_mapping must give texts rows of embs, 0 to {count - 1}")


def load_text_encoder(ref: str, device: str = "auto") -> TextEncoder:
    """The text encoder that a reference names: a table (FILE.pt) or whatever `opsin.encoders.load` finds.

    Raises DataError for a table that cannot be used, ConfigError for a model without a text encoder, and what
    `opsin.encoders.load` raises.
    """
    if ref.endswith(".pt"):
        return TextTable.load(Path(ref).expanduser().absolute())
    # Texts are few and short; in full precision their vectors are the same on every machine.
    encoder: object = encoders.load(ref, device, "32")
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(
            f"the model {ref!r} has no text encoder; use emoji-clip, which ships with opsin, or one such as "
            "open_clip:ViT-B-32/openai"
        )
    return encoder


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: white space, joiners and the like."""
    return all(char.isspace() or unicodedata.category(char) in ("Cf", "Cc") for char in text)


def text_features(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """float32 (N, E) of at least one text, on the CPU, of length one each."""
    features = encoder.encode_text(list(texts), normalize=True).float().cpu()
    if features.ndim != 2 or len(features) != len(texts) or not features.isfinite().all():
        raise DataError(
            f"the text encoder {encoder.name} gave {tuple(features.shape)} for {len(texts)} texts, or not only numbers"
        )
    return features
