"""Which releases of llama-cpp-python there are between two."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_quantgate.errors import ConfigError

PACKAGE = "llama-cpp-python"
_VERSION = f"import importlib.metadata as m, json; print(json.dumps(m.version({PACKAGE!r})))"
_PLAIN = re.compile(r"\d+(\.\d+)+")


def installed_releases(pythons: Iterable[Path]) -> dict[str, Path]:
    """Return interpreters by the release that each has.

    Raises:
        ConfigError: one cannot be started or has none.

    """
    found = {}
    for python in pythons:
        try:
            done = subprocess.run(
                [str(python), "-c", _VERSION], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(
                f"--python {python}: it has no {PACKAGE}; give the interpreter of an environment"
                " that has"
            ) from error
        found[str(json.loads(done.stdout))] = python
    return found


def listed_releases() -> list[str]:
    """Return the releases that pip's index has.

    Raises:
        ConfigError: pip cannot say.

    """
    command = [sys.executable, "-m", "pip", "index", "versions", PACKAGE, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        versions: list[str] = json.loads(done.stdout)["versions"]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"pip cannot list the releases of {PACKAGE} (pip index versions {PACKAGE} --json, pip"
            " 25 or later); name those that are installed, each as --python PATH/bin/python"
        ) from error
    return versions


def releases_between(good: str, bad: str, given: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the releases from a good to a bad one in order, of the given ones if there are any.

    Raises:
        ConfigError: an end is no release among them, or the ends are in the wrong order.

    """
    names = sorted(filter(_PLAIN.fullmatch, given or listed_releases()), key=_order)
    for name in (good, bad):
        if name not in names:
            raise ConfigError(f"{name!r} is none of the releases {', '.join(names)}")
    if _order(good) >= _order(bad):
        raise ConfigError(f"{good} is not before {bad}; name the good release first")
    return tuple(names[names.index(good) : names.index(bad) + 1])


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
