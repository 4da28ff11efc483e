"""What a cell's speed was in the last sessions on this machine, and how far these scatter."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from pytest_quantgate import stats
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session

MOST_SESSIONS = 10
"""As many sessions of a cell are kept on a machine."""


@dataclass(frozen=True, kw_only=True)
class SpeedSession:
    """What one session measured: of which file, by which libraries, and each phase's mean."""

    file_sha256: str | None
    library_sha256: str
    phases: Mapping[str, stats.SessionMean]


_SESSIONS = TypeAdapter(tuple[SpeedSession, ...])


def known_scatter(
    session: Session, cell: ResolvedCell, measured: SpeedMeasurement
) -> dict[str, stats.SessionScatter]:
    """Return by phase how far the earlier sessions of a cell lie from each other.

    A phase of which too few sessions are known is left out. Sessions of another file or another
    build tell of the machine too: each is held against its own kind.
    """
    groups: dict[tuple[str | None, str], list[SpeedSession]] = defaultdict(list)
    for item in _read(_path(session, cell, measured)):
        groups[item.file_sha256, item.library_sha256].append(item)
    scatters = {
        phase: stats.session_scatter(
            [[item.phases[phase] for item in group] for group in groups.values()]
        )
        for phase in PHASES
    }
    return {phase: scatter for phase, scatter in scatters.items() if scatter is not None}


def keep_session(session: Session, cell: ResolvedCell, measured: SpeedMeasurement) -> None:
    """Keep what was measured beside what earlier sessions did."""
    path = _path(session, cell, measured)
    phases = {}
    for phase in PHASES:
        estimate = stats.slowness(measured.rates(phase))
        phases[phase] = stats.SessionMean(mean=-estimate.mean, variance=estimate.standard_error**2)
    item = SpeedSession(
        file_sha256=session.artifacts.file(cell).sha256,
        library_sha256=cell.engine.identity().library_sha256,
        phases=phases,
    )
    with session.cache.lock(f"speed-{path.stem[:32]}"):
        kept = (*_read(path), item)[-MOST_SESSIONS:]
        write_json(path, [asdict(item) for item in kept])


def _read(path: Path) -> tuple[SpeedSession, ...]:
    with contextlib.suppress(ValidationError):
        return _SESSIONS.validate_python(read_json(path) or ())
    return ()


def _path(session: Session, cell: ResolvedCell, measured: SpeedMeasurement) -> Path:
    key = key_of(
        kind="speed sessions",
        cell=cell.cell.id,
        settings=[
            measured.prefill_tokens,
            measured.decode_tokens,
            measured.depth,
            measured.n_batch,
            measured.n_ubatch,
        ],
        hardware=measured.fingerprint.digest,
    )
    return session.cache.sub("speeds") / f"{key}.json"
