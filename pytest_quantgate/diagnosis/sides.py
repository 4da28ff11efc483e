"""The two sides of a comparison: a file, the engine that computes with it, and the conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.engines.messages.placement import CPU, read_placement
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import CACHE_TYPES, TENSOR_TYPES


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two computations.

    ``name`` is how a user calls the file; ``device`` a placement as a message carries it.
    """

    name: str
    path: Path
    engine: EngineSettings
    device: str = CPU
    n_threads: int = 1
    n_ubatch: int = 512
    flash_attention: bool = True
    type_k: str = "F16"
    type_v: str = "F16"
    repack: bool = True

    @property
    def description(self) -> str:
        """The file, and the conditions that are not the default ones."""
        plain = Side(name=self.name, path=self.path, engine=self.engine, n_threads=self.n_threads)
        other = (key for key in _READERS if getattr(self, key, None) != getattr(plain, key, None))
        return ", ".join([self.name, *(f"{key}={_word(getattr(self, key))}" for key in other)])


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _switch(word: str) -> bool:
    values = {"on": True, "off": False, "1": True, "0": False, "true": True, "false": False}
    if word.lower() not in values:
        raise ValueError("valid: on, off")
    return values[word.lower()]


def _number(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise ValueError("valid: whole numbers from 1")
    return int(word)


def _cache_type(word: str) -> str:
    if word.upper() not in CACHE_TYPES:
        raise ValueError(f"valid: {', '.join(CACHE_TYPES)}")
    return word.upper()


def _device(word: str) -> str:
    read_placement(word)
    return word


def _python(word: str) -> EngineSettings:
    return EngineSettings(python=word)


_READERS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        "device": _device,
        "n_threads": _number,
        "n_ubatch": _number,
        "flash_attention": _switch,
        "type_k": _cache_type,
        "type_v": _cache_type,
        "repack": _switch,
        "python": _python,
    }
)


def with_conditions(side: Side, text: str, option: str) -> Side:
    """Return a side under the conditions of ``KEY=VALUE,…``.

    Raises:
        ConfigError: an unknown key, or a value that it cannot have.

    """
    changes: dict[str, object] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = item.partition("=")
        if key not in _READERS or not equals:
            raise ConfigError(f"{option} {item!r}: write KEY=VALUE; keys: {', '.join(_READERS)}")
        try:
            changes["engine" if key == "python" else key] = _READERS[key](value)
        except ValueError as error:
            raise ConfigError(f"{option} {key}={value}: {error}") from error
    return replace(side, **changes)  # type: ignore[arg-type]  # each reader gives its field's type


def type_number(name: str) -> int:
    """Return ggml's number of a type."""
    return TENSOR_TYPES[name].number
