"""Parametrizes tests over the active profile's cells."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.plugin.state import STATE

DIMENSIONS = {
    "quant_model": "model",
    "quant_format": "format",
    "quant_device": "device",
    "quant_imatrix": "imatrix",
    "quant_engine": "engine",
    "quant_text": "text",
}
"""A fixture, and the cell's field that it stands for."""

_WHOLE_CELL = frozenset({"quant_cell", "quant_baseline"})


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a test is parametrized with: a cell, of which it may see only some fields."""

    id: str
    cell: Cell
    fixtures: frozenset[str]
    """The fixtures of this test that the cell is chosen by."""

    @property
    def is_whole_cell(self) -> bool:
        """Whether no other cell stands behind the same values of the fixtures."""
        return not _WHOLE_CELL.isdisjoint(self.fixtures)


def points(cells: tuple[Cell, ...], used: AbstractSet[str]) -> list[Point]:
    """Return one point a cell, or one a distinct combination of the fields that are used."""
    fixtures = frozenset(used)
    if not _WHOLE_CELL.isdisjoint(fixtures):
        return [Point(id=cell.id, cell=cell, fixtures=fixtures) for cell in cells]
    fields = [field for fixture, field in DIMENSIONS.items() if fixture in used]
    distinct: dict[str, Point] = {}
    for cell in cells:
        values = [getattr(cell, field) for field in fields]
        name = "-".join(str(getattr(value, "name", value)) for value in values)
        distinct.setdefault(name, Point(id=name, cell=cell, fixtures=fixtures))
    return list(distinct.values())


def generate(metafunc: pytest.Metafunc, used: AbstractSet[str]) -> None:
    """Parametrize one test.

    Raises:
        pytest.Collector.CollectError: a setting that cannot be used; under pytest-xdist a usage
            error at this point would end the whole run.

    """
    try:
        # Of all shards, so that what is not of this one is reported as deselected.
        cells = metafunc.config.stash[STATE].open_session().matrix.all
    except ConfigError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from error
    all_points = points(cells, used)
    metafunc.parametrize(
        "_quant_point",
        all_points,
        ids=[point.id for point in all_points],
        indirect=True,
        scope="session",
    )
