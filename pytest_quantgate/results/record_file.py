"""Reading a run record: versions, and what contradicts itself."""

from __future__ import annotations

import math
import pkgutil
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.config.metrics import LIMITS, METRICS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.engine_facts import EngineFacts
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import VERSION, CellRecord, RunRecord
from pytest_quantgate.results.verdicts import (
    CauseKind,
    VerdictKind,
)
from pytest_quantgate.storage.parsing import first_problem, parse_json


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Raises:
        ConfigError: no file, no JSON, no run record, or one of another version.

    """
    try:
        plain = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the run record {path} cannot be read: {error}") from error
    version = plain.get("version") if isinstance(plain, dict) else None
    if version not in (1, VERSION):
        raise ConfigError(
            f"{path} is no run record of version {VERSION} (version {reprlib.repr(version)});"
            " write one with pytest --quant-matrix --quant-report PATH.json"
        )
    try:
        if version == 1:
            plain = _from_version_1(plain)
        cells = tuple(cell_from_plain(cell) for cell in plain["cells"])
        others = tuple(cell_from_plain(cell) for cell in plain.get("others", ()))
        run = TypeAdapter(RunRecord).validate_python({**plain, "cells": (), "others": ()})
        for engine in (run.engine, run.against):
            _check_engine(engine)
            EngineFacts.read(engine)
        TypeAdapter(dict[str, str]).validate_python(run.settings.get("texts") or {})
        return replace(run, cells=cells, others=others)
    except ValidationError as error:
        raise ConfigError(f"the run record {path} is damaged: {first_problem(error)}") from error
    except ValueError as error:
        raise ConfigError(f"the run record {path} is damaged: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"the run record {path} is damaged: {error!r}") from error


_COLUMNS_OF_VERSION_1 = {
    "index": "chunk_indices",
    "tokens": "chunk_tokens",
    "nll_sum_nats": "chunk_nll_sum_nats",
    "document": "chunk_documents",
    "token_ids": "chunk_token_ids",
    "kld_sum_nats": "chunk_kld_sum_nats",
}


def _from_version_1(plain: dict[str, Any]) -> dict[str, Any]:
    """Gather the columns of each cell's chunks, which version 1 kept apart, in one table."""
    cells = {
        name: [_cell_from_version_1(cell) for cell in plain.get(name, ())]
        for name in ("cells", "others")
    }
    return {**plain, **cells, "version": VERSION}


def _cell_from_version_1(cell: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in cell.items() if not name.startswith("chunk")}
    is_exact = rest.pop("is_exact", True)
    rest.pop("tokens", None)
    columns: dict[str, Any] = {
        name: cell.get(old) or [] for name, old in _COLUMNS_OF_VERSION_1.items()
    }
    n_chunks = len(columns["index"])
    columns["token_ids"] = columns["token_ids"] or [""] * n_chunks
    columns["top_tokens"] = ["" if is_exact else None] * n_chunks
    shift = rest.get("ppl_vs_reference")
    if shift is not None:
        same = {"chunks_changed": shift["chunks"], "of_documents": True}
        rest["ppl_vs_reference"] = {**same, **shift}
    if rest.get("cause") is not None:
        kind, text = CauseKind.RECORDED.value, rest["cause"].removeprefix("cause: ")
        rest["cause"] = {"kind": kind, "evidence": [text]}
    return {**rest, "chunks": columns}


def measurement_type(metric: str) -> type:
    """Return the dataclass of a metric that is measured once a cell."""
    name = METRICS[metric].measurement
    assert name is not None
    kind: type = pkgutil.resolve_name(name)
    return kind


def cell_from_plain(plain: dict[str, Any]) -> CellRecord:
    """Rebuild a cell from its JSON.

    Raises:
        ValueError: a field is missing or of another kind.

    """
    try:
        cell = TypeAdapter(CellRecord).validate_python(plain)
        measured: dict[str, Any] = {
            name: TypeAdapter(measurement_type(name)).validate_python(item)
            for name, item in cell.measured.items()
            if name in METRICS
        }
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    _check(cell)
    for item in measured.values():
        if isinstance(item, SpeedMeasurement):
            item.check()
    return replace(cell, measured=measured)


def _check(cell: CellRecord) -> None:
    """Refuse a cell that contradicts itself: someone edited it.

    Raises:
        ValueError: no verdict of ours, a green one beside a red judgement, or a figure that its
            own chunks or tensors do not give.

    """
    if cell.verdict not in {kind.value for kind in VerdictKind}:
        raise ValueError(f"{cell.id}: {cell.verdict!r} is no verdict")
    red = [item for item in cell.judgements if not item.verdict.is_green]
    if red and cell.kind.is_green:
        raise ValueError(
            f"{cell.id}: it is {cell.verdict}, but {red[0].metric} is {red[0].verdict.value}"
        )
    if cell.file_bytes is not None:
        _check_bytes(cell, cell.file_bytes)
    if len(cell.chunks):
        _check_chunks(cell)
    known = LIMITS.keys() & cell.limits.keys()
    Limits.model_validate({name: cell.limits[name] for name in known})


def _check_bytes(cell: CellRecord, file_bytes: int) -> None:
    """Refuse tensors larger than their file."""
    for name in ("bytes_by_type", "bytes_by_part"):
        values = getattr(cell, name).values()
        if file_bytes < 1 or min(values, default=0) < 0 or sum(values) > file_bytes:
            raise ValueError(f"{cell.id}: {name} adds up to {sum(values)} of {file_bytes} bytes")


def _check_chunks(cell: CellRecord) -> None:
    """Refuse means that are not those of the chunks."""
    chunks = cell.chunks
    if len(set(chunks.index)) < len(chunks):
        raise ValueError(f"{cell.id}: a chunk is there twice")
    figures = [("ppl", cell.ppl, chunks.perplexity)] if chunks.is_exact else []
    if chunks.is_exact:
        of_domains = chunks.by_domain()
        figures += [
            (f"ppl of {name!r}", ppl, of_domains[name].perplexity)
            for name, ppl in cell.ppl_by_domain.items()
            if name in of_domains
        ]
    if cell.divergence is not None and chunks.kld_sums is not None:
        mean = math.fsum(chunks.kld_sums) / chunks.n_tokens
        figures.append(("mean_kld_nats", cell.divergence.mean_kld_nats, mean))
        if chunks.same_tops is not None:
            share = sum(chunks.same_tops) / chunks.n_tokens
            figures.append(("same_top", cell.divergence.same_top, share))
    for name, value, from_chunks in figures:
        if value is None or not math.isfinite(from_chunks):
            continue
        if not math.isclose(value, from_chunks, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(f"{cell.id}: {name} is {value}, but its chunks give {from_chunks}")


def _check_engine(facts: dict[str, Any] | None) -> None:
    """Refuse an engine's account that lacks what reports say of it.

    Raises:
        ValueError: a name is missing.

    """
    if facts and "error" not in facts:
        missing = [name for name in ("kind", "version", "cpu_name") if name not in facts]
        if missing:
            raise ValueError(f"the engine has no {missing[0]}")
