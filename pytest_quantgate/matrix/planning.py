"""Estimates of what a run takes, from the files' headers and the texts' lengths alone."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.config.values import duration
from pytest_quantgate.engines.conditions import variations
from pytest_quantgate.engines.programs.base_file import base_file_bytes
from pytest_quantgate.errors import CellUnavailable
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.costs import (
    SIZE_S,
    computing_seconds,
    file_size,
    made_bytes,
    making_seconds,
    scoring_seconds,
    speed_seconds,
)
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.stats import MIN_PROCESSES

_BYTES_A_TOKEN = 3  # of prose and code: 2.7 to 4.5, less where the vocabulary is small
_IMATRIX_CHUNK_S = 0.15  # to sum the inputs of each product, in Python


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What one cell would take; disk is 0 for a file that exists."""

    cell: Cell
    disk_bytes: int
    memory_bytes: int
    seconds_s: float


def plan_cell(session: Session, cell: ResolvedCell, *, calibrates: bool = False) -> CellPlan:
    """Estimate one cell: nominal bits for a file to be made, two operations a weight and token.

    The size of a shape is told without its file, which its speed and memory need. A run that
    ``calibrates`` scores the chunks once for each of the settings that it varies, one that holds
    two engines against each other once with each.
    """
    model, profile = cell.model, session.settings.profile
    if model.shape is not None and not (profile.speed or profile.memory):
        return CellPlan(cell=cell.cell, disk_bytes=0, memory_bytes=0, seconds_s=SIZE_S)
    header = model.any_file
    file_bytes = file_size(model, cell.format)
    chunks = max(session.artifacts.looks(cell), default=0)
    layers = header.hyperparameter("block_count") or 0
    width = header.hyperparameter("embedding_length") or 0
    kv_bytes = 2 * layers * cell.n_ctx * width * TENSOR_TYPES[profile.type_k].bits_per_weight / 8
    vocabulary = header.hyperparameter("vocab_size") or 0
    logits_bytes = 4 * vocabulary * cell.n_ctx
    passes = 1 if session.before(cell) is None else 2
    passes += len(variations(cell.conditions, is_cpu=cell.placement.is_cpu)) * calibrates
    return CellPlan(
        cell=cell.cell,
        disk_bytes=made_bytes(model, cell.format)
        + _base_file_bytes(session, cell, vocabulary, chunks),
        memory_bytes=int(file_bytes + kv_bytes + 2 * logits_bytes),
        seconds_s=passes * scoring_seconds(header, chunks * cell.n_ctx, session.n_threads)
        + making_seconds(model, cell.format)
        + (_speed_s(session, cell) if profile.speed and not calibrates else 0.0),
    )


def _base_file_bytes(session: Session, cell: ResolvedCell, n_vocab: int, chunks: int) -> int:
    """Return what the reference's distribution takes with llama.cpp's programs; else little."""
    engine = session.settings.engines[cell.cell.engine]
    if engine.tools is None or not cell.is_reference:
        return 0
    return base_file_bytes(cell.n_ctx, n_vocab, chunks)


def _speed_s(session: Session, cell: ResolvedCell) -> float:
    """Estimate the first look at a cell's speed: fresh processes of it and of the other side."""
    other = session.before(cell) or session.reference(cell)
    sides = [cell.format] if other is cell else [cell.format, other.format]
    return speed_seconds(cell.model.any_file, sides, session.settings.profile, session.n_threads)


def imatrix_seconds(session: Session, cell: ResolvedCell) -> float:
    """Estimate how long collecting a cell's importance matrix takes; 0 for a file of its own.

    A token passes the weights of the experts that it uses, and its inputs are summed.
    """
    name = cell.cell.imatrix
    if name is None or session.settings.imatrices[name].text is None:
        return 0.0
    wanted = session.settings.imatrices[name]
    tokens = len(session.library.imatrix_text(name).data) / _BYTES_A_TOKEN
    if wanted.chunks is not None:
        tokens = min(tokens, wanted.chunks * wanted.n_ctx)
    summing_s = _IMATRIX_CHUNK_S * tokens / wanted.n_ctx
    return computing_seconds(cell.model.any_file, tokens, session.n_threads) + summing_s


def not_counted(session: Session, *, calibrates: bool) -> list[str]:
    """Name what the profile measures besides, and the plan does not count."""
    profile = session.settings.profile
    if calibrates:
        return []
    found = {
        "batch_geometry": profile.batch_geometry,
        "sweep": profile.sweep,
        "compare_devices": profile.compare_devices,
        "memory": profile.memory,
        f"speed beyond {MIN_PROCESSES} processes a side": profile.speed
        and profile.speed_processes > MIN_PROCESSES,
        "codecs": profile.codecs,
        "what two quantizers make differently": profile.against is not None,
    }
    return [name for name, is_measured in found.items() if is_measured]


def plan_lines(session: Session, *, calibrates: bool = False) -> list[str]:
    """Return the plan as lines: a cell each, the importance matrices, then the sum."""
    plans, missing, imatrices = [], {}, {}
    for cell in session.matrix.cells:
        try:
            resolved = session.resolve(cell)
            plans.append(plan_cell(session, resolved, calibrates=calibrates))
            imatrices[cell.model, cell.imatrix] = imatrix_seconds(session, resolved)
        except CellUnavailable as error:
            missing[cell.model] = f"not planned: {error}"
    lines = [f"profile {session.settings.profile_name}: {len(plans)} cells, nothing was run", ""]
    width = max((len(plan.cell.id) for plan in plans), default=0)
    for plan in plans:
        looks = ", ".join(str(look) for look in session.artifacts.looks(session.resolve(plan.cell)))
        lines.append(
            f"{plan.cell.id.ljust(width)}  disk {plan.disk_bytes / 1e6:8,.0f} MB"
            f"  memory {plan.memory_bytes / 1e6:8,.0f} MB  up to {duration(plan.seconds_s):>8}"
            f"  {f'looks at {looks} chunks' if looks else 'no text'}"
        )
    lines += [
        f"importance matrix {name} of {model}, unless it is in the cache: {duration(seconds_s)}"
        for (model, name), seconds_s in imatrices.items()
        if seconds_s
    ]
    seconds_s = sum(plan.seconds_s for plan in plans) + sum(imatrices.values())
    memory_bytes = max((plan.memory_bytes for plan in plans), default=0)
    lines += [
        "",
        f"in all: disk {sum(plan.disk_bytes for plan in plans) / 1e9:.2f} GB in"
        f" {session.cache.folder}, memory {memory_bytes / 1e9:.2f} GB"
        f" at once, up to about {duration(seconds_s)} on {session.n_threads} threads",
    ]
    others = not_counted(session, calibrates=calibrates)
    if others:
        lines.append(f"not counted: {', '.join(others)}")
    return [*lines, *missing.values()]
