"""Numbers as the configuration and the markers write them, times as reports do; a table's base."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Table(BaseModel):
    """Base of all tables: a key that is not declared is an error, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_relative(value: object) -> float:
    """Read a relative change: ``"+5%"`` is 0.05, ``"-10%"`` is −0.10, a number is itself.

    Raises:
        ValueError: neither a number nor a percentage, or not finite.

    """
    number: float | None = None
    if isinstance(value, str):
        text = value.strip().replace("−", "-")
        try:
            number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            number = None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f'{value!r} is no relative change; write for example "+5%" or 0.05')
    return number


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"{value!r} is negative; an allowed increase is zero or more")
    return value


AllowedIncrease = Annotated[float, BeforeValidator(parse_relative), AfterValidator(_not_negative)]


def _by_domain(value: object) -> float | dict[str, float]:
    if not isinstance(value, Mapping):
        return _not_negative(parse_relative(value))
    if not value:
        raise ValueError('a table by domain names none; write for example {code = "+1%"}')
    return {str(name): _not_negative(parse_relative(item)) for name, item in value.items()}


AllowedIncreaseByDomain = Annotated[float | Mapping[str, float], BeforeValidator(_by_domain)]


def _decrease(value: float) -> float:
    if not -1 < value <= 0:
        raise ValueError(f'{value!r} is no allowed decrease; write for example "-10%" or -0.1')
    return value


AllowedDecrease = Annotated[float, BeforeValidator(parse_relative), AfterValidator(_decrease)]


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    if value <= 0:
        raise ValueError(f"{value!r} is not above zero")
    return float(value)


Positive = Annotated[float, BeforeValidator(_positive)]


def _fraction(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{value!r} is no share above 0 and up to 1")
    return value


Fraction = Annotated[float, BeforeValidator(_positive), AfterValidator(_fraction)]


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share from 0 to 1")
    return value


FallbackShare = Annotated[float, BeforeValidator(parse_relative), AfterValidator(_share)]


def _positive_margin(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f'{value!r} is no margin; write for example "10%" or 0.1')
    return value


Margin = Annotated[float, BeforeValidator(parse_relative), AfterValidator(_positive_margin)]


_LENGTHS = range(8, (1 << 20) + 1)


def _lengths(value: object) -> tuple[object, ...]:
    lengths = tuple(value) if isinstance(value, list | tuple) else (value,)
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int) or length not in _LENGTHS:
            raise ValueError(
                f"{length!r} is no number of tokens; write whole ones greater than or equal to"
                f" {_LENGTHS[0]} and up to {_LENGTHS[-1]:,}"
            )
    return lengths


Lengths = Annotated[tuple[int, ...], BeforeValidator(_lengths)]
"""Tokens in a chunk: a number, or several."""


def parse_processors(text: str) -> tuple[int, ...]:
    """Read a list of processors as Linux writes it: ``"0-3,8"`` is 0, 1, 2, 3 and 8.

    Raises:
        ValueError: it is none.

    """
    processors: set[int] = set()
    for item in text.split(","):
        match = _PROCESSORS.fullmatch(item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f'cpus = {text!r} lists no processors; write for example "0-7,16-23"')
        processors.update(range(first, last + 1))
    return tuple(sorted(processors))


_PROCESSORS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def duration(seconds: float) -> str:
    """Return a time as reports write it: ``0.4 s``, ``12 s``, ``4.5 min``, ``2.3 h``."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 59.5:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"
