"""The cells of a run and how they relate: references, old engines, baselines' keys."""

from __future__ import annotations

import difflib
from functools import cached_property
from itertools import groupby

from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import FULL_PRECISION, Format, find_format
from pytest_quantgate.matrix.cells import (
    Cell,
    expand,
    expand_sources,
    make_cell,
    reference_format,
    with_engines,
)
from pytest_quantgate.matrix.costs import nominal_seconds
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.matrix.sharding import Group, Shards, group_key
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.baseline_store import Store
from pytest_quantgate.results.orphans import orphaned


class Matrix:
    """The active profile's cells.

    Args:
        settings: checked settings.
        library: where models are found.
        store: where baselines are found.

    """

    def __init__(self, settings: Settings, library: Library, store: Store) -> None:
        self._settings = settings
        self._library = library
        self._store = store

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The profile's cells: all, or those of the run's shard."""
        shard = self._settings.shard
        return self.all if shard is None else self.shards.cells(shard.number, self.all)

    def named(self, name: str) -> Cell:
        """Return the cell of an id.

        Raises:
            ConfigError: the profile has none of that id.

        """
        cells = {cell.id: cell for cell in self.all}
        if name not in cells:
            close = difflib.get_close_matches(name, cells, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "pytest --quant-plan lists them"
            raise ConfigError(f"{name!r} is no cell of the active profile; {hint}")
        return cells[name]

    @cached_property
    def nominal(self) -> tuple[Cell, ...]:
        """The profile's cells as the settings alone have them."""
        return expand(self._settings)

    @cached_property
    def shards(self) -> Shards:
        """The cut of the matrix, by what each cell takes.

        The models' sizes come from the files that are on this machine. A model of a hub, or one
        whose file only another job has, counts as an average of the others.
        """
        shard = self._settings.shard
        nominal = self.nominal
        costs_s = {cell.id: self._nominal_seconds(cell, cell.format) for cell in nominal}
        known_s = [cost_s for cost_s in costs_s.values() if cost_s is not None]
        average_s = sum(known_s) / len(known_s) if known_s else 1.0
        groups = []
        for _, members in groupby(nominal, key=group_key):
            cells = tuple(members)
            formats = tuple(cell.format for cell in cells)
            has_files = self._settings.models[cells[0].model].files is not None
            full = reference_format(formats if has_files else (*formats, find_format("F16")))
            reference_s = self._nominal_seconds(cells[0], full)
            groups.append(
                Group(
                    costs_ms=tuple(_milliseconds(costs_s[cell.id], average_s) for cell in cells),
                    reference=formats.index(full) if full in formats else None,
                    reference_ms=_milliseconds(reference_s, average_s),
                )
            )
        return Shards(nominal, groups, 1 if shard is None else shard.count)

    def _nominal_seconds(self, cell: Cell, target: Format) -> float | None:
        model = self._library.local_model(cell.model)
        if model is None:
            return None
        return nominal_seconds(
            model, target, find_format("F16"), self._settings.profile, cell.n_ctx
        )

    @cached_property
    def all(self) -> tuple[Cell, ...]:
        """The cells of all shards; a model's own full precision takes the place of F16.

        Models of other shards alone are not looked for: their cells are as the settings have them.
        """
        self._library.check_imatrices()
        self._library.check_domains()
        sources = {}
        shard, names = self._settings.shard, frozenset(self._settings.profile.models)
        for name in names if shard is None else self.shards.models(shard.number):
            model = self._library.find_model(name)
            if model is not None and model.source is not None:
                sources[name] = model.source
        return expand_sources(self._settings, sources)

    def reference(self, cell: Cell) -> Cell:
        """Return the cell that a cell is compared with; itself if it is the reference.

        The reference need not be among the run's cells: a model of one source is compared with
        its full precision, one of existing files with the most precise of its files.
        """
        model = self._library.find_model(cell.model)
        if model is not None and model.source is None:
            formats = tuple(find_format(name, self._settings.recipes) for name in model.files)
        else:
            own = None if model is None or model.source is None else model.source.main_type()
            full = find_format(own if own in FULL_PRECISION else "F16")
            listed = (item.format for item in self.all if item.model == cell.model)
            formats = tuple(dict.fromkeys((full, *listed)))
        reference = reference_format(formats)
        if cell.format == reference:
            return cell
        return make_cell(self._settings, cell, reference, None)

    def of_old_engine(self, cell: Cell) -> Cell | None:
        """Return a judged cell as the old engine makes and measures it; None without one."""
        against, engine = self._settings.profile.against, self._settings.profile.engine
        if against is None or (cell.quantizer, cell.engine) != (engine, engine):
            return None
        return with_engines(self._settings, cell, quantizer=against, engine=against)

    def crossed(self, cell: Cell, old: Cell) -> tuple[Cell, Cell]:
        """Return the new file with the old runtime, and the old file with the new one."""
        return (
            with_engines(self._settings, cell, quantizer=cell.quantizer, engine=old.engine),
            with_engines(self._settings, cell, quantizer=old.quantizer, engine=cell.engine),
        )

    def key(self, cell: Cell) -> Key:
        """Return what a cell's baseline is found by."""
        return key_of_cell(self._settings, cell)

    @cached_property
    def is_gated(self) -> bool:
        """Whether a missing baseline is red: the profile says so, or one is stored.

        One that is stored under settings that the profile had counts too: an edit of them must
        not end the gate. Where an old engine stands in for the baselines there is always
        something to hold against.
        """
        profile = self._settings.profile
        return (
            bool(profile.gate or profile.against)
            or self._store.has_any(self._keys, shipped=not self._settings.explores)
            or any(self.keys_before(cell) for cell in self.all)
        )

    def keys_before(self, cell: Cell) -> tuple[Key, ...]:
        """Return the keys of a cell's baselines under settings that no profile has any more."""
        settings = self._settings
        return orphaned(
            self._store.keys_of_cell(self.key(cell)),
            self._keys,
            settings.other_profiles.values(),
            settings.devices,
        )

    @cached_property
    def _keys(self) -> frozenset[Key]:
        return frozenset(self.key(cell) for cell in self.all)


def _milliseconds(seconds_s: float | None, otherwise_s: float) -> int:
    return max(1, round(1000 * (otherwise_s if seconds_s is None else seconds_s)))
