"""Which formats an engine can make, found by asking for each of them of a tiny model."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.artifacts.imatrix import COUNTS, SUMS, read_imatrix, write_imatrix
from pytest_quantgate.artifacts.shape_files import write_shape
from pytest_quantgate.artifacts.shapes import Shape
from pytest_quantgate.config.shape import ShapeSettings
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import (
    ImportanceRow,
    ListCodecs,
    PlanQuantization,
    Quantize,
    Request,
)
from pytest_quantgate.errors import CellError, RequestUnknown
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.cache import Cache

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
    """Return what an engine supports; it is tried once."""
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

    llama.cpp's dry run refuses what it cannot make; an engine without it makes the files. An
    engine that dies of one format is asked the next all the same.
    """
    writes, refuses = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "tiny.gguf"
        write_shape(source, _TINY.header(FILE_TYPES["F16"]), _TINY.file(), _no_encoder)
        plan = partial(
            PlanQuantization,
            source=str(source),
            overrides=(),
            allow_requantize=False,
            imatrix=_even_importances(folder / "imatrix.gguf", source),
        )
        has_dry_run = _refusal(engine, plan(file_type=FILE_TYPES["Q8_0"].number)) is None
        for row in FILE_TYPES.values():
            request: Request[Any] = plan(file_type=row.number)
            if not has_dry_run:
                made = str(folder / "made.gguf")
                request = Quantize(**vars(request), destination=made, n_threads=1)
            reason = _refusal(engine, request)
            if reason is None:
                writes.append(row.name)
            else:
                refuses[row.name] = reason
    return FormatSupport(writes=tuple(writes), refuses=refuses, tensor_types=_tensor_types(engine))


def _refusal(engine: Engine, request: Request[Any]) -> str | None:
    try:
        engine.ask(request)
    except CellError as error:
        return str(error).splitlines()[0]
    return None


def _no_encoder(type_name: str, rows: np.ndarray) -> np.ndarray:
    raise ValueError(f"the tiny model is of full precision, not {type_name} ({rows.shape})")


def _even_importances(path: Path, source: Path) -> tuple[ImportanceRow, ...]:
    """Write a matrix that finds every column equally important."""
    model = read_gguf(source)
    arrays = {}
    for tensor in model.tensors:
        if len(tensor.shape) > 1:
            arrays[tensor.name + SUMS] = np.ones(tensor.shape[0], np.float32)
            arrays[tensor.name + COUNTS] = np.ones(1, np.float32)
    write_imatrix(path, arrays, "", 1, _TINY.settings.context)
    return read_imatrix("even", path, "", model).rows()


def _tensor_types(engine: Engine) -> tuple[str, ...]:
    try:
        return tuple(row.name for row in engine.ask(ListCodecs()).types)
    except RequestUnknown:
        return ()
