"""The run's record, gathered from what its tests wrote."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_quantgate import stats
from pytest_quantgate.artifacts.support import find_support
from pytest_quantgate.errors import CellError
from pytest_quantgate.gate.stored_alone import find_stored_alone
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.results.events import Event, HostGivenUp
from pytest_quantgate.results.record import CellRecord, RunRecord, ShardRecord, merge_records
from pytest_quantgate.results.record_file import cell_from_plain
from pytest_quantgate.storage.atomic import read_json


def read_records(session: Session, unwritten: Sequence[CellRecord] = ()) -> tuple[CellRecord, ...]:
    """Return the cells that tests of this run judged, a cell once, several tests' joined.

    Args:
        session: the run's.
        unwritten: records that are in no file.

    """
    order = {cell.id: number for number, cell in enumerate(session.matrix.cells)}
    records = _joined([*_read_folder(session.folder / "records"), *unwritten])
    return tuple(sorted(records, key=lambda record: order.get(record.id, len(order))))


def _read_folder(folder: Path) -> list[CellRecord]:
    plain = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return _joined([cell_from_plain(item) for item in plain if isinstance(item, dict)])


def _joined(records: Iterable[CellRecord]) -> list[CellRecord]:
    by_id: dict[str, CellRecord] = {}
    for record in records:
        other = by_id.get(record.id)
        by_id[record.id] = record if other is None else merge_records(other, record)
    return list(by_id.values())


def make_record(session: Session, unwritten: Sequence[CellRecord] = ()) -> RunRecord:
    """Gather the run's record; ``unwritten`` are records of cells that are in no file."""
    events, _ = session.events.read(0)
    started_s = min((event.time_s for event in events), default=time.time())
    settings, matrix = session.settings, session.matrix
    against, shard = settings.profile.against, settings.shard
    cells = read_records(session, unwritten)
    return RunRecord(
        profile=settings.profile_name,
        gated=matrix.is_gated,
        settings=settings_used(session),
        engine=engine_facts(session, settings.profile.engine),
        cells=cells,
        warnings=tuple(_given_up(events, cells)),
        stored_alone=find_stored_alone(session, cells),
        against=None if against is None else engine_facts(session, against),
        others=tuple(_read_folder(session.folder / "others")),
        started=datetime.fromtimestamp(started_s, tz=UTC).isoformat(timespec="seconds"),
        seconds_s=time.time() - started_s,
        command=settings.overrides.command,
        shard=None
        if shard is None
        else ShardRecord(
            number=shard.number,
            count=shard.count,
            cells=tuple(cell.id for cell in matrix.cells),
            matrix_sha256=matrix.shards.sha256,
        ),
    )


def _given_up(events: Iterable[Event], cells: Iterable[CellRecord]) -> Iterator[str]:
    """Say why hosts were given up, where no cell says it: their cells moved to equal ones."""
    reasons = [event.reason for event in events if isinstance(event, HostGivenUp)]
    for reason in dict.fromkeys(reasons):
        if not any(reason in cell.reason for cell in cells):
            yield f"{reason}; its cells moved to an equal host"


def settings_used(session: Session) -> dict[str, Any]:
    """Return the settings that shape the figures, for the record."""
    profile = session.settings.profile
    n_ctx = profile.n_ctx[0] if len(profile.n_ctx) == 1 else None
    n_batch = profile.n_batch or n_ctx
    return {
        "n_ctx": n_ctx or list(profile.n_ctx),
        "n_batch": n_batch,
        "n_ubatch": profile.n_ubatch or (n_batch and min(512, n_batch)),
        "n_threads": session.n_threads,
        "flash_attention": profile.flash_attention,
        "type_k": profile.type_k,
        "type_v": profile.type_v,
        "chunks": profile.chunks,
        "looks": list(profile.looks or (stats.FIRST_LOOK,)),
        "chunk_order": profile.chunk_order,
        "seed": profile.seed,
        "texts": {name: session.library.text(name).sha256 for name in profile.texts},
        **{
            name: value
            for name, value in profile.model_dump().items()
            if profile.speed and name.startswith("speed_")
        },
    }


def engine_facts(session: Session, name: str) -> dict[str, Any]:
    """Return an engine's identity, for the record; with its formats where two are compared."""
    try:
        facts = asdict(session.engines[name].identity())
        if session.settings.profile.against is not None:
            facts["formats"] = asdict(find_support(session.cache, session.engines[name]))
    except CellError as error:
        return {"error": str(error).splitlines()[0]}
    return facts
