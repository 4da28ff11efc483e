"""The templates: everything that they write is escaped."""

from __future__ import annotations

import functools

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of all pages."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_quantgate.reports.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["kind"] = lambda item: type(item).__name__
    return made
