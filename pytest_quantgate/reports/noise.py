"""The tables of a calibration: what settings and conditions moved, and the limits below that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_quantgate.engines.sweep import Kind
from pytest_quantgate.gate.judges.noise import METRIC, Assessment, assess
from pytest_quantgate.gate.judges.sweep import METRIC as SWEEP
from pytest_quantgate.reports.blocks import Column, Row, Table, words
from pytest_quantgate.reports.run_tables import label
from pytest_quantgate.reports.words import NONE, number, share
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.measurements.sweep import SweepMeasurement, SweptPoint
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import Against

_COLUMNS = (
    words("format"),
    words("setting"),
    Column(heading="PPL"),
    Column(heading="ΔPPL"),
    Column(heading="KLD"),
    Column(heading="ΔKLD"),
    Column(heading="tokens changed", drop=1),
    Column(heading="RMS nats", drop=2),
    words(""),
)


def noise_of(cell: CellRecord) -> NoiseMeasurement | None:
    """Return a cell's settings noise, None where it was not measured."""
    measured = cell.measured.get(METRIC)
    return measured if isinstance(measured, NoiseMeasurement) else None


def noise_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return a table for each model, text, device and engine of a run that was calibrated.

    What was swept has one table more.
    """
    groups: dict[tuple[str, str, str, str], list[CellRecord]] = {}
    for cell in record.cells:
        if noise_of(cell) is not None:
            key = (cell.model, cell.text_name, cell.device, cell.engine)
            groups.setdefault(key, []).append(cell)
    return (*(_table(cells) for cells in groups.values()), *_sweep_tables(record))


_SWEEP_COLUMNS = (
    *(words("cell"), words("furthest condition"), Column(heading="mean KLD, nats")),
    *(Column(heading="limit"), Column(heading="conditions"), Column(heading="refused", drop=1)),
)


def _sweep_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return a table of the cells that were swept; none without one.

    Of a sound cell it has the furthest condition that only rounds in another way, which is what
    limits between conditions are calibrated by; of a red one the condition that fails.
    """
    rows, notes = [], []
    for cell in record.cells:
        swept = cell.measured.get(SWEEP)
        judged = [item for item in cell.judgements if item.metric == SWEEP]
        if not isinstance(swept, SweepMeasurement) or not judged or judged[0].estimate is None:
            continue
        is_red = not judged[0].verdict.is_green
        point = _shown(swept, judged[0].estimate if is_red else None)
        usual = cell.limits.get("sweep_kld_max")
        limit = judged[0].limit if is_red or not isinstance(usual, float) else usual
        refused = sum(bool(item.problem) for item in swept.points)
        figures = (number(point.mean_kld_nats, ".2g"), number(limit, ".2g"))
        counts = (str(len(swept.points) - refused), str(refused))
        rows.append(Row(cells=(cell.id, point.name, *figures, *counts), is_red=is_red))
        if noise_of(cell) is None:
            below = (item for item in judged if item.against is Against.NOISE)
            notes += [f"{cell.id}: {item.reason}" for item in below]
    title = "Sweep of conditions, each against the reference condition"
    if not rows:
        return ()
    table = Table(
        title=title,
        columns=_SWEEP_COLUMNS,
        rows=tuple(rows),
        notes=tuple(notes),
        note_word="warning",
    )
    return (table,)


def _shown(swept: SweepMeasurement, kld_nats: float | None) -> SweptPoint:
    """Return the point of a divergence, else the furthest that only rounds in another way."""
    if kld_nats is not None:
        return next(point for point in swept.points if point.mean_kld_nats == kld_nats)
    rounding = [point for point in swept.points if point.kind == Kind.ROUNDING.name]
    return max(rounding or swept.points, key=lambda point: point.mean_kld_nats)


def _table(cells: Sequence[CellRecord]) -> Table:
    rows: list[Row] = []
    notes: list[str] = []
    first = cells[0]
    title = f"{first.model} on {first.device}, text {first.text_name}"
    if first.engine != "default":
        title += f", engine {first.engine}"
    for cell in cells:
        measured = noise_of(cell)
        assert measured is not None
        assessment = assess(measured)
        for place, (item, names) in enumerate(_merged(measured)):
            texts = _columns(item, names, measured, assessment)
            first_text = "" if place else label(cell)
            rows.append(Row(cells=(first_text, *texts), is_red=item in assessment.outliers))
        largest = ("", "largest shift", "", *_largest(assessment, measured), "", "")
        rows.append(Row(cells=largest))
        notes += [
            f"{label(cell)}: {item.reason}"
            for item in cell.judgements
            if item.against is Against.NOISE
        ]
    measured = noise_of(first)
    assert measured is not None
    return Table(
        title=f"Settings noise: {title}, {measured.chunks} chunks, {measured.tokens:,} tokens",
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=tuple(notes),
        note_word="warning",
    )


def _merged(measured: NoiseMeasurement) -> list[tuple[SettingScores, str]]:
    """Return the settings with their names; those bit-equal to the profile's own as one."""
    own, *others = measured.settings
    equal = [item.name for item in others if item.tokens_changed == 0]
    merged = [(own, own.name)]
    if equal:
        merged.append((own, ", ".join(equal)))
    return merged + [(item, item.name) for item in others if item.name not in equal]


def _columns(
    item: SettingScores, name: str, measured: NoiseMeasurement, assessment: Assessment
) -> tuple[str, ...]:
    own = measured.own
    if item.ppl is None:
        return name, *(NONE,) * 6, _remark(item, assessment)
    change = shift = NONE
    if own.ppl and math.isfinite(own.ppl):
        change = f"{number(100 * (item.ppl / own.ppl - 1), '+.4f')} %"
    if item.mean_kld_nats is not None:
        shift = number(item.mean_kld_nats - (own.mean_kld_nats or 0.0), "+.1e")
    if item is own:
        change = shift = "" if name == own.name else "identical"
    return (
        name,
        number(item.ppl, ".4f"),
        change,
        number(item.mean_kld_nats, ".5f"),
        shift,
        number(item.tokens_changed, ","),
        number(item.rms_nats, ".2g"),
        _remark(item, assessment),
    )


def _remark(item: SettingScores, assessment: Assessment) -> str:
    if item in assessment.outliers:
        return "OUTLIER"
    return "not available" if item.problem is not None else ""


def _largest(assessment: Assessment, measured: NoiseMeasurement) -> tuple[str, ...]:
    relative = ""
    if assessment.kld_shift_nats is not None and measured.own.mean_kld_nats:
        relative = share(assessment.kld_shift_nats / measured.own.mean_kld_nats, 2)
    return share(assessment.ppl_shift, 4), relative, number(assessment.kld_shift_nats, ".1e"), ""
