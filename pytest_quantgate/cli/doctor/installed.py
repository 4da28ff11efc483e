"""What is installed: this package, what it needs, the extras, the platform, the user."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pytest_quantgate import __version__
from pytest_quantgate.cli.doctor.findings import Section

PORTABLE = 'CMAKE_ARGS="-DGGML_NATIVE=OFF"'
"""What llama-cpp-python is compiled with so that it runs on every CPU of its kind."""

_DISTRIBUTION = "pytest-quantgate"
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)\s*(?P<bounds>[^;]*?)\s*(?:;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?$"
)
_LEAST = re.compile(r"(?:>=|==)\s*([\d.]+)")
_COMPILED = "llama-cpp-python"


def examine_installed(section: Section, versions: Mapping[str, str] | None = None) -> None:
    """Compare what is installed with what this package requires.

    Args:
        section: takes the result.
        versions: the version of each installed distribution by its normalized name; None asks
            the interpreter.

    """
    place = f"{sys.platform}-{platform.machine()}"
    section.say(f"pytest-quantgate {__version__}, Python {platform.python_version()}, {place}")
    shown: dict[bool, list[str]] = {True: [], False: []}
    distributions: dict[str, str | None] = {}
    for needed in _requirements():
        version = distributions[needed.name] = _version(needed.name, versions)
        shown[needed.extra is None].append(f"{needed.name} {version or 'missing'}")
        is_old = version is not None and _release(version) < _release(needed.least)
        older = f"{needed.name} {version} is older than {needed.least}"
        if needed.extra is None and (version is None or is_old):
            least = f">={needed.least}" if needed.least else ""
            command = f'{sys.executable} -m pip install "{needed.name}{least}"'
            section.error(
                older if is_old else f"{needed.name} is not installed",
                f"{PORTABLE} {command}" if needed.name == _COMPILED else command,
            )
        elif is_old:
            section.warn(
                older, f'{sys.executable} -m pip install "pytest-quantgate[{needed.extra}]"'
            )
    if shown[True]:
        section.say(f"requires: {', '.join(shown[True])}", f"extras: {', '.join(shown[False])}")
    _examine_plugin(section)
    _examine_user(section)
    section.facts |= {
        "pytest-quantgate": __version__,
        "python": platform.python_version(),
        "platform": place,
        "distributions": distributions,
    }


@dataclass(frozen=True, kw_only=True)
class _Requirement:
    """A required distribution, its least version ("" for any) and the extra that it is of."""

    name: str
    least: str
    extra: str | None


def _requirements() -> list[_Requirement]:
    """Return what this package requires, the extras last."""
    try:
        texts = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = []
    for text in texts:
        match = _REQUIREMENT.match(text.strip())
        if match is not None:
            least = _LEAST.search(match["bounds"])
            requirements.append(
                _Requirement(
                    name=match["name"], least=least[1] if least else "", extra=match["extra"]
                )
            )
    return sorted(requirements, key=lambda item: (item.extra is not None, item.name.lower()))


def _version(name: str, versions: Mapping[str, str] | None) -> str | None:
    if versions is not None:
        return versions.get(re.sub("[-_.]+", "-", name).lower())
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: ``0.3.36.dev1`` is (0, 3, 36)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _examine_plugin(section: Section) -> None:
    """Report what keeps pytest from loading the plugin."""
    entries = {entry.name for entry in metadata.entry_points(group="pytest11")}
    if "quantgate" not in entries:
        section.error(
            f"pytest cannot load the plugin: this package is not installed in {sys.executable}",
            f"{sys.executable} -m pip install pytest-quantgate",
        )
    elif os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        section.warn(
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD is set, so pytest loads no plugin by itself",
            "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD",
        )


def _examine_user(section: Section) -> None:
    """Report a user without a name or a home, as in a container that runs as some number."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
        section.warn(
            "this user has no name here, neither in the environment nor in the system's list of"
            " users; what asks for one fails",
            "export USER=quantgate LOGNAME=quantgate",
        )
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if home is None or not home.is_dir():
        section.warn(
            f"this user has no home folder ({home or 'HOME is not set'}); the default cache and the"
            " hub's are in it: set HOME, or cache_dir and HF_HOME",
            "export HOME=/tmp",
        )
    section.facts |= {"has_user_name": bool(name), "has_home": home is not None and home.is_dir()}
