"""Copies of a GGUF file with a fault planted in it: other metadata, other tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_model import finish

Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def edit_model(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, int | float | bool] | None = None,
    tensors: Mapping[str, Change] | None = None,
) -> Path:
    """Copy a model and return the copy's path.

    Args:
        source: the model.
        target: the copy.
        metadata: fields that get another value of their type, or are added (integers as uint32).
        tensors: what becomes of a tensor's data, an array of the file's own layout: rows last,
            quantized rows as bytes.

    """
    metadata, tensors = dict(metadata or {}), dict(tensors or {})
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = metadata.pop(name, field.contents())
        writer.add_key_value(name, value, kind, sub_type=inner)
    for name, value in metadata.items():
        writer.add_key_value(name, value, gguf.GGUFValueType.UINT32)
    for tensor in reader.tensors:
        data = np.asarray(tensor.data)
        change = tensors.pop(tensor.name, None)
        if change is not None:
            data = np.ascontiguousarray(change(data.copy()))
        writer.add_tensor(tensor.name, data, raw_shape=data.shape, raw_dtype=tensor.tensor_type)
    assert not tensors, f"no such tensors: {sorted(tensors)}"
    finish(writer)
    return target
