"""An index of images that words and images can be looked up in; it follows its collection as that changes.

index = ImageIndex.create("photos.index", "open_clip:ViT-B-32/openai")
index.update("photos")
for hit in index.search("a dog on a beach", k=5):
    print(hit.id, hit.cosine)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image

from opsin.encoders.base import ImageEncoder, TextEncoder, input_size
from opsin.encoders.features import text_vectors
from opsin.encoders.fingerprint import fingerprint
from opsin.encoders.loading import load
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.images.opening import ImageLike, Skipped
from opsin.names import printable
from opsin.progress import Progress
from opsin.search.collection import Collection, FolderCollection, SourceCollection, list_folder, open_collection
from opsin.search.confidence import BACKGROUND_TEXTS, standout
from opsin.search.database import DATABASE, FOLDER, Meta
from opsin.search.embedding import encoder_info
from opsin.search.query import Term, encode_query, query_terms
from opsin.search.results import Hit, SearchResults, UpdateReport
from opsin.search.shards import EncoderInfo, read_manifest, text_to_path
from opsin.search.snapshot import Backend, Snapshot, read_snapshot
from opsin.search.store import Store, locked
from opsin.search.update import Update, import_shards

ATTEMPTS = 3
"""Of a search that an update runs into."""


FEW_DELETED = 0.1
"""The share of an index that one update may delete for good, vectors and all."""


class ImageIndex:
    """Vectors of the images of one collection, in a directory."""

    def __init__(self, store: Store, encoder: ImageEncoder | None, device: str, backend: Backend) -> None:
        self.path = store.directory
        self._store = store
        self._encoder = encoder
        self._device = device
        self._backend = backend
        self._lock = Lock()
        self._snapshot: Snapshot | None = None
        self._background: np.ndarray | None = None

    @classmethod
    def create(cls, path: str | Path, encoder: str | ImageEncoder, *, device: str = "auto") -> ImageIndex:
        """An index without images in a directory that is new or empty; `update` fills it.

        `encoder` is a reference for `opsin.encoders.load` or an encoder. Raises ConfigError when the directory is in
        use, CheckpointError when it cannot be written, and what loading the encoder raises.
        """
        path = Path(path)
        if holds_index(path):
            raise ConfigError(f"{path} holds an index already; open it, or choose another directory")
        if path.is_file() or (path.is_dir() and any(not name.startswith(".") for name in os.listdir(path))):
            raise ConfigError(f"{path} is in use for something else; choose a new directory for the index")
        loaded = load(encoder, device) if isinstance(encoder, str) else encoder
        with locked(path):
            if holds_index(path):  # another process was faster
                raise ConfigError(f"{path} holds an index already; open it, or choose another directory")
            info, reads_texts = encoder_info(loaded), isinstance(loaded, TextEncoder)
            store = Store.create(path, Meta(info.encoder, info.fingerprint, info.dim, reads_texts))
        return cls(store, loaded, device, "exact")

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: ImageEncoder | None = None,
        *,
        device: str = "auto",
        backend: Backend = "exact",
    ) -> ImageIndex:
        """The index in a directory. Its encoder is loaded when it is first needed, if it is not given.

        With the backend `lancedb` the search is approximate; see `opsin.search.lance`. Raises CheckpointError when
        there is no readable index, or when it is of another format or of an encoder with other weights.
        """
        index = cls(Store(Path(path)), None, device, backend)
        if encoder is not None:
            index._encoder = index._checked(encoder)
        return index

    def __len__(self) -> int:
        return self._store.database.count()

    @property
    def info(self) -> EncoderInfo:
        """The encoder that made the vectors."""
        meta = self._store.database.meta()
        return EncoderInfo(meta.encoder, meta.fingerprint, meta.dim)

    @property
    def source(self) -> str:
        """The folder or other data source whose images are in the index; empty before the first update."""
        return self._store.database.meta().source

    @property
    def exclude(self) -> Sequence[str]:
        """The patterns of images that are left out of it."""
        return self._store.database.meta().exclude

    @property
    def loaded_encoder(self) -> ImageEncoder | None:
        """The encoder, if it has been needed so far."""
        return self._encoder

    @property
    def encoder(self) -> ImageEncoder:
        """The encoder, loaded. Raises CheckpointError when its weights are not those that made the index."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self._checked(load(self.info.encoder, self._device))
            return self._encoder

    @property
    def reads_texts(self) -> bool:
        """Whether its encoder reads texts, so that words can be looked up."""
        return self._store.database.meta().reads_texts

    def update(
        self,
        source: str | Path | None = None,
        *,
        exclude: Sequence[str] | None = None,
        embeddings: str | Path | None = None,
        rehash: bool = False,
        progress: Progress | None = None,
    ) -> UpdateReport:
        """Make the index follow its folder (or other source): new images are encoded, changed ones encoded anew, and
        the rest is kept, moved or removed. A folder that was moved as a whole is given by its new path.

        A file is read again when its size, times or inode have changed, with `rehash` in any case. Vectors that were
        damaged on disk are noticed, and those images are encoded again.

        Only one process at a time may do this. When it fails or is interrupted, the index is as it was, and the next
        update need not encode again what this one has.

        Args:
            source: The folder or other data source; by default that of the last update.
            exclude: Patterns of images to leave out (`opsin.sources.exclusion`); by default those of the last update.
            embeddings: A directory that `opsin embed` wrote with the same encoder; images whose vectors are there are
                not encoded. The source of a new index is then by default theirs.
            rehash: Read every file.
            progress: Is told of the images read, and can stop the update.

        Raises:
            ConfigError: Another process writes, or the source or the embeddings do not belong to this index.
            DataError: The source is not there.
            CheckpointError: The index cannot be written, or the embeddings cannot be read.
        """
        if embeddings is not None and source is None and not self.source:
            source = text_to_path(read_manifest(Path(embeddings))["source"])
        with locked(self.path):
            collection = self._collection_to_index(source, exclude)
            contents = self._store.prepare()
            if embeddings is not None:
                import_shards(self._store, contents, Path(embeddings))
            update = Update(self._store, contents, collection, rehash=rehash)
            report = update.run(self._encode_images, self._input_size, progress=progress)
            if report.total == 0 and report.skipped and not report.deleted:
                raise DataError(
                    f"none of the images of {collection.ref} can be used; the first: {report.skipped[0].reason}"
                )
            # What has gone just now stays on disk until a later update, when it is much: a drive may not have been
            # connected.
            few = len(report.deleted) <= FEW_DELETED * (report.total + len(report.deleted))
            if few and self._store.is_wasteful():
                self._store.compact()
        return report

    def compact(self) -> None:
        """Drop the vectors of deleted images from disk; `update` does so when it pays."""
        with locked(self.path):
            self._store.compact()

    def search(
        self,
        text: str | Sequence[str] = (),
        *,
        image: ImageLike | Sequence[ImageLike] = (),
        minus: str | Sequence[str] = (),
        weights: Sequence[float] | None = None,
        k: int = 5,
    ) -> SearchResults:
        """The `k` images closest to a query: a weighted sum of vectors of length one, of texts, images, and texts to
        stay away from.

        `weights` has one number for each text, image and `minus`, in this order; by default each counts 1, and `minus`
        -1 (a weight of `minus` is subtracted). Raises ConfigError for a query that is empty, cancels itself out or has
        another number of weights, for k < 1, and for text when the encoder knows none; DataError for a broken image.
        """
        if k < 1:
            raise ConfigError(f"the number of hits must be at least 1, not {k}")
        terms = query_terms(text, image, minus, weights)
        query = encode_query(self.encoder, terms)
        snapshot, found = self._nearest(query, k)
        if not found:
            return SearchResults((), False, 0.0, 0)
        strength = self._standout(found[0][1], terms, snapshot)
        hits, refused = self._hits(found)
        return SearchResults(hits, strength >= 1, strength, snapshot.size, refused)

    def image(self, id: str, size: int | None = None) -> Image.Image:
        """The decoded RGB image of a hit; `size` is that of `opsin.images.opening.open_image`.

        Raises DataError when it is gone, damaged, or not inside the folder."""
        return self._source_collection().image(id, size)

    def _nearest(self, query: np.ndarray, k: int) -> tuple[Snapshot, list[tuple[str, float]]]:
        """What was searched, and ids and cosines of the nearest images."""
        for _ in range(ATTEMPTS):
            snapshot = self._current()
            rows, cosines = snapshot.vectors.search(query, k)
            revision, ids = self._store.database.paths(rows)
            if revision == snapshot.revision:  # otherwise the rows may be of other images by now
                pairs = zip(ids, cosines, strict=True)
                return snapshot, [(id, float(cosine)) for copies, cosine in pairs for id in copies][:k]
        raise self._restless()

    def _hits(self, found: Sequence[tuple[str, float]]) -> tuple[tuple[Hit, ...], tuple[Skipped, ...]]:
        collection = self._source_collection()
        hits, refused = [], []
        for rank, (id, cosine) in enumerate(found, start=1):
            try:
                path = collection.path(id)
            except DataError as error:
                refused.append(Skipped(printable(id), str(error)))
                continue
            missing = path is not None and not os.path.isfile(path)
            hits.append(Hit(id, path, float(np.clip(cosine, -1, 1)), rank, missing))
        return tuple(hits), tuple(refused)

    def _standout(self, cosine: float, terms: Sequence[Term], snapshot: Snapshot) -> float:
        texts = np.zeros((0, self.info.dim), dtype=np.float32)
        if any(term.is_text for term in terms):
            texts = self._background_vectors()
        return standout(cosine, snapshot.chance(terms, texts), snapshot.size)

    def _current(self) -> Snapshot:
        """The vectors as they are now; read again when there is another revision, or when their file has changed."""
        database, known = self._store.database, self._snapshot
        for attempt in range(ATTEMPTS):
            meta = database.meta()
            if known and (known.revision, known.status) == (meta.revision, self._store.status(meta.generation)):
                return known
            try:
                self._snapshot = read_snapshot(self._store, self._backend)
                return self._snapshot
            except CheckpointError:  # a file of another generation may have been removed just now
                if attempt == ATTEMPTS - 1 or database.meta().revision == meta.revision:
                    raise
        raise self._restless()

    def _restless(self) -> CheckpointError:
        return CheckpointError(f"{self.path} is changing all the time; search again when no update is under way")

    def _collection_to_index(self, source: str | Path | None, exclude: Sequence[str] | None) -> Collection:
        meta = self._store.database.meta()
        old = meta.source
        exclude = meta.exclude if exclude is None else exclude
        if source is None and not old:
            raise ConfigError(f"the index {self.path} has no source yet; say which images to index")
        wanted = str(source) if source is not None else old
        if not old:
            return open_collection(wanted, exclude)
        is_folder = meta.kind == FOLDER
        folder = Path(wanted).expanduser()
        if is_folder and (wanted == old or folder.is_dir()):
            listed = list_folder(folder, exclude)  # it may have become empty, and may hold other data by now
            if _is_same(listed.root, Path(old)) or (not Path(old).exists() and self._knows_some(listed)):
                return listed
        elif not is_folder:
            collection = open_collection(wanted, exclude)
            if collection.ref == old or _is_same(Path(collection.ref), Path(old)):
                return collection
        there = "which is still there" if Path(old).exists() or not is_folder else "and knows nothing of what is given"
        raise ConfigError(
            f"{self.path} is the index of {printable(old)}, {there}; make another index for {printable(wanted)}"
        )

    def _knows_some(self, listed: FolderCollection) -> bool:
        """Whether a folder can be the old one at a new place: a file has the name and the size of an indexed one."""
        known = self._store.database.images()
        return not known or any(entry.id in known and known[entry.id][0] == entry.size for entry in listed.entries)

    def _source_collection(self) -> Collection:
        """The collection for opening its images, not listed."""
        meta = self._store.database.meta()
        return FolderCollection(Path(meta.source), ()) if meta.kind == FOLDER else SourceCollection(meta.source, ())

    def _checked(self, encoder: ImageEncoder) -> ImageEncoder:
        info = self.info
        if fingerprint(encoder) != info.fingerprint:
            raise CheckpointError(
                f"the index {self.path} was made by {info.encoder}, and {encoder.name} has other weights now; its "
                "vectors cannot be compared with those: make the index again in another directory"
            )
        return encoder

    def _input_size(self) -> int | None:
        return input_size(self.encoder)

    def _encode_images(self, images: Iterable[ImageLike]) -> torch.Tensor:
        return self.encoder.encode_image(images)

    def _background_vectors(self) -> np.ndarray:
        """float32 (B, D) of the texts that a query by text is judged by."""
        if self._background is None:
            encoder = self.encoder
            assert isinstance(encoder, TextEncoder)  # the query has been encoded by it
            self._background = text_vectors(encoder, self.info.fingerprint, BACKGROUND_TEXTS)
        return self._background


def holds_index(path: Path) -> bool:
    """Whether there is an index in a directory, be it damaged or of another format. Raises CheckpointError when that
    cannot be seen."""
    try:
        return (path / DATABASE).exists()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)
