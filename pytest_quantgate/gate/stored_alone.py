"""Finds what the stored baselines have and a run did not compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_quantgate.config.schema import ProfileSettings
from pytest_quantgate.config.settings import BUILT_IN_PROFILES
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import FULL_PRECISION, find_format
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.baseline_store import file_name
from pytest_quantgate.results.orphans import looks_up
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.stored_alone import StoredAlone, StoredPart


def find_stored_alone(session: Session, records: Sequence[CellRecord]) -> tuple[StoredAlone, ...]:
    """Return what the baselines have and the run compared with nothing.

    A cell that an option left out (``--quant-formats``), or that is of another shard or host, is
    none: a run of all compares it. One whose test was deselected or skipped, or that a hook took
    away, is one: else its report would look like that of the whole. Where an old engine stands for
    the baselines, none counts.
    """
    profile = session.settings.profile
    if profile.against is not None:
        return ()
    is_whole = not session.settings.overrides.changes_cells
    unclaimed = tuple(_unclaimed(session)) if is_whole else ()
    found = [
        StoredAlone(what=StoredPart.CELLS, names=unclaimed),
        StoredAlone(what=StoredPart.LEFT_OUT, names=tuple(_left_out(session, records))),
    ]
    for what, is_measured in (
        (StoredPart.SPEED, profile.speed),
        (StoredPart.MEMORY, profile.memory),
    ):
        metric = what.name.lower()
        names = tuple(
            record.id
            for record in records
            if not is_measured
            and metric not in record.measured
            and _stores(session, record, metric)
        )
        found.append(StoredAlone(what=what, names=names))
    return tuple(item for item in found if item.names)


def _left_out(session: Session, records: Sequence[CellRecord]) -> Iterator[str]:
    """Return the cells of the run that have a baseline and were not judged."""
    judged = {record.id for record in records}
    for cell in session.matrix.cells:
        if cell.id not in judged and session.store.has_any([session.matrix.key(cell)]):
            yield cell.id


def _stores(session: Session, record: CellRecord, metric: str) -> bool:
    baseline = None if record.key is None else session.store.find(record.key).baseline
    return baseline is not None and bool(getattr(baseline, metric))


def _unclaimed(session: Session) -> Iterator[str]:
    """Return the files of the project's folder that neither this profile nor another looks up.

    A baseline of another kind of device may be another host's.
    """
    settings, matrix = session.settings, session.matrix
    own = {_anywhere(matrix.key(cell)) for cell in matrix.all}
    others = [*settings.other_profiles.values()]
    others += [item for name, item in BUILT_IN_PROFILES.items() if name != settings.profile_name]
    for key in session.store.own_keys():
        if _anywhere(key) not in own and not any(_looks_up(session, it, key) for it in others):
            yield file_name(key)


def _anywhere(key: Key) -> Key:
    return key.model_copy(update={"device_kind": ""})


def _looks_up(session: Session, profile: ProfileSettings, key: Key) -> bool:
    names = {*profile.formats, *profile.parts}
    return looks_up(profile, session.settings.devices, key) and (
        key.format in FULL_PRECISION or key.format in {_name(session, name) for name in names}
    )


def _name(session: Session, name: str) -> str:
    try:
        return find_format(name, session.settings.recipes).name
    except ConfigError:
        return name  # of a profile that is not run: it says so when it is
