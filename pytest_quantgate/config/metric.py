"""One metric: its limits, marker and columns, and by name the code that measures and judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_quantgate.config.limit import (
    Limit,
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of a measurement that tables show and a test's result carries.

    ``name`` is the measurement's attribute, ``text`` the format that writes it, such as ``.4f``;
    None as a value is shown as a dash.
    """

    name: str
    heading: str
    text: str = ".4g"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """All that there is to know of a metric; what computes is named and loaded when it is used.

    Names of code are ``package.module:object``, as in an entry point, so that this table stays
    light. ``measure`` takes the session and the resolved cell and returns a ``measurement``, a
    frozen dataclass of plain types, or an
    :class:`~pytest_quantgate.results.measurements.absent.Absent`; it may raise a
    :class:`~pytest_quantgate.errors.CellError`, the cell's verdict. Where the dataclass has a
    property ``notes``, these lines stand under the table. ``judge`` takes what was observed, the
    limits, the baseline and the look, and returns judgements. Metrics without ``measure`` are read
    off the cell's chunks or its file.

    ``figures`` are numbers of the measurement that stand in tables and in upgrade reports. Tables
    of its own a metric has by ``columns``, which takes the cells' records, and its numbers beside
    a test's result by ``properties``, which takes the measurement. ``asked_by`` is the test of the
    built-in suite that asks for it. ``borrows`` are keywords that name limits of other metrics.

    ``by_chunk``: needs the text's chunks. ``of_shapes``: does not depend on the weights' values.
    ``in_baseline``: belongs to a whole baseline of a cell; others add sections of their own.
    ``is_kept``: the same file, engine, hardware and settings give the same again, so that a later
    run need not measure. ``is_compared``: an old engine is asked for it too.
    ``needs_baseline``: holds its limits against a stored baseline.
    """

    name: str
    marker: str
    help: str
    judge: str
    measure: str | None = None
    measurement: str | None = None
    limits: tuple[Limit, ...] = ()
    borrows: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    columns: str | None = None
    properties: str | None = None
    asked_by: str | None = None
    by_chunk: bool = False
    of_shapes: bool = False
    in_baseline: bool = False
    is_kept: bool = False
    is_compared: bool = False
    needs_baseline: bool = True

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that the keyword ``phase`` chooses from; none where there is one figure."""
        return tuple(dict.fromkeys(limit.phase for limit in self.limits if limit.phase))

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that set a limit."""
        own = (limit.keyword for limit in self.limits if limit.keyword)
        return tuple(dict.fromkeys([*own, *self.borrows]))

    @property
    def all_keywords(self) -> tuple[str, ...]:
        """All keywords."""
        return ("phase", *self.keywords) if self.phases else self.keywords

    @property
    def signature(self) -> str:
        """The keywords, as ``pytest --markers`` shows them."""
        return f"({', '.join(f'{keyword}=None' for keyword in self.all_keywords)})"

    def limit_of(self, keyword: str, phase: str | None = None) -> str:
        """Return the name of the limit that a keyword sets."""
        if keyword in self.borrows:
            return self.borrows[keyword]
        return next(x.name for x in self.limits if (x.keyword, x.phase) == (keyword, phase))
