"""Names for what the command line gives by its path or source instead of by a name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.storage.environment import path_below

_PREFIXES = ("package:", "embedded:", "shape:", "hf:")


def as_named(
    option: str,
    values: tuple[str, ...] | None,
    known: Iterable[str],
    suffixes: tuple[str, ...],
    root: Path,
) -> dict[str, str]:
    """Return the values that are no known name but a source, each under a name of its own.

    Args:
        option: the option's name, without ``--quant-``.
        values: what it was given.
        known: the names that the configuration has.
        suffixes: how the files end that the option takes.
        root: the folder that relative paths start from.

    Raises:
        ConfigError: a path without a file.

    """
    named = {}
    for value in values or ():
        has_prefix = value.startswith(_PREFIXES)
        if value in known or not (has_prefix or value.endswith(suffixes)):
            continue
        if not has_prefix:
            _check_file(option, value, suffixes, root)
        plain = value.partition("@")[0] if value.startswith("hf:") else value
        stem = Path(plain.partition(":")[2] or plain).name
        for suffix in suffixes:
            stem = stem.removesuffix(suffix)
        named[value] = re.sub(r"[^A-Za-z0-9_.+]+", "-", stem).strip("-") or "model"
    return named


def _check_file(option: str, value: str, suffixes: tuple[str, ...], root: Path) -> None:
    """Refuse a path that leads nowhere, with the one that was perhaps meant."""
    path = path_below(root, value.removeprefix("path:"))
    if path.is_file():
        return
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = sorted(item.name for item in beside if item.name.endswith(suffixes))
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f" (did you mean {str(Path(value).with_name(close[0]))!r}?)" if close else ""
    raise ConfigError(f"--quant-{option} {value!r}: there is no file {path}; check the path{hint}")
