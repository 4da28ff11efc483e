"""From a cell to its file: an existing one, the source itself, or one that is made now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.artifacts.quantizers import find_difference, is_small
from pytest_quantgate.artifacts.shape_files import ShapeFiles
from pytest_quantgate.artifacts.shapes import Shape
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.errors import CellUnavailable, CellUnsupported
from pytest_quantgate.gguf.formats import FILE_TYPES, FULL_PRECISION, TENSOR_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile, TensorDigest, digest_tensors, read_gguf
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.keys import key_of


@dataclass(frozen=True, kw_only=True)
class CellFile:
    """The file that a cell measures.

    ``source_sha256`` identifies what it was made from, None for a user's own file;
    ``quantizer_sha256`` and ``quantizer_cpu`` what made it, None where nothing was made;
    ``imatrix_sha256`` the importance matrix that it was made with, None for none. ``is_shared``
    tells a file that another engine's quantizer made, which a sample found to be equal.
    ``sha256`` is None for a shape's file that is described and was not made; the bytes of a
    shape's tensors are never hashed.
    """

    header: GgufFile
    sha256: str | None
    tensors: tuple[TensorDigest, ...]
    tensor_data_sha256: str | None
    source_sha256: str | None
    quantizer_sha256: str | None
    quantizer_cpu: str | None
    imatrix_sha256: str | None = None
    is_shared: bool = False

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

    """

    def __init__(self, cache: Cache, n_threads: int, hold_device: Callable[[], Any]) -> None:
        self._cache = cache
        self._n_threads = n_threads
        self._hold_device = hold_device
        self._shapes = ShapeFiles(cache)

    def origin(
        self, model: Model, engine: Engine, on_reply: OnReply, like: Engine | None = None
    ) -> tuple[GgufFile, str, str]:
        """Return the file from which a model's formats are made, its hash, and the source's.

        It is the source itself, or the F16 that is made of a source that was quantized before.
        ``like`` is as in :meth:`cell_file`.

        Raises:
            CellUnavailable: a pinned SHA-256 does not match.
            CellError: the engine could not make the file.

        """
        assert model.source is not None
        source_sha256 = self._hash(model.source)
        _check_pin(model, "", model.source, source_sha256)
        if not model.is_requantized:
            return model.source, source_sha256, source_sha256
        full = Format(name="F16", file_type=FILE_TYPES["F16"])
        header, sha256, _ = self._quantized(
            model.source, source_sha256, full, None, engine, on_reply, like
        )
        return header, sha256, source_sha256

    def cell_file(
        self,
        model: Model,
        wanted: Format,
        imatrix: Imatrix | None,
        engine: Engine,
        on_reply: OnReply,
        like: Engine | None = None,
    ) -> CellFile:
        """Return the file of a model in a format, quantized with an importance matrix or without.

        ``like`` is an engine whose file is taken where both engines' quantizers make the same
        (:mod:`pytest_quantgate.artifacts.quantizers`).

        Raises:
            CellUnavailable: a pinned SHA-256 does not match.
            CellError: the engine could not make the file.

        """
        if model.shape is not None:
            entry = self._shapes.file(model.shape, wanted, engine)
            return _describe_shape(model.shape, read_gguf(entry.path), entry.sha256, engine)
        if model.source is None:
            header = model.files[wanted.name]
            sha256 = self._hash(header)
            _check_pin(model, wanted.name, header, sha256)
            return self._describe(header, sha256, None, None)
        origin, origin_sha256, source_sha256 = self.origin(model, engine, on_reply, like)
        if wanted.is_full_precision and wanted.name == origin.main_type():
            maker = engine if model.is_requantized else None
            return self._describe(origin, origin_sha256, source_sha256, maker)
        header, sha256, is_shared = self._quantized(
            origin, origin_sha256, wanted, imatrix, engine, on_reply, like
        )
        described = self._describe(header, sha256, source_sha256, engine, imatrix)
        return replace(described, is_shared=is_shared)

    def describe_shape(self, shape: Shape, wanted: Format, engine: Engine) -> CellFile:
        """Return a shape's file without making it.

        Raises:
            CellError: the engine cannot tell what it would be.

        """
        return _describe_shape(shape, self._shapes.plan(shape, wanted, engine), None, engine)

    def _quantized(
        self,
        source: GgufFile,
        source_sha256: str,
        wanted: Format,
        imatrix: Imatrix | None,
        engine: Engine,
        on_reply: OnReply,
        like: Engine | None,
    ) -> tuple[GgufFile, str, bool]:
        """Return a quantized file, its hash, and whether another engine's quantizer made it."""
        overrides = tuple(
            (pattern, TENSOR_TYPES[name].number) for pattern, name in wanted.overrides
        )

        def key_with(quantizer: Engine) -> str:
            return key_of(
                kind="quantized",
                source=source_sha256,
                file_type=wanted.file_type.number,
                overrides=overrides,
                imatrix=imatrix.sha256 if imatrix is not None else None,
                quantizer=quantizer.identity().quantizer_sha256,
            )

        own_key, maker = key_with(engine), engine
        key = self._present(own_key)
        can_share = like is not None and not is_small(source)
        if like is not None and can_share and not self._cache.has_artifact(key, ".gguf"):
            other_key = self._present(key_with(like))
            found = self._same_quantizer(
                key, other_key, source, wanted, imatrix, (like, engine), on_reply
            )
            if found is not None and found != key:
                key, maker = found, like

        def make(path: Path) -> dict[str, Any]:
            request = Quantize(
                source=str(source.files[0]),
                destination=str(path),
                file_type=wanted.file_type.number,
                overrides=overrides,
                allow_requantize=source.main_type() not in FULL_PRECISION,
                n_threads=self._n_threads,
                imatrix=imatrix.rows() if imatrix is not None else (),
            )
            try:
                with self._hold_device():
                    reply = maker.ask(request, on_reply)
            except CellUnsupported as error:
                if imatrix is not None or not wanted.needs_imatrix:
                    raise
                raise CellUnsupported(
                    f"{wanted.name} needs an importance matrix; give it one with"
                    ' --quant-imatrix calibration or imatrices = ["calibration"] in the profile'
                    f" ({error})"
                ) from error
            return {"format": wanted.name, "seconds_s": reply.seconds_s}

        entry = self._cache.artifact(key, ".gguf", make)
        return read_gguf(entry.path), entry.sha256, key != own_key

    def _present(self, key: str) -> str:
        """Return the key of the file that an equal quantizer made, if it is there; else the key."""
        alias = self._alias(key)
        return alias if self._cache.has_artifact(alias, ".gguf") else key

    def _alias(self, key: str) -> str:
        seen = {key}
        while True:
            known = read_json(self._cache.sub("equal") / f"{key}.json")
            same = known.get("same_as") if isinstance(known, dict) else None
            if not isinstance(same, str) or same in seen:
                return key
            seen.add(same)
            key = same

    def _same_quantizer(
        self,
        key: str,
        other_key: str,
        source: GgufFile,
        wanted: Format,
        imatrix: Imatrix | None,
        engines: tuple[Engine, Engine],
        on_reply: OnReply,
    ) -> str | None:
        """Return the other key where the other engine makes the same file; remember it."""
        if key == other_key:
            return key
        with self._cache.lock(f"equal-{key[:32]}"):
            path = self._cache.sub("equal") / f"{key}.json"
            known = read_json(path)
            if not isinstance(known, dict) or known.get("compared_with") != other_key:
                with self._hold_device():
                    difference = find_difference(source, wanted, imatrix, engines, on_reply)
                known = {
                    "compared_with": other_key,
                    "difference": difference,
                    "same_as": other_key if difference is None else None,
                }
                write_json(path, known)
            return other_key if known["same_as"] == other_key else None

    def _hash(self, file: GgufFile) -> str:
        hashes = [self._cache.sha256_of(path) for path in file.files]
        return hashes[0] if len(hashes) == 1 else key_of(parts=hashes)

    def _describe(
        self,
        header: GgufFile,
        sha256: str,
        source_sha256: str | None,
        engine: Engine | None,
        imatrix: Imatrix | None = None,
    ) -> CellFile:
        tensors, whole = self._digests(header, sha256)
        identity = engine.identity() if engine is not None else None
        return CellFile(
            header=header,
            sha256=sha256,
            tensors=tensors,
            tensor_data_sha256=whole,
            source_sha256=source_sha256,
            quantizer_sha256=identity.quantizer_sha256 if identity else None,
            quantizer_cpu=identity.system_info if identity else None,
            imatrix_sha256=imatrix.sha256 if imatrix is not None else None,
        )

    def _digests(self, header: GgufFile, sha256: str) -> tuple[tuple[TensorDigest, ...], str]:
        path = self._cache.sub("digests") / f"{sha256}.json"
        known = read_json(path)
        if isinstance(known, dict):
            return tuple(TensorDigest(**item) for item in known["tensors"]), known["whole"]
        tensors, whole = digest_tensors(header)
        write_json(path, {"whole": whole, "tensors": [vars(item) for item in tensors]})
        return tensors, whole


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


def _check_pin(model: Model, key: str, header: GgufFile, sha256: str) -> None:
    pinned = model.pinned_sha256.get(key)
    if pinned is not None and pinned.lower() != sha256:
        raise CellUnavailable(
            f"model {model.name!r}: {header.files[0]} has the SHA-256 {sha256}, not the pinned"
            f" {pinned}; get the right file or change its sha256 under"
            f" [tool.quantgate.models.{model.name}]"
        )
