"""Parametrizes tests over the active profile's cells."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.plugin.markers import read_marker
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


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a test is parametrized with: a cell, of which it may see only some fields."""

    id: str
    cell: Cell
    is_whole_cell: bool


def points(cells: tuple[Cell, ...], used: AbstractSet[str]) -> list[Point]:
    """Return one point a cell, or one a distinct combination of the fields that are used."""
    if {"quant_cell", "quant_baseline"} & used:
        return [Point(id=cell.id, cell=cell, is_whole_cell=True) for cell in cells]
    fields = [field for fixture, field in DIMENSIONS.items() if fixture in used]
    found: dict[str, Point] = {}
    for cell in cells:
        values = [getattr(cell, field) for field in fields]
        name = "-".join(str(getattr(value, "name", value)) for value in values)
        found.setdefault(name, Point(id=name, cell=cell, is_whole_cell=False))
    return list(found.values())


def generate(metafunc: pytest.Metafunc, used: AbstractSet[str], marked: list[pytest.Mark]) -> None:
    """Parametrize one test.

    Raises:
        pytest.Collector.CollectError: a marker or a setting that cannot be used; under
            pytest-xdist a usage error at this point would end the whole run.

    """
    where = metafunc.definition.nodeid
    try:
        for mark in marked:
            read_marker(mark)
            if "quant_cell" not in used:
                raise ConfigError(
                    f"@{mark.name} is on a test without a cell; add the argument quant_cell"
                )
        run = metafunc.config.stash[STATE].open_run()
        # Of all shards, so that what is not of this one is told as deselected.
        found = points(run.matrix, used)
    except ConfigError as error:
        raise pytest.Collector.CollectError(f"{where}: {error}") from error
    metafunc.parametrize(
        "_quant_point", found, ids=[point.id for point in found], indirect=True, scope="session"
    )
