"""Two engines, or two runs, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.cell import CellChange, Side, can_measure, compare_cells
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import Verdict

_SETTINGS_OF_KEY = frozenset({"n_ctx", "flash_attention", "type_k", "type_v", "texts"})
"""Settings that a cell's key or text has too: there they keep cells from being compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed from an old engine to a new one.

    ``old`` and ``new`` describe the engines, as a run's record does; ``settings`` are the new
    run's. ``is_one_run`` says that one run measured both engines. Of two records,
    ``settings_changed`` are the settings that differ and do not keep cells from being compared,
    ``only_old`` and ``only_new`` the cells that one has and the other has not, and ``incomplete``
    says what either lacks.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    settings: Mapping[str, Any]
    cells: tuple[CellChange, ...]
    is_one_run: bool
    command: str
    settings_changed: tuple[str, ...] = ()
    only_old: tuple[CellRecord, ...] = ()
    only_new: tuple[CellRecord, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def red(self) -> tuple[CellChange, ...]:
        """The cells whose verdict is red."""
        return tuple(cell for cell in self.cells if cell.is_red)

    @property
    def moved(self) -> tuple[CellChange, ...]:
        """The cells in which anything moved."""
        return tuple(cell for cell in self.cells if cell.moved)


def compare_engines(record: RunRecord) -> Comparison | None:
    """Return what changed between the two engines of a run, None where it has but one."""
    if record.against is None:
        return None
    peers: dict[tuple[str | None, ...], list[CellRecord]] = {}
    for cell in record.others:
        peers.setdefault(_identity(cell), []).append(cell)
    changes = []
    for cell in record.cells:
        corners = _Corners(cell, peers.get(_identity(cell), ()))
        verdict = Verdict(
            kind=cell.kind, reason=cell.reason, judgements=cell.judgements, cause=cell.cause
        )
        found = compare_cells(
            Side(cell=corners.old, reference=_reference(corners.old, record.others)),
            Side(cell=cell, reference=_reference(cell, record.cells)),
            verdict=verdict,
            effects=cell.effects,
            is_one_run=True,
        )
        changes.append(replace(found, unreadable=corners.unreadable()))
    return Comparison(
        old=record.against,
        new=record.engine,
        settings=record.settings,
        cells=tuple(changes),
        is_one_run=True,
        command=record.command,
    )


class _Corners:
    """The two-by-two of one cell: which engine made the file, and which computed with it."""

    def __init__(self, new: CellRecord, peers: Iterable[CellRecord]) -> None:
        self.old = replace(new, verdict="UNAVAILABLE", reason="not measured", file_bytes=None)
        self._new_file_on_old: CellRecord | None = None
        self._old_file_on_new: CellRecord | None = None
        for peer in peers:
            if peer.engine == new.engine:
                self._old_file_on_new = peer
            elif peer.quantizer == new.engine:
                self._new_file_on_old = peer
            else:
                self.old = peer

    def unreadable(self) -> tuple[CellRecord, ...]:
        """Return the crossed cells that were tried and could not be measured."""
        corners = (self._new_file_on_old, self._old_file_on_new)
        return tuple(item for item in corners if item is not None and not can_measure(item))


def _identity(cell: CellRecord) -> tuple[str | None, ...]:
    return cell.model, cell.format, cell.imatrix, cell.text_name, cell.device


def _reference(cell: CellRecord, cells: Iterable[CellRecord]) -> CellRecord | None:
    """Return the record of a cell's reference, None for the reference itself."""
    if cell.is_reference:
        return None
    wanted = (cell.model, cell.text_name, cell.device, cell.engine)
    return next(
        (
            item
            for item in cells
            if item.is_reference
            and (item.model, item.text_name, item.device, item.engine) == wanted
            and can_measure(item)
            and item.key is not None
        ),
        None,
    )


def compare_records(old: RunRecord, new: RunRecord) -> Comparison:
    """Return what changed between two runs, on one machine or on two.

    Raises:
        ConfigError: they have no cell in common.

    """
    then = {_identity(cell): cell for cell in old.cells}
    now = {_identity(cell): cell for cell in new.cells}
    if then.keys().isdisjoint(now):
        raise ConfigError(
            f"the two records have no cell in common: the first has {_some(old.cells)}, the second"
            f" {_some(new.cells)}; compare runs of the same models, formats, texts and devices"
        )
    return Comparison(
        old=old.engine,
        new=new.engine,
        settings=new.settings,
        settings_changed=_settings_changed(old.settings, new.settings),
        cells=tuple(
            compare_cells(
                Side(cell=then[name], reference=_reference(then[name], old.cells)),
                Side(cell=cell, reference=_reference(cell, new.cells)),
            )
            for name, cell in now.items()
            if name in then
        ),
        only_old=tuple(cell for name, cell in then.items() if name not in now),
        only_new=tuple(cell for name, cell in now.items() if name not in then),
        is_one_run=False,
        command=new.command,
        incomplete=(*_incomplete("old", old), *_incomplete("new", new)),
    )


def _incomplete(side: str, record: RunRecord) -> list[str]:
    shard = record.shard
    told = [] if shard is None else [f"the {side} run is shard {shard.number} of {shard.count}"]
    return [*told, *(f"the {side} run lacks {what}" for what in record.missing)]


def _some(cells: Iterable[CellRecord]) -> str:
    ids = [cell.id for cell in cells]
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "") or "none"


def _settings_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{name} {_shown(new.get(name))} (was {_shown(old.get(name))})"
        for name in sorted({*old, *new} - _SETTINGS_OF_KEY)
        if old.get(name) != new.get(name)
    )


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
