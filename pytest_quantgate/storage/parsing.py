"""Reads what a file says and nobody vouches for: JSON, and what models refuse, in one line."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError

_MOST_CHARACTERS = 200


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def parse_json(text: str | bytes) -> Any:
    """Read JSON in which every number is one.

    Raises:
        ValueError: no JSON, nested too deeply, or with NaN or Infinity: a comparison with those
            says nothing.

    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def first_problem(error: ValidationError) -> str:
    """Describe in one line what a model refused first, and where."""
    first = error.errors()[0]
    where = ".".join(str(name) for name in first["loc"])
    text = f"{where}: {first['msg']}" if where else first["msg"]
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"
