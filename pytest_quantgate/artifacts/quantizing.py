"""Has an engine quantize a file, and holds what it wrote against what was asked for."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from pathlib import Path

from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.engines.messages import PlanQuantization, Quantize
from pytest_quantgate.errors import (
    CellError,
    CellTimeout,
    CellUnsupported,
    EnvironmentProblem,
    ModelFileError,
)
from pytest_quantgate.gguf.formats import FULL_PRECISION, TENSOR_GROUPS, TENSOR_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile, Tensor, read_gguf, read_tensor
from pytest_quantgate.gguf.writer import ALIGNMENT_BYTES
from pytest_quantgate.storage.environment import describe_free, free_bytes

_PLAN_FIELDS = tuple(item.name for item in fields(PlanQuantization))
_SPOILED = "llama.cpp's quantizer spoiled its file"
_COMPARED_BYTES = 1 << 20  # norms and biases, which are copied as they are


def override_numbers(target: Format) -> tuple[tuple[str, int], ...]:
    """Return a format's overrides with llama.cpp's numbers of the types."""
    return tuple((pattern, TENSOR_TYPES[name].number) for pattern, name in target.overrides)


def quantize_file(
    path: Path,
    source: GgufFile,
    target: Format,
    imatrix: Imatrix | None,
    engine: Engine,
    n_threads: int,
    on_reply: OnReply,
) -> float:
    """Quantize a file and return the seconds that it took.

    Raises:
        EnvironmentProblem: the disk is full.
        CellUnsupported: the engine refuses, or wrote a file that is spoiled.
        CellError: the engine died or hung.

    """
    _check_overrides(source, target)
    _check_disk(path, _least_bytes(source, target))
    request = Quantize(
        source=str(source.files[0]),
        destination=str(path),
        file_type=target.file_type.number,
        overrides=override_numbers(target),
        allow_requantize=source.main_type() not in FULL_PRECISION,
        n_threads=n_threads,
        imatrix=imatrix.rows() if imatrix is not None else (),
    )
    try:
        reply = engine.ask(request, on_reply)
        _check_made(path, source)
    except CellTimeout:
        raise
    except CellError as error:
        path.unlink(missing_ok=True)
        _check_disk(path, _planned_bytes(source, request, engine))
        if not isinstance(error, CellUnsupported) or imatrix or not target.needs_imatrix:
            raise
        raise CellUnsupported(
            f"{target.name} needs an importance matrix; give it one with"
            ' --quant-imatrix calibration or imatrices = ["calibration"] in the profile'
            f" ({error})"
        ) from error
    return reply.seconds_s


def _check_overrides(source: GgufFile, target: Format) -> None:
    """Refuse an override that fits no tensor; a group of a recipe may be absent from a model.

    Raises:
        CellUnsupported: it would have no effect.

    """
    names = [tensor.name for tensor in source.tensors]
    for pattern, type_name in target.overrides[1 if target.part else 0 :]:
        if pattern in TENSOR_GROUPS.values() or any(re.search(pattern, name) for name in names):
            continue
        kinds = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", name) for name in names})
        close = difflib.get_close_matches(pattern, kinds, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise CellUnsupported(
            f"format {target.name!r}: the override {pattern!r} = {type_name!r} fits no tensor of"
            f" {source.files[0].name}{hint}; its tensors are: {', '.join(kinds)}"
        )


def _least_bytes(source: GgufFile, target: Format) -> int:
    """Return a number of bytes that a format's file has at least."""
    types = [target.file_type.main_type, *(name for _, name in target.overrides)]
    bits = min(TENSOR_TYPES[name].bits_per_weight for name in types)
    return int(source.n_parameters * bits / 8)


def _planned_bytes(source: GgufFile, request: Quantize, engine: Engine) -> int:
    """Return the bytes that the file would have; 0 where the engine cannot say."""
    plan = {name: getattr(request, name) for name in _PLAN_FIELDS}
    try:
        types = dict(engine.ask(PlanQuantization(**plan)).types)
        kinds = [(tensor, TENSOR_TYPES[types[tensor.name]]) for tensor in source.tensors]
    except (CellError, KeyError):
        return 0
    header_bytes = min(tensor.offset_bytes for tensor in source.tensors)
    return header_bytes + sum(
        tensor.n_elements // kind.block_elements * kind.block_bytes for tensor, kind in kinds
    )


def _check_disk(path: Path, n_bytes: int) -> None:
    if free_bytes(path) < n_bytes:
        raise EnvironmentProblem(
            f"the disk of {path.parent} is too full for a file of {n_bytes / 1e6:,.1f} MB:"
            f" {describe_free(path)}; free some, or name another cache with --quant-cache DIR"
        )


def _check_made(path: Path, source: GgufFile) -> None:
    """Refuse a file that is not whole, or of other tensors than its source.

    Raises:
        CellUnsupported: in one line, with the reason.

    """
    alignment = source.metadata.get("general.alignment", ALIGNMENT_BYTES)
    hint = (
        f"; it cannot keep the source's general.alignment of {alignment}, only {ALIGNMENT_BYTES}:"
        " convert the source anew without it"
        if alignment != ALIGNMENT_BYTES
        else ""
    )
    try:
        made = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    except ModelFileError as error:
        reason = str(error).replace(f"model file {path}", "the file").removesuffix("; get it again")
        raise CellUnsupported(f"{_SPOILED}: {reason}{hint}") from error
    wrong = [item.name for item in source.tensors if not _is_made(item, made.get(item.name))]
    if wrong:
        raise CellUnsupported(
            f"{_SPOILED}: {wrong[0]} is not in it as in its source"
            f" ({len(wrong)} of {len(source.tensors)} tensors){hint}"
        )


def _is_made(source: Tensor, made: Tensor | None) -> bool:
    """Return whether a tensor has its source's shape, and its bytes where it was only copied."""
    if made is None or made.shape != source.shape:
        return False
    is_copied = made.type == source.type and source.n_bytes <= _COMPARED_BYTES
    return not is_copied or read_tensor(made) == read_tensor(source)
