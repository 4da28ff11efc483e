"""Size: bytes on disk, bits per weight, the type of every tensor, and fallbacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pytest_quantgate.gguf.formats import TENSOR_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile, Tensor
from pytest_quantgate.gguf.tensor_groups import part_of


@dataclass(frozen=True, kw_only=True)
class SizeMeasurement:
    """A file's size and what it is made of.

    ``bits_per_weight`` counts the tensors' bytes, not the metadata; ``bytes_by_part`` has the
    groups of :mod:`pytest_quantgate.gguf.tensor_groups`. ``fallbacks`` are the tensors whose
    rows do not fit the block of the type that the format asks for, so that llama.cpp took
    another (what an override asks for is none); ``fallback_fraction`` is their share of the
    tensors' bytes. ``no_effect`` says that no tensor has the format's main type
    though none fell back.
    """

    file_bytes: int
    tensor_bytes: int
    n_weights: int
    bits_per_weight: float
    bytes_by_type: dict[str, int]
    bytes_by_part: dict[str, int]
    tensors_by_type: dict[str, int]
    tensor_types: dict[str, str]
    fallbacks: tuple[str, ...]
    fallback_fraction: float
    no_effect: bool


def _fell_back(tensor: Tensor, wanted: Format) -> bool:
    """Return whether a tensor's rows could not take a block of the type that was asked for.

    ``tensor_type_fallback`` in llama-quant.cpp replaces a type whose block does not divide the
    row, that of an override too. Norms and routers are F32 by design and never count.
    """
    override = wanted.overridden_type(tensor.name)
    if override == tensor.type.name:
        return False
    wanted_block = max(
        wanted.file_type.block_elements,
        1 if override is None else TENSOR_TYPES[override].block_elements,
    )
    return (
        len(tensor.shape) >= 2
        and tensor.type.name != "F32"
        and tensor.shape[0] % wanted_block != 0
        and tensor.type.block_elements < wanted_block
    )


def measure_size(file: GgufFile, wanted: Format) -> SizeMeasurement:
    """Measure a model's file, whose format should be ``wanted``."""
    bytes_by_type: Counter[str] = Counter()
    tensors_by_type: Counter[str] = Counter()
    bytes_by_part: Counter[str] = Counter()
    for tensor in file.tensors:
        bytes_by_type[tensor.type.name] += tensor.n_bytes
        tensors_by_type[tensor.type.name] += 1
        bytes_by_part[part_of(tensor.name)] += tensor.n_bytes
    total = sum(bytes_by_type.values())
    fallen = [tensor for tensor in file.tensors if _fell_back(tensor, wanted)]
    main = wanted.file_type.main_type
    return SizeMeasurement(
        file_bytes=file.n_bytes,
        tensor_bytes=total,
        n_weights=file.n_parameters,
        bits_per_weight=8 * total / file.n_parameters,
        bytes_by_type=dict(sorted(bytes_by_type.items())),
        bytes_by_part=dict(sorted(bytes_by_part.items())),
        tensors_by_type=dict(sorted(tensors_by_type.items())),
        tensor_types={tensor.name: tensor.type.name for tensor in file.tensors},
        fallbacks=tuple(tensor.name for tensor in fallen),
        fallback_fraction=sum(tensor.n_bytes for tensor in fallen) / total,
        no_effect=main not in bytes_by_type and not fallen and not wanted.overrides,
    )
