"""From a cell to its file: an existing one, the source itself, or one that is made now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.artifacts.quantizing import override_numbers, quantize_file
from pytest_quantgate.artifacts.shape_files import ShapeFiles
from pytest_quantgate.artifacts.shapes import Shape
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.errors import CellUnavailable
from pytest_quantgate.gguf.digests import TensorDigest, is_identity, tensor_data_sha256
from pytest_quantgate.gguf.formats import FILE_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.results.durations import Stopwatch
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.keys import key_of


@dataclass(frozen=True, kw_only=True)
class CellFile:
    """The file that a cell measures.

    ``sha256`` is the file's identity (:mod:`pytest_quantgate.gguf.digests`), None for a shape's
    file that is described and was not made; ``source_sha256`` that of what it was made from, None
    for a user's own file; ``quantizer_sha256`` and ``quantizer_cpu`` what made it, None where
    nothing was made; ``imatrix_sha256`` the importance matrix that it was made with, None for
    none. A shape's tensors have no hashes.
    """

    header: GgufFile
    sha256: str | None
    tensors: tuple[TensorDigest, ...]
    tensor_data_sha256: str | None
    source_sha256: str | None
    quantizer_sha256: str | None
    quantizer_cpu: str | None
    imatrix_sha256: str | None = None

    @property
    def path(self) -> Path:
        """The model's first file, which is what llama.cpp is given."""
        return self.header.files[0]


class Files:
    """Finds and makes the files of cells.

    Args:
        cache: where made files are kept.
        n_threads: threads for quantizing.
        hold_device: a context in which nothing else computes on this host's CPU.
        stopwatch: is told what hashing takes.
        hashes_alone: whether hashing waits for it too: speed is measured, and nothing may be
            hashed beside it on another lane.

    """

    def __init__(
        self,
        cache: Cache,
        n_threads: int,
        hold_device: Callable[[], Any],
        *,
        stopwatch: Stopwatch,
        hashes_alone: bool = False,
    ) -> None:
        self._hold_processor = hold_device if hashes_alone else nullcontext
        self._stopwatch = stopwatch
        self._cache = cache
        self._n_threads = n_threads
        self._hold_device = hold_device
        self._hashes = FileHashes(cache.hashes)
        self._shapes = ShapeFiles(cache)

    def prefetch(self, model: Model) -> None:
        """Begin to hash a model's own files in the background, one after the other."""
        if model.shape is None:
            self._hashes.prefetch([model.source] if model.source else list(model.files.values()))

    def source_like(self, model: Model, stored: str | None) -> str | None:
        """Return the identity of a model's source where a stored hash is of the same bytes.

        A baseline of an earlier release has a plain SHA-256; another hash is returned as it is.
        """
        if stored is None or is_identity(stored) or model.source is None or model.shape is not None:
            return stored
        is_same = self._hashes.sha256(model.source) == stored
        return self._hashes.identity(model.source) if is_same else stored

    def origin(self, model: Model, engine: Engine, on_reply: OnReply) -> tuple[GgufFile, str, str]:
        """Return the file from which a model's formats are made, its identity, and the source's.

        It is the source itself, or the F16 that is made of a source that was quantized before.

        Raises:
            CellUnavailable: a pinned SHA-256 does not match.
            CellError: the engine could not make the file.

        """
        assert model.source is not None
        self._check_pin(model, "", model.source)
        with self._hold_to_hash():
            source_id = self._hashes.identity(model.source)
        if not model.is_requantized:
            return model.source, source_id, source_id
        full = Format(name="F16", file_type=FILE_TYPES["F16"])
        header, identity = self._quantized(model.source, source_id, full, None, engine, on_reply)
        return header, identity, source_id

    def cell_file(
        self,
        model: Model,
        target: Format,
        imatrix: Imatrix | None,
        engine: Engine,
        on_reply: OnReply,
    ) -> CellFile:
        """Return the file of a model in a format, quantized with an importance matrix or without.

        Raises:
            CellUnavailable: a pinned SHA-256 does not match.
            CellError: the engine could not make the file.

        """
        if model.shape is not None:
            entry = self._shapes.file(model.shape, target, engine)
            return _describe_shape(model.shape, read_gguf(entry.path), entry.identity, engine)
        if model.source is None:
            header = model.files[target.name]
            self._check_pin(model, target.name, header)
            return self._describe(header, None, None)
        origin, origin_id, source_id = self.origin(model, engine, on_reply)
        if target.is_full_precision and target.name == origin.main_type():
            return self._describe(origin, source_id, engine if model.is_requantized else None)
        header, _ = self._quantized(origin, origin_id, target, imatrix, engine, on_reply)
        return self._describe(header, source_id, engine, imatrix)

    def present(
        self, model: Model, target: Format, imatrix: Imatrix | None, engine: Engine
    ) -> GgufFile | None:
        """Return the header of :meth:`cell_file`'s file where that is there, None otherwise."""
        if model.shape is not None:
            return None
        if model.source is None:
            return model.files.get(target.name)
        if model.is_requantized:
            return None
        if target.is_full_precision and target.name == model.source.main_type():
            return model.source
        key = _quantized_key(self._hashes.identity(model.source), target, imatrix, engine)
        path = self._cache.artifact_path(key, ".gguf")
        return read_gguf(path) if path.exists() else None

    def describe_shape(self, shape: Shape, target: Format, engine: Engine) -> CellFile:
        """Return a shape's file without making it.

        Raises:
            CellError: the engine cannot tell what it would be.

        """
        return _describe_shape(shape, self._shapes.plan(shape, target, engine), None, engine)

    def _quantized(
        self,
        source: GgufFile,
        source_id: str,
        target: Format,
        imatrix: Imatrix | None,
        engine: Engine,
        on_reply: OnReply,
    ) -> tuple[GgufFile, str]:
        """Return a quantized file and its identity."""
        key = _quantized_key(source_id, target, imatrix, engine)

        def make(path: Path) -> dict[str, Any]:
            with self._hold_device():
                seconds_s = quantize_file(
                    path, source, target, imatrix, engine, self._n_threads, on_reply
                )
            return {"format": target.name, "seconds_s": seconds_s}

        entry = self._cache.artifact(key, ".gguf", make, self._path_identity)
        return read_gguf(entry.path), entry.identity

    @contextmanager
    def _hold_to_hash(self) -> Iterator[None]:
        with self._stopwatch.stage("hashing"), self._hold_processor():
            yield

    def _path_identity(self, path: Path) -> str:
        with self._hold_to_hash():
            return self._hashes.path_identity(path)

    def _describe(
        self,
        header: GgufFile,
        source_id: str | None,
        engine: Engine | None,
        imatrix: Imatrix | None = None,
    ) -> CellFile:
        with self._hold_to_hash():
            digests = self._hashes.digests(header)
        tensors = tuple(tensor for file in digests for tensor in file.tensors)
        identity = engine.identity() if engine is not None else None
        return CellFile(
            header=header,
            sha256=self._hashes.identity(header),
            tensors=tensors,
            tensor_data_sha256=tensor_data_sha256(tensors),
            source_sha256=source_id,
            quantizer_sha256=identity.quantizer_sha256 if identity else None,
            quantizer_cpu=identity.system_info if identity else None,
            imatrix_sha256=imatrix.sha256 if imatrix is not None else None,
        )

    def _check_pin(self, model: Model, key: str, file: GgufFile) -> None:
        pinned = model.pinned_sha256.get(key)
        if pinned is None:
            return
        digest = self._hashes.sha256(file)
        if pinned.lower() != digest:
            raise CellUnavailable(
                f"model {model.name!r}: {file.files[0]} has the SHA-256 {digest}, not the pinned"
                f" {pinned}; get the right file or change its sha256 under"
                f" [tool.quantgate.models.{model.name}]"
            )


def _quantized_key(source_id: str, target: Format, imatrix: Imatrix | None, engine: Engine) -> str:
    """Return the key of all that makes a quantized file."""
    return key_of(
        kind="quantized",
        source=source_id,
        file_type=target.file_type.number,
        overrides=override_numbers(target),
        imatrix=imatrix.sha256 if imatrix is not None else None,
        quantizer=engine.identity().quantizer_sha256,
    )


def _describe_shape(shape: Shape, header: GgufFile, sha256: str | None, engine: Engine) -> CellFile:
    identity = engine.identity()
    return CellFile(
        header=header,
        sha256=sha256,
        tensors=tuple(
            TensorDigest(name=tensor.name, type=tensor.type.name, sha256="")
            for tensor in header.tensors
        ),
        tensor_data_sha256=None,
        source_sha256=shape.sha256,
        quantizer_sha256=identity.quantizer_sha256,
        quantizer_cpu=identity.system_info,
    )
