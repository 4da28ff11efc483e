"""Which formats an engine can make, found by making each of them of a tiny model."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pytest_quantgate.artifacts.cache import Cache, read_json, write_json
from pytest_quantgate.artifacts.imatrix import COUNTS, SUMS, read_imatrix, write_gguf
from pytest_quantgate.artifacts.shape_files import write_shape
from pytest_quantgate.engines import Engine
from pytest_quantgate.errors import CellError, RequestUnknown
from pytest_quantgate.formats import FILE_TYPES
from pytest_quantgate.models.gguf_file import read_gguf
from pytest_quantgate.models.shapes import Shape
from pytest_quantgate.tables import ShapeSettings
from pytest_quantgate.worker.messages import ListCodecs, Quantize

_TINY = Shape(
    name="tiny",
    settings=ShapeSettings(
        architecture="llama",
        layers=1,
        hidden=256,
        feed_forward=256,
        heads=4,
        kv_heads=4,
        vocabulary=512,
        context=64,
    ),
)
"""Rows of 256, the largest block: no tensor falls back to another type."""


@dataclass(frozen=True, kw_only=True)
class FormatSupport:
    """The formats that an engine makes, why it does not make the others, its tensor types.

    ``tensor_types`` are those that its codecs know, so that files of them can be read.
    """

    writes: tuple[str, ...]
    refuses: dict[str, str] = field(default_factory=dict)
    tensor_types: tuple[str, ...] = ()


def find_support(cache: Cache, engine: Engine) -> FormatSupport:
    """Return what an engine supports; it is tried once, since some formats' tables take seconds."""
    path = cache.sub("support") / f"{engine.identity().library_sha256}.json"
    known = read_json(path)
    if not isinstance(known, dict):
        known = asdict(try_formats(engine))
        write_json(path, known)
    return FormatSupport(
        writes=tuple(known["writes"]),
        refuses=known["refuses"],
        tensor_types=tuple(known["tensor_types"]),
    )


def try_formats(engine: Engine) -> FormatSupport:
    """Try every format, with an importance matrix, so that none is refused for want of one.

    An engine that dies of one of them is asked the next all the same.
    """
    writes, refuses = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "tiny.gguf"
        write_shape(source, _TINY.header(FILE_TYPES["F16"]), _TINY.file(), _no_encoder)
        request = partial(
            Quantize,
            source=str(source),
            overrides=(),
            allow_requantize=False,
            n_threads=1,
            imatrix=_even_importances(folder / "imatrix.gguf", source),
        )
        for row in FILE_TYPES.values():
            made = folder / f"{row.name}.gguf"
            try:
                engine.ask(request(destination=str(made), file_type=row.number))
            except CellError as error:
                refuses[row.name] = str(error).splitlines()[0]
            else:
                writes.append(row.name)
            made.unlink(missing_ok=True)
    return FormatSupport(writes=tuple(writes), refuses=refuses, tensor_types=_tensor_types(engine))


def _no_encoder(type_name: str, rows: np.ndarray) -> np.ndarray:
    raise ValueError(f"the tiny model is of full precision, not {type_name} ({rows.shape})")


def _even_importances(path: Path, source: Path) -> tuple[tuple[str, str, int, int, int, int], ...]:
    """Write a matrix that finds every column equally important."""
    model = read_gguf(source)
    arrays = {}
    for tensor in model.tensors:
        if len(tensor.shape) > 1:
            arrays[tensor.name + SUMS] = np.ones(tensor.shape[0], np.float32)
            arrays[tensor.name + COUNTS] = np.ones(1, np.float32)
    write_gguf(path, arrays, "", 1, _TINY.settings.context)
    return read_imatrix("even", path, "", model).rows()


def _tensor_types(engine: Engine) -> tuple[str, ...]:
    try:
        return tuple(row[0] for row in engine.ask(ListCodecs()).rows)
    except RequestUnknown:
        return ()
