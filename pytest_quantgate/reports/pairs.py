"""Two formats, or two importance matrices, of one run: paired differences of quality and speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.blocks import Block, Column, Row, Table, intervals, row, words
from pytest_quantgate.reports.chunks import change_on, kld_change, kld_on
from pytest_quantgate.reports.run_tables import (
    FAULT_DETECTOR,
    Group,
    group_cells,
    label,
    speed_name,
)
from pytest_quantgate.reports.words import NONE, change, megabytes, nats_change, number
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

_NO_MATRIX = "none"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two cells of one model, text and device; the second is held against the first."""

    group: Group
    first: CellRecord
    second: CellRecord


def find_pairs(record: RunRecord, first: str, second: str) -> tuple[Pair, ...]:
    """Return the pairs that two names of cells, of formats or of importance matrices stand for.

    A cell is named by its id, or as tables name it: `Q4_K_M-calibration`.

    Raises:
        ConfigError: no model has both.

    """
    pairs = tuple(pair for group in group_cells(record) for pair in _pairs_of(group, first, second))
    if not pairs:
        names = dict.fromkeys(label(cell) for cell in record.cells)
        matrices = dict.fromkeys(cell.imatrix or _NO_MATRIX for cell in record.cells)
        raise ConfigError(
            f"--pair {first!r} {second!r}: no model of the record has both; formats:"
            f" {', '.join(names)}; importance matrices: {', '.join(matrices)}"
        )
    return pairs


def _pairs_of(group: Group, first: str, second: str) -> Iterator[Pair]:
    by_label = {name: cell for cell in group.cells for name in (label(cell), cell.id)}
    if first in by_label and second in by_label:
        yield Pair(group=group, first=by_label[first], second=by_label[second])
        return
    by_matrix: dict[str, dict[str, CellRecord]] = {}
    for cell in group.cells:
        by_matrix.setdefault(cell.format, {})[cell.imatrix or _NO_MATRIX] = cell
    for cells in by_matrix.values():
        if first in cells and second in cells:
            yield Pair(group=group, first=cells[first], second=cells[second])


def pair_blocks(pairs: tuple[Pair, ...]) -> list[Block]:
    """Return a table for each pair, and what it says."""
    return [_table(pair) for pair in pairs]


def _table(pair: Pair) -> Table:
    first, second, group = pair.first, pair.second, pair.group
    names = label(first), label(second)
    sizes = [cell.file_bytes for cell in (first, second)]
    rows = [row("size MB", *map(megabytes, sizes), _ratio(*sizes), "")]
    shift = change_on(second, first, group.chunks)
    ppls = [_ppl(cell, group) for cell in (first, second)]
    if shift is not None:
        difference = change(shift.change, shift.low, shift.high)
        rows.append(row("PPL", *ppls, difference, better(shift.low, shift.high, names)))
    rows += _divergence(pair, names)
    notes = [f"paired on {len(group.chunks)} common chunks of {group.first.text_name or 'no text'}"]
    if _is_same(first, second):
        notes.append("the same tensors, byte for byte: any difference of speed is chance")
    else:
        rows += _speeds(pair, names)
    return Table(
        title=f"{group.first.model} on {group.first.device}: {names[1]} against {names[0]}",
        caveat=FAULT_DETECTOR if group.only_detects_faults else "",
        columns=(
            words("figure"),
            Column(heading=names[0]),
            Column(heading=names[1]),
            intervals("difference [95 %]"),
            words("beyond chance"),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _ppl(cell: CellRecord, group: Group) -> str:
    rows = cell.chunks.of_chunks(group.chunks)
    return number(rows.perplexity, ".4f") if len(rows) else NONE


def _ratio(before: int | None, after: int | None) -> str:
    return (
        NONE if not before or after is None else f"{number(100 * (after / before - 1), '+.2f')} %"
    )


def _is_same(first: CellRecord, second: CellRecord) -> bool:
    digest = first.tensor_data_sha256
    return digest is not None and digest == second.tensor_data_sha256


def better(low: float, high: float, names: tuple[str, str]) -> str:
    """Return which of two is better where less is, or that chance alone may part them."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "not known: too few chunks"
    if low == high == 0:
        return "identical"
    if high < 0:
        return f"{names[1]} better"
    return f"{names[0]} better" if low > 0 else "no difference"


def _divergence(pair: Pair, names: tuple[str, str]) -> Iterator[Row]:
    chunks = pair.group.chunks
    common = pair.second.chunks.of_chunks(chunks).paired(pair.first.chunks)
    moved = kld_change(common)
    if moved is None:
        return
    klds = (number(kld_on(cell, chunks), ".5f") for cell in (pair.first, pair.second))
    _, low, high = moved
    yield row("mean KLD", *klds, nats_change(*moved), better(low, high, names))


def _speeds(pair: Pair, names: tuple[str, str]) -> Iterator[Row]:
    first, second = (cell.measured.get("speed") for cell in (pair.first, pair.second))
    if not isinstance(first, SpeedMeasurement) or not isinstance(second, SpeedMeasurement):
        return
    for phase in PHASES:
        if first.fingerprint != second.fingerprint or first.tokens(phase) != second.tokens(phase):
            continue
        estimate = stats.slowdown_unpaired(first.rates(phase), second.rates(phase))
        low, high = stats.interval(estimate)
        times, least, most = (math.exp(-value) for value in (estimate.mean, high, low))
        rates = (f"{speed.tokens_per_s(phase):,.1f}" for speed in (first, second))
        difference = f"{times:.3f}× [{least:.3f}, {most:.3f}]"
        yield row(f"{speed_name(phase, first)} t/s", *rates, difference, better(low, high, names))
