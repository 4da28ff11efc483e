"""The templates: everything that they write is escaped."""

from __future__ import annotations

import functools

import jinja2
from markupsafe import Markup

from pytest_quantgate.reports.words import printable


def _finalize(value: object) -> object:
    """Show control codes; what a macro returned is written already."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(str(value)) if is_text else value


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of all pages."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_quantgate.reports.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters["kind"] = lambda item: type(item).__name__
    return made
