"""The course's emoji with the embeddings of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from icv83551.emoji_file import CourseEmoji, load_course_emoji
from opsin.data.pixels import fit_image
from opsin.diffusion.text import TextTable, load_text_encoder, text_features
from opsin.encoders.base import TextEncoder
from opsin.errors import ConfigError, DataError, DataNotFoundError
from opsin.sources.emoji import emoji_source

DATASETS = Path(__file__).parent / "datasets"
DATA_PATH = DATASETS / "emoji_data.npz"
TEXT_EMB_PATH = DATASETS / "text_embeddings.pt"
DEFAULT_ENCODER = "emoji-clip"


class Embedder(Protocol):
    """What turns one text into a vector (E,); `ClipEmbed` is one."""

    def embed(self, text: str) -> Tensor: ...


class ClipEmbed:
    """CLIP ViT-B/32's text encoder."""

    def __init__(self, device: torch.device | str) -> None:
        """Raises OfflineError when its weights are not here and cannot be downloaded."""
        self.encoder = load_text_encoder("open_clip:ViT-B-32-quickgelu/openai", str(device))

    def embed(self, text: str) -> Tensor:
        """float32 (512,)."""
        return self.encoder.encode_text([text], normalize=False)[0]


class TextEmbedder:
    """Embeddings of known texts, and their principal components."""

    def __init__(self, table: TextTable | None = None) -> None:
        self.table = table

    def load_processed(self, path: str | Path) -> None:
        """Read `text_embeddings.pt` without unpickling code; DataError when it cannot be used."""
        self.table = TextTable.load(path)

    def embed(self, text: str | None = None, emb: Tensor | None = None, num_pca: int | None = None) -> Tensor:
        """float32 (E,): the embedding of a known text, or `emb` itself; with `num_pca` its first so many components."""
        if emb is None:
            if text is None:
                raise ValueError("embed needs a text or an embedding")
            emb = self._table.encode_text([text], normalize=False)[0]
        return emb.float() if num_pca is None else self.encode_pca(emb, num_pca)

    def encode_pca(self, emb: Tensor, num_pca: int | None = None) -> Tensor:
        """Embeddings (…, E) to their first `num_pca` principal components."""
        table = self._table
        return (emb.float() - table.mean.to(emb.device)) @ table.components[:num_pca].T.to(emb.device)

    def decode_pca(self, components: Tensor) -> Tensor:
        """The embeddings (…, E) of principal components (…, K)."""
        table = self._table
        used = table.components[: components.shape[-1]].to(components.device)
        return components.float() @ used + table.mean.to(components.device)

    @property
    def _table(self) -> TextTable:
        if self.table is None:
            raise ConfigError("no text embeddings are loaded; call load_processed first")
        return self.table


class EmojiDataset(Dataset[Any]):
    """Items (image float (3, S, S) in [0, 1], {"text_emb": float (E,), "text": str}), one emoji a row.

    Image and text of an item are drawn from those of the emoji by numpy's global generator. Where the course's files
    are not in their own place, the embedded emoji with the texts' embeddings of `text_encoder` (by default
    emoji-clip's) take theirs.
    """

    def __init__(
        self,
        image_size: int,
        data_path: str | Path = DATA_PATH,
        text_emb_path: str | Path = TEXT_EMB_PATH,
        num_text_emb_pca: int | None = None,
        *,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        """Raises DataError for files that are damaged or not where they are said to be, and for texts without an
        embedding."""
        self.image_size = image_size
        self.num_text_emb_pca = num_text_emb_pca
        data, table = Path(data_path), Path(text_emb_path)
        if _is_there(data, DATA_PATH):
            entries = load_course_emoji(data)
            print(f"{data.name} already downloaded.")
        else:
            entries = _embedded_emoji()
            print(f"{data.name} is not there: using the {len(entries)} emoji that come with opsin.")
        texts = list(dict.fromkeys(text for entry in entries for text in entry.texts))
        if _is_there(table, TEXT_EMB_PATH):
            self.text_embedder = TextEmbedder(TextTable.load(table))
            print(f"{table.name} already downloaded.")
        else:
            encoded = _encoded_table(texts, text_encoder)
            self.text_embedder = TextEmbedder(encoded)
            print(f"{table.name} is not there: using embeddings of {encoded.name}, {len(encoded.mean)} wide.")
        known = self.text_embedder.table
        assert known is not None
        if unknown := [text for text in texts if text not in known.rows]:
            raise DataError(f"{len(unknown)} texts have no embedding in {known.name}, for example {unknown[0]!r}")
        if num_text_emb_pca is not None and not 1 <= num_text_emb_pca <= len(known.components):
            raise ConfigError(f"num_text_emb_pca must be in 1 to {len(known.components)}, not {num_text_emb_pca}")
        self.texts = [entry.texts for entry in entries]
        self.images = [[fit_image(image, image_size) for image in entry.images] for entry in entries]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        images, texts = self.images[index], self.texts[index]
        image = images[np.random.randint(len(images))]
        text = texts[np.random.randint(len(texts))]
        emb = self.text_embedder.embed(text=text, num_pca=self.num_text_emb_pca)
        return torch.from_numpy(image).float() / 255, {"text_emb": emb, "text": text}

    def random_model_kwargs(self, n: int) -> dict[str, Any]:
        """Texts of `n` random emoji: {"text_emb": float (n, E), "text": list}."""
        chosen = [self[int(index)][1] for index in np.random.randint(len(self), size=n)]
        return {
            "text_emb": torch.stack([item["text_emb"] for item in chosen]),
            "text": [item["text"] for item in chosen],
        }

    def embed_new_text(self, text: str, embedder: Embedder) -> Tensor:
        """float32 (E,) of any text, as the items' embeddings are. DataError when the embedder's width is another."""
        emb = embedder.embed(text).float().cpu()
        known = self.text_embedder.table
        assert known is not None
        if emb.shape != known.mean.shape:
            raise DataError(f"the embedder gives shape {tuple(emb.shape)}; the data set has {tuple(known.mean.shape)}")
        return self.text_embedder.embed(emb=emb, num_pca=self.num_text_emb_pca)


def _is_there(path: Path, course_path: Path) -> bool:
    """False for the course's own path without a file, which something else can replace; DataError for another one."""
    if not path.is_file() and path.resolve() != course_path.resolve():
        raise DataNotFoundError(
            f"there is no file {path}; put it there, or leave the path out to use what comes with opsin"
        )
    return path.is_file()


def _embedded_emoji() -> list[CourseEmoji]:
    """The emoji that come with opsin, all drawings of one together."""
    source = emoji_source()
    assert source.captions is not None
    drawings: dict[str, list[int]] = {}
    for row, code in enumerate(source.metadata["code"].tolist()):
        drawings.setdefault(code, []).append(row)
    return [
        CourseEmoji(tuple(np.asarray(source.load(row)) for row in rows), tuple(source.captions[rows[0]]))
        for rows in drawings.values()
    ]


def _encoded_table(texts: Sequence[str], encoder: TextEncoder | None) -> TextTable:
    """Embeddings of the texts, and their principal components by decreasing variance."""
    encoder = encoder or load_text_encoder(DEFAULT_ENCODER)
    embs = text_features(encoder, texts)
    mean = embs.mean(dim=0)
    centred = (embs - mean).double()
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)
    return TextTable(encoder.name, {text: row for row, text in enumerate(texts)}, embs, components, mean)
