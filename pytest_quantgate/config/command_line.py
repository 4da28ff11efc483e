"""Names for what a profile or the command line gives by its path or source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.storage.environment import path_below

_PREFIXES = ("package:", "embedded:", "shape:", "hf:")


def as_named(
    kind: str,
    values: tuple[str, ...],
    known: Iterable[str],
    suffixes: tuple[str, ...],
    root: Path,
) -> dict[str, str]:
    """Return the values that are no known name but a source, each under a name of its own.

    Args:
        kind: ``model``, ``text`` or ``imatrix``, the option's name without ``--quant-``.
        values: names and sources.
        known: the names that the configuration has.
        suffixes: how the files of this kind end.
        root: the folder that relative paths start from.

    Raises:
        ConfigError: a path without a file, or two sources whose files have one name.

    """
    named: dict[str, str] = {}
    for value in values:
        has_prefix = value.startswith(_PREFIXES)
        if value in known or not (has_prefix or value.endswith(suffixes)):
            continue
        if not has_prefix:
            _check_file(kind, value, suffixes, root)
        plain = value.partition("@")[0] if value.startswith("hf:") else value
        stem = Path(plain.partition(":")[2] or plain).name
        for suffix in suffixes:
            stem = stem.removesuffix(suffix)
        name = re.sub(r"[^A-Za-z0-9_.+]+", "-", stem).strip("-") or "model"
        same = next((item for item in values if item in (name, *_sources_of(named, name))), None)
        if same is not None:
            table = "imatrices" if kind == "imatrix" else f"{kind}s"
            raise ConfigError(
                f"--quant-{kind} {value!r} and {same!r} are both called {name!r}; give one another"
                f" name as [tool.quantgate.{table}.NAME]"
            )
        named[value] = name
    return named


def _sources_of(named: Mapping[str, str], name: str) -> list[str]:
    return [source for source, other in named.items() if other == name]


def _check_file(kind: str, value: str, suffixes: tuple[str, ...], root: Path) -> None:
    """Refuse a path that leads nowhere, with the one that was perhaps meant."""
    path = path_below(root, value.removeprefix("path:"))
    if path.is_file():
        return
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = sorted(item.name for item in beside if item.name.endswith(suffixes))
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f" (did you mean {str(Path(value).with_name(close[0]))!r}?)" if close else ""
    raise ConfigError(f"--quant-{kind} {value!r}: there is no file {path}; check the path{hint}")
