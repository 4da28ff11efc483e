"""The run record: everything measured and judged in a run, as one versioned JSON.

It holds no environment variables, tokens, credentials or host names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.metrics.batches import BatchMeasurement, Geometry
from pytest_quantgate.metrics.divergence import DivergenceMeasurement, Part
from pytest_quantgate.verdicts import Judgement, VerdictKind

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """PPL of a cell against another on common chunks; a relative change, 95 % interval.

    ``tokens_changed`` is None where an engine told no values of single tokens.
    """

    change: float
    low: float
    high: float
    chunks: int
    clusters: int
    tokens: int
    tokens_changed: int | None


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One cell: what it is, what was measured, what was said.

    ``notes`` are what must be said aloud of it; ``ppl_vs_reference`` is None for the reference
    itself. Figures are None where the cell could not be measured.
    """

    id: str
    model: str
    format: str
    imatrix: str | None
    device: str
    engine: str
    text: str
    is_reference: bool
    reference: str
    is_requantized: bool
    is_miniature: bool
    verdict: str
    reason: str
    cause: str | None = None
    notes: tuple[str, ...] = ()
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    bytes_by_type: dict[str, int] = field(default_factory=dict)
    tensors_by_type: dict[str, int] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    fallback_fraction: float | None = None
    file_sha256: str | None = None
    tensor_data_sha256: str | None = None
    ppl: float | None = None
    chunks: int | None = None
    tokens: int | None = None
    chunk_indices: tuple[int, ...] = ()
    chunk_nll_sum_nats: tuple[float, ...] = ()
    chunk_tokens: tuple[int, ...] = ()
    chunk_documents: tuple[int | None, ...] = ()
    ppl_by_domain: dict[str, float] = field(default_factory=dict)
    ppl_vs_reference: Difference | None = None
    divergence: DivergenceMeasurement | None = None
    batches: BatchMeasurement | None = None
    judgements: tuple[Judgement, ...] = ()
    accepted: str | None = None
    seconds_s: float = 0.0

    @property
    def kind(self) -> VerdictKind:
        """The verdict, as its enumeration."""
        return VerdictKind(self.verdict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A whole run."""

    profile: str
    gated: bool
    settings: dict[str, Any]
    engine: dict[str, Any]
    cells: tuple[CellRecord, ...]
    started: str
    seconds_s: float
    warnings: tuple[str, ...] = ()
    version: int = VERSION


def to_plain(record: RunRecord | CellRecord) -> dict[str, Any]:
    """Return what JSON can hold; numbers that are not finite become their names."""
    plain: dict[str, Any] = _plain(asdict(record))
    return plain


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case VerdictKind():
            return value.value
        case float() if value != value or value in {float("inf"), float("-inf")}:
            return str(value)
        case _:
            return value


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Raises:
        ConfigError: no file, no JSON, no run record, or one of another version.

    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the run record {path} cannot be read: {error}") from error
    if not isinstance(plain, dict) or plain.get("version") != VERSION:
        found = plain.get("version") if isinstance(plain, dict) else None
        raise ConfigError(
            f"{path} is no run record of version {VERSION} (version {found!r}); write one with"
            " pytest --quant-matrix --quant-report PATH.json"
        )
    try:
        cells = tuple(cell_from_plain(cell) for cell in plain.pop("cells"))
        return RunRecord(**{**plain, "cells": cells, "warnings": tuple(plain["warnings"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the run record {path} is damaged: {error!r}") from error


def cell_from_plain(plain: dict[str, Any]) -> CellRecord:
    """Rebuild a cell from its JSON."""
    fields = dict(plain)
    for name in (
        "notes",
        "fallbacks",
        "chunk_indices",
        "chunk_nll_sum_nats",
        "chunk_tokens",
        "chunk_documents",
    ):
        fields[name] = tuple(fields[name])
    fields["chunk_nll_sum_nats"] = tuple(float(item) for item in fields["chunk_nll_sum_nats"])
    if fields["ppl_vs_reference"] is not None:
        fields["ppl_vs_reference"] = Difference(**_floats(fields["ppl_vs_reference"]))
    if fields.get("divergence") is not None:
        found = _floats(fields["divergence"])
        for name in ("by_confidence", "by_domain"):
            found[name] = tuple(Part(**_floats(part)) for part in found[name])
        for name in ("kld_percentiles_nats", "delta_p_percentiles"):
            found[name] = _floats(found[name])
        fields["divergence"] = DivergenceMeasurement(**found)
    if fields.get("batches") is not None:
        found = fields["batches"]["geometries"]
        fields["batches"] = BatchMeasurement(
            geometries=tuple(Geometry(**_floats(item)) for item in found)
        )
    fields["judgements"] = tuple(
        Judgement(**{**_floats(item), "verdict": VerdictKind(item["verdict"])})
        for item in fields["judgements"]
    )
    if isinstance(fields["ppl"], str):
        fields["ppl"] = float(fields["ppl"])
    fields["ppl_by_domain"] = _floats(fields["ppl_by_domain"])
    return CellRecord(**fields)


def _floats(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn the names of numbers that are not finite back into numbers."""
    names = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
    return {
        key: names.get(value, value) if isinstance(value, str) else value
        for key, value in fields.items()
    }
