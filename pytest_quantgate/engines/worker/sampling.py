"""Quantizes a few rows of each tensor, so that two engines' quantizers can be compared quickly.

llama.cpp quantizes each row by itself, from its values and its importances alone: where the types
and a large sample of the rows agree, the files differ at most in few blocks.
Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from pytest_quantgate.engines.messages import Message, Progress, SampleTensors, TensorsSampled
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.loading import library_folder
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.quantizing import importance_weights

_PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def sample_tensors(request: SampleTensors, send: Callable[[Message], None]) -> TensorsSampled:
    """Hash what the sampled rows of each tensor become.

    Rows that stay in full precision are hashed as the float32 numbers that they are read as.

    Raises:
        EngineRefusal: this engine does not know one of the types, or refuses the values.

    """
    try:
        return _sample(request, NativeCodecs(library_folder()), send)
    except ValueError as error:
        raise EngineRefusal(str(error)) from error


def _sample(
    request: SampleTensors, codecs: NativeCodecs, send: Callable[[Message], None]
) -> TensorsSampled:
    weights = importance_weights(request.imatrix)
    hashes = []
    for number, tensor in enumerate(request.tensors):
        name, path, offset, own, n_columns, n_rows, n_experts, wanted, n_sampled = tensor
        digest = hashlib.sha256()
        importances = weights.get(name)
        for row in _spread(n_rows, n_sampled):
            values = _read(codecs, path, offset, own, n_columns, row)
            if wanted in _PLAIN_BYTES:
                digest.update(values.tobytes())
                continue
            of_row = None
            if importances is not None:
                by_expert = importances.reshape(-1, n_columns)
                expert = row * n_experts // n_rows if len(by_expert) == n_experts else 0
                of_row = by_expert[expert]
            digest.update(codecs.quantize(wanted, values, of_row).tobytes())
        hashes.append((name, digest.hexdigest()))
        send(Progress(what="sample", done=number + 1, total=len(request.tensors)))
    return TensorsSampled(hashes=tuple(hashes))


def _spread(n_rows: int, n_wanted: int) -> list[int]:
    """Return rows from the first to the last at even distances."""
    return sorted({int(row) for row in np.linspace(0, n_rows - 1, min(n_rows, n_wanted))})


def _read(
    codecs: NativeCodecs, path: str, offset: int, own: str, n_columns: int, row: int
) -> np.ndarray:
    """Return one row as float32 of shape (1, columns)."""
    if own in _PLAIN_BYTES:
        n_bytes = n_columns * _PLAIN_BYTES[own]
    else:
        found = codecs.type(own)
        n_bytes = n_columns // found.block_elements * found.block_bytes
    data = np.fromfile(path, np.uint8, n_bytes, offset=offset + row * n_bytes)
    match own:
        case "F32":
            values = data.view(np.float32)
        case "F16":
            values = data.view(np.float16).astype(np.float32)
        case "BF16":
            values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        case _:
            return codecs.dequantize(own, data[None, :])
    return values[None, :]
