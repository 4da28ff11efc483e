"""Importance matrices: collected from a text into the cache, or a user's file; read and checked.

The files are those of llama.cpp (``save_imatrix`` in tools/imatrix/imatrix.cpp): GGUF with
``general.type`` ``imatrix`` and, for each weight, the float32 tensors ``NAME.in_sum2`` (sums of
squared inputs, a row an expert) and ``NAME.counts`` (tokens that went in, one an expert).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.artifacts.texts import Text
from pytest_quantgate.config.schema import ImatrixSettings
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.engines.messages import CollectImatrix, ImportanceRow
from pytest_quantgate.errors import CellInvalid, ConfigError
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.gguf.reader import GgufFile, Tensor, read_gguf
from pytest_quantgate.gguf.writer import FieldValue, encode_field, encode_header, write_gguf
from pytest_quantgate.storage.arrays import read_arrays
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.environment import path_below
from pytest_quantgate.storage.keys import code_sha256, key_of

_TYPES = {4: TENSOR_TYPES["F32"], 2: TENSOR_TYPES["F16"]}

SUMS, COUNTS = ".in_sum2", ".counts"

_LAYER = re.compile(r"^blk\.(\d+)\.(.+)$")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a matrix has of one weight; ``counts`` are the tokens that went through each expert."""

    sums: Tensor
    counts_tensor: Tensor
    counts: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Imatrix:
    """A checked importance matrix: ``entries`` by the weight's name."""

    name: str
    path: Path
    sha256: str
    entries: Mapping[str, Entry]

    def rows(self) -> tuple[ImportanceRow, ...]:
        """Return what :class:`~pytest_quantgate.engines.messages.Quantize` takes."""
        return tuple(
            ImportanceRow(
                name=name,
                path=str(self.path),
                sums_offset_bytes=entry.sums.offset_bytes,
                counts_offset_bytes=entry.counts_tensor.offset_bytes,
                n_sums=entry.sums.n_elements,
                n_counts=entry.counts_tensor.n_elements,
            )
            for name, entry in self.entries.items()
        )

    def mean_squares(self, weight: str, n_experts: int) -> np.ndarray | None:
        """Return the mean square of each input column, float32 of shape (experts, columns).

        An expert that saw no token has 1 everywhere, as when it is quantized; None where the
        matrix has nothing of the weight.
        """
        entry = self.entries.get(weight)
        if entry is None:
            return None
        sums = _values(entry.sums).reshape(n_experts, -1)
        counts = np.broadcast_to(np.array(entry.counts, dtype=np.float32), (n_experts,))[:, None]
        is_used = counts > 0
        means: np.ndarray = np.where(is_used, sums / np.where(is_used, counts, 1), 1)
        return means.astype(np.float32)


def read_header(name: str, path: Path) -> GgufFile:
    """Read the header of a matrix's file.

    Raises:
        ConfigError: no file, no GGUF, or a GGUF of something else.

    """
    where = f"importance matrix {name!r}: {path}"
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({error.strerror}); put it there or change"
            f" [tool.quantgate.imatrices.{name}]"
        ) from error
    if magic != b"GGUF":
        raise ConfigError(
            f"{where} is no GGUF file but perhaps of llama.cpp's older form; convert it:"
            f" llama-imatrix --in-file {path.name} -o {path.stem}.gguf"
        )
    header = read_gguf(path)
    kind = header.metadata.get("general.type")
    if kind != "imatrix":
        raise ConfigError(
            f"{where} is no importance matrix: general.type is {kind!r}; make one with"
            " llama-imatrix, or name a text instead of a file"
        )
    return header


def read_imatrix(name: str, path: Path, sha256: str, model: GgufFile) -> Imatrix:
    """Read a matrix and hold it against the model that it is for.

    Raises:
        CellInvalid: a value that is not finite or negative, sums without counts, another size
            than the model's weight, or a matrix of another model; the message names the weight.

    """
    tensors = {tensor.name: tensor for tensor in read_header(name, path).tensors}
    weights = {tensor.name: tensor for tensor in model.tensors}
    entries = {}
    for tensor_name, sums in tensors.items():
        weight = tensor_name.removesuffix(SUMS)
        if weight == tensor_name:
            continue
        counts = tensors.get(weight + COUNTS)
        if counts is None:
            raise CellInvalid(f"importance matrix {name!r}: {weight} has sums and no counts")
        entries[weight] = _entry(name, weight, weights.get(weight), sums, counts)
    if not set(entries) & set(weights):
        raise CellInvalid(
            f"importance matrix {name!r} is of another model: none of its {len(entries)} weights"
            f" is in {model.files[0].name}"
        )
    return Imatrix(name=name, path=path, sha256=sha256, entries=entries)


def _entry(name: str, weight: str, of: Tensor | None, sums: Tensor, counts: Tensor) -> Entry:
    where = f"importance matrix {name!r}: {weight}"
    if {sums.type.name, counts.type.name} != {"F32"}:
        raise CellInvalid(f"{where} is {sums.type.name} with counts {counts.type.name}, not F32")
    if sums.n_elements % counts.n_elements:
        raise CellInvalid(
            f"{where} has {sums.n_elements} sums for {counts.n_elements} counts, no multiple"
        )
    if of is not None:
        n_experts = of.shape[2] if len(of.shape) > 2 else 1
        n_sums = of.shape[0] * n_experts
        if sums.n_elements != n_sums or counts.n_elements not in {1, n_experts}:
            raise CellInvalid(
                f"{where} has {sums.n_elements} sums and {counts.n_elements} counts, the model's"
                f" weight takes {n_sums} and {n_experts}: it was made from another model"
            )
    for tensor, what in ((sums, "sum"), (counts, "count")):
        values = _values(tensor)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            place = int(wrong[0])
            kind = "negative" if np.isfinite(values[place]) else "not finite"
            raise CellInvalid(
                f"{where}: {what} {place} is {values[place]}, {kind} ({len(wrong)} of"
                f" {len(values)}); quantizing with it would spoil the rows"
            )
    tokens = _values(counts).round()
    empty = np.flatnonzero((tokens > 0) & ~_values(sums).reshape(len(tokens), -1).any(axis=1))
    if len(empty):
        raise CellInvalid(
            f"{where}: expert {empty[0]} saw {tokens[empty[0]]:,.0f} tokens and its sums are all 0"
            f" ({len(empty)} of {len(tokens)}); its weights would be quantized as if none mattered"
        )
    return Entry(sums=sums, counts_tensor=counts, counts=tuple(map(float, tokens)))


def _values(tensor: Tensor) -> np.ndarray:
    return np.fromfile(tensor.file, np.float32, tensor.n_elements, offset=tensor.offset_bytes)


def dropped_weights(entries: Mapping[str, Entry], model: GgufFile) -> tuple[str, ...]:
    """Return the weights that a matrix should have and lacks.

    llama.cpp dropped a whole tensor where one expert had seen nothing (#12913, #9400), and
    quantizes what is not in the matrix as if there were none. A weight is missed where the
    matrix has the same one of another layer and another one of the same layer, and experts
    wherever the matrix has anything else of their layer. Layers of which it has nothing are not
    part of the graph, as those that predict a second token. A weight that is there without a
    token is missed as well; which experts saw none is in the coverage.
    """
    present = [match for name in entries if (match := _LAYER.match(name))]
    layers, kinds = {match[1] for match in present}, {match[2] for match in present}
    return tuple(
        tensor.name
        for tensor in model.tensors
        if (match := _LAYER.match(tensor.name)) is not None
        and not _has_tokens(entries.get(tensor.name))
        and match[1] in layers
        and (match[2] in kinds or match[2].endswith("_exps.weight"))
    )


def _has_tokens(entry: Entry | None) -> bool:
    return entry is not None and (len(entry.counts) > 1 or any(entry.counts))


def _complete(matrix: Imatrix, model: GgufFile, advice: str) -> Imatrix:
    """Return a matrix that has every weight that it should.

    Raises:
        CellInvalid: it lacks weights; the message ends with the advice.

    """
    dropped = dropped_weights(matrix.entries, model)
    if dropped:
        more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        raise CellInvalid(
            f"importance matrix {matrix.name!r} lacks {dropped[0]}{more}: llama.cpp would quantize"
            f" it as without a matrix; {advice}"
        )
    return matrix


class Imatrices:
    """Finds and makes importance matrices.

    Args:
        cache: where collected ones are kept.
        root: the folder that relative paths start from.
        n_threads: threads for collecting.
        hold_device: a context in which nothing else computes on this host's CPU.

    """

    def __init__(
        self, cache: Cache, root: Path, n_threads: int, hold_device: Callable[[], Any]
    ) -> None:
        self._cache = cache
        self._root = root
        self._n_threads = n_threads
        self._hold_device = hold_device

    def from_file(self, name: str, file: str, model: GgufFile) -> Imatrix:
        """Read a user's matrix for a model.

        Raises:
            ConfigError: the file is not there or no matrix.
            CellInvalid: see :func:`read_imatrix`; or it lacks weights of the model.

        """
        path = self.path_of(file)
        header = read_header(name, path)
        matrix = read_imatrix(name, header.files[0], self._cache.sha256_of(path), model)
        return _complete(
            matrix, model, "make the file anew with a current llama-imatrix, or name a text instead"
        )

    def path_of(self, file: str) -> Path:
        """Return the path of a file that the configuration names."""
        return path_below(self._root, file)

    def from_text(
        self,
        name: str,
        settings: ImatrixSettings,
        text: Text,
        model: GgufFile,
        model_sha256: str,
        engine: Engine,
        flash_attention: bool,
        on_reply: OnReply,
    ) -> Imatrix:
        """Collect a matrix on the CPU, or find the one that was collected from the same.

        Args:
            name: what the configuration calls it.
            settings: the collection's own.
            text: what it is collected from, cut to a domain.
            model: the file from which the formats are made.
            model_sha256: of its bytes.
            engine: what computes.
            flash_attention: whether it does so with flash attention.
            on_reply: takes the progress.

        Raises:
            CellUnsupported: this engine's graph cannot be read.
            CellInvalid: a value came out that is not finite, or the engine dropped a weight.
            CellError: the worker died or hung.

        """
        identity = engine.identity()
        key = key_of(
            kind="imatrix",
            code=code_sha256("engines"),
            model=model_sha256,
            text=text.sha256,
            n_ctx=settings.n_ctx,
            chunks=settings.chunks,
            flash_attention=flash_attention,
            library=identity.library_sha256,
            cpu=[identity.cpu_name, identity.system_info],
            surroundings=identity.surroundings_sha256,
        )

        def make(path: Path) -> dict[str, Any]:
            collected = path.with_suffix(".npz.partial")
            try:
                with self._hold_device():
                    reply = engine.ask(
                        CollectImatrix(
                            model=str(model.files[0]),
                            device="cpu",
                            text=str(self._cache.text(text.data, text.sha256)),
                            destination=str(collected),
                            max_chunks=settings.chunks or 0,
                            n_ctx=settings.n_ctx,
                            n_threads=self._n_threads,
                            flash_attention=flash_attention,
                        ),
                        on_reply,
                    )
                dataset = f"sha256:{text.sha256}"  # not a local path
                arrays = read_arrays(collected)
                write_imatrix(path, arrays, dataset, reply.n_chunks, settings.n_ctx)
            finally:
                collected.unlink(missing_ok=True)
            return {"chunks": reply.n_chunks}

        entry = self._cache.artifact(key, ".gguf", make)
        matrix = read_imatrix(name, entry.path, entry.identity, model)
        return _complete(matrix, model, "take a longer text, or another engine")


def write_imatrix(
    path: Path, arrays: Mapping[str, np.ndarray], dataset: str, n_chunks: int, n_ctx: int
) -> None:
    """Write a matrix as llama-imatrix does; ``dataset`` names what it was collected from."""
    fields: dict[str, FieldValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": n_chunks,
        "imatrix.chunk_size": n_ctx,
    }
    columns = {
        name: array.reshape(-1, 1) if name.endswith(COUNTS) else array
        for name, array in sorted(arrays.items())
    }
    header = encode_header(
        [encode_field(key, value) for key, value in fields.items()],
        [
            (name, _TYPES[array.dtype.itemsize], array.shape[::-1])
            for name, array in columns.items()
        ],
    )
    write_gguf(path, header, ([array.tobytes()] for array in columns.values()))
