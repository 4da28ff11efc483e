"""What is installed: this package, what it needs, the extras, the interpreter, the platform."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata

from pytest_quantgate import __version__
from pytest_quantgate.cli.doctor.findings import Finding, Section, error, warning

NAME = "Installed"

PORTABLE = 'CMAKE_ARGS="-DGGML_NATIVE=OFF"'
"""What llama-cpp-python is compiled with so that it runs on every CPU of its kind."""

_DISTRIBUTION = "pytest-quantgate"
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)\s*(?P<bounds>[^;]*?)\s*(?:;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?$"
)
_LEAST = re.compile(r"(?:>=|==)\s*([\d.]+)")
_COMPILED = "llama-cpp-python"


def examine_installed(versions: Mapping[str, str] | None = None) -> Section:
    """Compare what is installed with what this package requires.

    Args:
        versions: the version of each installed distribution by its normalized name; None asks
            the interpreter.

    """
    lines = [f"pytest-quantgate {__version__}, Python {platform.python_version()}, {_platform()}"]
    findings: list[Finding] = []
    required: list[str] = []
    extras: list[str] = []
    facts: dict[str, str | None] = {}
    for name, least, extra in _requirements():
        version = _version(name, versions)
        facts[name] = version
        shown = f"{name} {version or 'missing'}"
        (required if extra is None else extras).append(shown)
        is_old = version is not None and least is not None and _release(version) < _release(least)
        if extra is None and (version is None or is_old):
            is_what = "is not installed" if version is None else f"{version} is older than {least}"
            command = f'{sys.executable} -m pip install "{name}>={least}"' if least else name
            if name == _COMPILED:
                command = f"{PORTABLE} {command}"
            findings.append(error(f"{name} {is_what}", command))
        elif is_old:
            command = f'{sys.executable} -m pip install "pytest-quantgate[{extra}]"'
            findings.append(warning(f"{name} {version} is older than {least}", command))
    if required:
        lines.append(f"requires: {', '.join(required)}")
        lines.append(f"extras: {', '.join(extras)}")
    findings += _plugin_findings()
    return Section(
        name=NAME,
        lines=tuple(lines),
        findings=tuple(findings),
        facts={
            "pytest-quantgate": __version__,
            "python": platform.python_version(),
            "platform": _platform(),
            "distributions": facts,
        },
    )


def _requirements() -> list[tuple[str, str | None, str | None]]:
    """Return each required distribution, its least version and the extra that it is of."""
    try:
        texts = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        match = _REQUIREMENT.match(text.strip())
        if match is not None:
            least = _LEAST.search(match["bounds"])
            found.append((match["name"], least[1] if least else None, match["extra"]))
    return sorted(found, key=lambda item: (item[2] is not None, item[0].lower()))


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
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _plugin_findings() -> list[Finding]:
    """Tell what keeps pytest from loading the plugin."""
    entries = {entry.name for entry in metadata.entry_points(group="pytest11")}
    if "quantgate" not in entries:
        return [
            error(
                "pytest does not know the plugin: this package is not installed in"
                f" {sys.executable}",
                f"{sys.executable} -m pip install pytest-quantgate",
            )
        ]
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        return [
            warning(
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD is set, so pytest loads no plugin by itself",
                "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD",
            )
        ]
    return []


def _platform() -> str:
    return f"{sys.platform}-{platform.machine()}"
