"""Whether two engines' quantizers make the same file, found without making it.

The types of all tensors by llama.cpp's dry run, and a sample of every tensor quantized by both.
An upgrade that leaves the quantizers alone then needs no file to be made again.
"""

from __future__ import annotations

import math

from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.engines.messages import PlanQuantization, SampleTensors
from pytest_quantgate.errors import CellError
from pytest_quantgate.gguf.formats import FULL_PRECISION, TENSOR_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile

SAMPLED_WEIGHTS = 8_000_000
"""Weights of a model that are quantized by both engines, at least.

None of 31,250 blocks of 256 differing bounds the share that does at 1e-4 (95 % confidence). A
quantizer's search may end differently in few blocks: between 0.3.34 and 0.3.36 IQ1_M's did in 4 of
the 51 tensors of an embedded model.
"""

SMALL_WEIGHTS = 64_000_000
"""A model of fewer is quantized by both: that takes as long as a sample, and leaves no doubt."""

MIN_ROWS = 8
"""Rows of each tensor, at least."""


def is_small(source: GgufFile) -> bool:
    """Tell whether a model is so small that both engines had better make its files."""
    return source.n_parameters < SMALL_WEIGHTS


def find_difference(
    source: GgufFile,
    wanted: Format,
    imatrix: Imatrix | None,
    engines: tuple[Engine, Engine],
    on_reply: OnReply,
) -> str | None:
    """Say in what the two engines' files differ, or why it is not known; None where they agree.

    Args:
        source: what both would quantize.
        wanted: the format.
        imatrix: the importance matrix that both would be given.
        engines: which are compared.
        on_reply: takes what the engines say on the way.

    """
    rows = imatrix.rows() if imatrix is not None else ()
    plan = PlanQuantization(
        source=str(source.files[0]),
        file_type=wanted.file_type.number,
        overrides=tuple((pattern, TENSOR_TYPES[name].number) for pattern, name in wanted.overrides),
        allow_requantize=source.main_type() not in FULL_PRECISION,
        imatrix=rows,
    )
    try:
        one, other = (engine.ask(plan, on_reply) for engine in engines)
        if one.types != other.types:
            moved = [name for name, _ in {*one.types} ^ {*other.types}]
            return f"the types of {len({*moved})} tensors differ, such as {min(moved)}"
        types = dict(one.types)
        if not {tensor.name for tensor in source.tensors} <= set(types):
            return "the dry runs do not tell each tensor's type: this llama.cpp logs them otherwise"
        share = SAMPLED_WEIGHTS / source.n_parameters
        sample = SampleTensors(
            tensors=tuple(
                (
                    tensor.name,
                    str(tensor.file),
                    tensor.offset_bytes,
                    tensor.type.name,
                    tensor.shape[0],
                    tensor.n_elements // tensor.shape[0],
                    tensor.shape[2] if len(tensor.shape) > 2 else 1,
                    types[tensor.name],
                    max(MIN_ROWS, math.ceil(share * tensor.n_elements / tensor.shape[0])),
                )
                for tensor in source.tensors
                if types[tensor.name] != tensor.type.name
            ),
            imatrix=rows,
        )
        seen, seen_too = (dict(engine.ask(sample, on_reply).hashes) for engine in engines)
    except CellError as error:
        # Each then makes its own file, and fails by itself if it cannot.
        return f"one of the engines cannot tell: {error}"
    moved = [name for name, digest in seen.items() if seen_too[name] != digest]
    return f"sampled rows of {len(moved)} tensors differ, such as {moved[0]}" if moved else None
