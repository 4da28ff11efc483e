"""Reading ``[tool.quantgate]``, and errors in it as one line."""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_quantgate.config.schema import (
    Tables,
)
from pytest_quantgate.config.values import Table
from pytest_quantgate.errors import ConfigError


def _tables_of(annotation: object) -> type[Table] | None:
    """Return the table class inside an annotation such as ``Mapping[str, Limits]``."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    for argument in typing.get_args(annotation):
        if not isinstance(argument, types.EllipsisType):
            table = _tables_of(argument)
            if table is not None:
                return table
    return None


def _valid_keys(location: Iterable[str | int]) -> list[str]:
    """Return the keys that are valid in the table at a location, a validation error's ``loc``."""
    table: type[Table] = Tables
    for part in location:
        fields = table.model_fields
        if isinstance(part, str) and part in fields:
            table = _tables_of(fields[part].annotation) or table
    return sorted(table.model_fields)


def one_line(error: ValidationError, prefix: str) -> str:
    """Return the first problem of a table, with the keys that are valid where one is unknown."""
    first = error.errors()[0]
    location = first["loc"]
    where = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        key, table = str(location[-1]), ".".join(str(part) for part in location[:-1])
        valid = _valid_keys(location[:-1])
        close = difflib.get_close_matches(key, valid, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        text = (
            f"[{prefix}{'.' + table if table else ''}] has the unknown key {key!r}{hint};"
            f" valid: {', '.join(valid)}"
        )
    elif first["type"] == "missing":
        text = f"[{prefix}] {where} is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        value = f" = {given!r}" if isinstance(given, str | int | float) else ""
        text = f"[{prefix}] {where}{value}: {message}"
    more = error.error_count() - 1
    return f"{text} (and {more} more)" if more else text


def read_tables(root: Path) -> Tables:
    """Read ``[tool.quantgate]`` of ``root/pyproject.toml``; without one, the defaults.

    Raises:
        ConfigError: a file that is not TOML, a wrong key, a wrong value.

    """
    path = root / "pyproject.toml"
    raw: Any = {}
    if path.is_file():
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no valid TOML: {error}") from error
        raw = raw.get("tool", {}).get("quantgate", {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: tool.quantgate is no table but {raw!r}")
    try:
        return Tables.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(one_line(error, "tool.quantgate")) from error
