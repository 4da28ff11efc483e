"""A cell at one time, from a run's record or from an accepted baseline: one shape for both."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pytest_quantgate.reports.baseline_diff import cell_name
from pytest_quantgate.reports.history.figures import (
    MEMORY,
    SAME_EXPERTS,
    SIZE,
    SPEED,
    Figure,
)
from pytest_quantgate.reports.run_tables import speed_name
from pytest_quantgate.results.baseline import Baseline, MadeBy
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord


@dataclass(frozen=True, kw_only=True)
class Version:
    """A commit, or a run: ``name`` is what a reader looks it up by."""

    name: str
    when: str
    subject: str = ""
    engine: str = ""

    @property
    def day(self) -> str:
        """The date, and the time of day to the minute."""
        return self.when[:16].replace("T", " ")


@dataclass(frozen=True, kw_only=True)
class Name:
    """What a series is called; ``conditions`` are what must be equal to be comparable.

    ``hardware`` is where its speed or memory was measured, "" for figures of no machine.
    """

    figure: Figure
    title: str
    hardware: str = ""
    conditions: tuple[str | int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A figure that is read off as it is; ``samples`` are its fresh processes, if it has any."""

    value: float
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CellVersion:
    """A cell in a version.

    ``conditions`` are what two of one cell must share: settings of the key, engine's name, the
    text's hash. ``ppl`` to ``same_top`` are of all ``chunks``; other figures are ``readings``.
    """

    version: Version
    cell: str
    conditions: tuple[str | int | bool, ...]
    chunks: ChunkTable
    ppl: float | None
    mean_kld_nats: float | None
    same_top: float | None
    readings: Mapping[Name, Reading]
    made_by: MadeBy | None
    quantizer_sha256: str | None
    source_sha256: str | None
    tensors: Mapping[str, str]
    metadata: Mapping[str, str] | None
    said: tuple[str, ...] = field(default=())


def of_record(cell: CellRecord, version: Version) -> CellVersion:
    """Return a cell of a run's record."""
    key = cell.key
    settings = (cell.text,) if key is None else tuple(vars(key).values())
    said = [f"{cell.verdict}: {cell.reason.splitlines()[0]}"] if cell.is_red and cell.reason else []
    if cell.is_red and cell.cause is not None:
        said.append(str(cell.cause))
    if cell.accepted:
        said.append(f"accepted: {cell.accepted}")
    return CellVersion(
        version=version,
        cell=cell.id,
        conditions=(*settings, cell.engine, cell.text_sha256),
        chunks=cell.chunks,
        ppl=cell.ppl,
        mean_kld_nats=None if cell.divergence is None else cell.divergence.mean_kld_nats,
        same_top=None if cell.divergence is None else cell.divergence.same_top,
        readings=dict(_readings(cell)),
        made_by=cell.made_by,
        quantizer_sha256=None if cell.made_by is None else cell.made_by.quantizer_sha256,
        source_sha256=cell.source_sha256,
        tensors=cell.tensors,
        metadata=cell.metadata,
        said=tuple(said),
    )


def _readings(cell: CellRecord) -> Iterator[tuple[Name, Reading]]:
    if cell.file_bytes is not None:
        yield Name(figure=SIZE, title="size MB"), Reading(value=cell.file_bytes)
    routing = cell.measured.get("routing")
    if isinstance(routing, RoutingMeasurement) and routing.layers and not routing.is_reference:
        tokens = (routing.tokens, len(routing.layers))
        name = Name(figure=SAME_EXPERTS, title="same experts", conditions=tokens)
        yield name, Reading(value=routing.same_experts)
    speed = cell.measured.get("speed")
    if isinstance(speed, SpeedMeasurement):
        machine = speed.fingerprint
        for phase in PHASES:
            name = Name(
                figure=SPEED,
                title=f"{speed_name(phase, speed)} t/s",
                hardware=f"{machine.cpu}, {machine.n_threads} threads",
                conditions=(machine.digest, speed.n_batch, speed.n_ubatch),
            )
            yield name, Reading(value=speed.tokens_per_s(phase), samples=speed.rates(phase))
    memory = cell.measured.get("memory")
    if isinstance(memory, MemoryMeasurement) and memory.peak_resident_bytes is not None:
        name = Name(
            figure=MEMORY,
            title="peak MB",
            hardware=memory.fingerprint.cpu,
            conditions=(memory.fingerprint.digest, memory.n_ctx, memory.n_batch, memory.n_ubatch),
        )
        yield name, Reading(value=memory.peak_resident_bytes)


def of_baseline(baseline: Baseline, version: Version, *, named: Collection[str]) -> CellVersion:
    """Return an accepted baseline."""
    scored, divergence = baseline.perplexity, baseline.divergence
    text_sha256 = "" if scored is None else scored.text_sha256
    return CellVersion(
        version=version,
        cell=cell_name(baseline.key, named),
        conditions=(*vars(baseline.key).values(), text_sha256),
        chunks=ChunkTable() if scored is None else scored.chunks,
        ppl=None if scored is None else scored.ppl,
        mean_kld_nats=None if divergence is None else divergence.mean_kld_nats,
        same_top=None if divergence is None else divergence.same_top,
        readings=dict(_stored_readings(baseline)),
        made_by=baseline.made_by,
        quantizer_sha256=baseline.made_by.quantizer_sha256,
        source_sha256=baseline.source_sha256,
        tensors=baseline.size.tensors,
        metadata=baseline.metadata,
        said=(f"reason: {baseline.reason}",) if baseline.reason else (),
    )


def _stored_readings(baseline: Baseline) -> Iterator[tuple[Name, Reading]]:
    yield Name(figure=SIZE, title="size MB"), Reading(value=baseline.size.file_bytes)
    routing = baseline.routing
    if routing is not None and routing.tokens and routing.layers:
        conditions = (routing.tokens, len(routing.layers))
        share = sum(routing.same_experts) / (routing.tokens * len(routing.layers))
        name = Name(figure=SAME_EXPERTS, title="same experts", conditions=conditions)
        yield name, Reading(value=share)
    for digest, speed in baseline.speed.items():
        machine = f"{speed.fingerprint.cpu}, {speed.fingerprint.n_threads} threads"
        depth = f" @ d{speed.depth}" if speed.depth else ""
        for title, rates in (
            (f"pp{speed.prefill_tokens}{depth} t/s", speed.prefill_rates),
            (f"tg{speed.decode_tokens}{depth} t/s", speed.decode_rates),
        ):
            batch = (digest, speed.n_batch, speed.n_ubatch)
            name = Name(figure=SPEED, title=title, hardware=machine, conditions=batch)
            yield name, Reading(value=statistics.geometric_mean(rates), samples=rates)
    for digest, memory in baseline.memory.items():
        name = Name(
            figure=MEMORY,
            title="peak MB",
            hardware=memory.fingerprint.cpu,
            conditions=(digest, memory.n_ctx, memory.n_batch, memory.n_ubatch),
        )
        yield name, Reading(value=memory.peak_resident_bytes)
