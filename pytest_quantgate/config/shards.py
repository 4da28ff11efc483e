"""Which part of a matrix a run is: ``--quant-shard K/N``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_quantgate.errors import ConfigError

_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read ``K/N``.

    Raises:
        ConfigError: it is not of that form, or K is not 1 to N.

    """
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(
            f"--quant-shard {text!r} is no part of a whole; write K/N with K from 1 to N, as 2/4"
        )
    return Shard(number=int(match[1]), count=int(match[2]))
