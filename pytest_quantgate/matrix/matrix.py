"""The cells of a run and how they relate: references, old engines, baselines' keys."""

from __future__ import annotations

from functools import cached_property

from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.gguf.formats import FULL_PRECISION, find_format
from pytest_quantgate.matrix.cells import (
    Cell,
    expand,
    expand_sources,
    make_cell,
    reference_format,
    with_engines,
)
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.matrix.sharding import cells_of, models_of
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
        return self.all if shard is None else cells_of(self.nominal, self.all, shard)

    @cached_property
    def nominal(self) -> tuple[Cell, ...]:
        """The profile's cells as the settings alone have them."""
        return expand(self._settings)

    @cached_property
    def all(self) -> tuple[Cell, ...]:
        """The cells of all shards; a model's own full precision takes the place of F16.

        Models of other shards alone are not looked for: their cells are as the settings have them.
        """
        self._library.check_imatrices()
        sources = {}
        shard, names = self._settings.shard, frozenset(self._settings.profile.models)
        for name in names if shard is None else models_of(self.nominal, shard):
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
