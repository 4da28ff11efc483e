"""The project's baselines: which cells have one, and which files nobody can use."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.cli.doctor.findings import Finding, Section, error, warning
from pytest_quantgate.cli.doctor.inputs import Models
from pytest_quantgate.config.settings import BUILT_IN_PROFILES, Overrides, Settings, load_settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import expand_sources
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.results.baseline import VERSION, Baseline, Key, parse
from pytest_quantgate.results.baseline_store import Store, file_name

NAME = "Baselines"

_CPU = "cpu"
_STORE_ANEW = '--snapshot-update --quant-reason "WHY"'
_SHOWN = 3


@dataclass(kw_only=True)
class _Sorted:
    """The files of the project's folder, by what is to be said of them."""

    used: dict[Path, Baseline] = field(default_factory=dict)
    elsewhere: list[Path] = field(default_factory=list)
    unsure: list[Path] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    other_settings: list[Path] = field(default_factory=list)
    other_versions: list[Path] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)
    other_sources: list[Path] = field(default_factory=list)
    not_hashed: set[str] = field(default_factory=set)


def examine_stored(settings: Settings, models: Models) -> Section:
    """Hold the project's baselines against the cells of every profile of the configuration.

    A built-in profile counts too: its baselines may stand in the project. One of another host's
    device is nobody's orphan: this host may not have it.
    """
    lines: list[str] = []
    findings: list[Finding] = []
    expected: dict[str, frozenset[Key]] = {}
    lacking: set[Key] = set()
    own = sorted({settings.profile_name, *settings.other_profiles})
    for name in dict.fromkeys((*own, *BUILT_IN_PROFILES)):
        try:
            found = settings
            if name != settings.profile_name:
                found = load_settings(settings.root, Overrides(profile=name))
            cells = expand_sources(found, models.sources(found))
            expected[name] = frozenset(key_of_cell(found, cell) for cell in cells)
        except ConfigError as problem:
            findings.append(error(f"profile {name!r}: {problem}"))
            continue
        if name in own:
            store = Store(found.baselines_dir, use_shipped=found.uses_built_in_profile)
            missing = {key for key in expected[name] if not store.has_any([key])}
            lacking |= missing
            lines.append(_profile_line(found, len(expected[name]), len(missing), findings))
    folder = settings.baselines_dir
    files = _sort(folder, settings, models, frozenset().union(*expected.values()), lacking)
    lines += _lines(folder, files)
    findings += _findings(settings, files)
    return Section(
        name=NAME,
        lines=tuple(lines),
        findings=tuple(findings),
        facts=_facts(folder, files, expected),
    )


def _profile_line(settings: Settings, n_cells: int, n_missing: int, findings: list[Finding]) -> str:
    """Count a profile's cells with a baseline; say what a gated one lacks."""
    name = settings.profile_name
    if settings.profile.against is not None:
        return f"profile {name}: {n_cells} cells, held against engine {settings.profile.against}"
    gates = settings.profile.gate or n_missing < n_cells
    if gates and n_missing:
        findings.append(
            warning(
                f"profile {name!r}: {n_missing} of {n_cells} cells have no baseline and will be"
                " NO_BASELINE",
                f"pytest --quant-matrix --quant-profile {name} {_STORE_ANEW}",
            )
        )
    state = "gated" if gates else "not gated: a run measures, and is green"
    return f"profile {name}: {n_cells - n_missing} of {n_cells} cells have a baseline ({state})"


def _sort(
    folder: Path,
    settings: Settings,
    models: Models,
    expected: frozenset[Key],
    lacking: Collection[Key],
) -> _Sorted:
    """Sort the files of a folder.

    Args:
        folder: the project's own.
        settings: for the models' sources.
        models: finds them.
        expected: the keys of all profiles.
        lacking: those of the configuration's profiles that have no baseline.

    """
    found = _Sorted()
    by_file = {file_name(key): key for key in expected}
    others = {_without_device(key) for key in expected}
    missing = {name for name in settings.models if isinstance(models.find(settings, name), str)}
    hashes = _Hashes(settings, models, found.not_hashed)
    for path in sorted(folder.glob("*/*.json")):
        baseline = _read(path, found)
        if baseline is None:
            continue
        key = baseline.key
        if file_name(key) != path.relative_to(folder).as_posix():
            found.damaged[path] = "it is of another cell: copied or renamed by hand"
        elif by_file.get(file_name(key)) == key:
            found.used[path] = baseline
            if hashes.is_other(baseline):
                found.other_sources.append(path)
        elif not key.device_kind.startswith(_CPU) and _without_device(key) in others:
            found.elsewhere.append(path)
        elif key.model in missing:
            found.unsure.append(path)
        elif any(key.is_of_cell_of(other) for other in lacking):
            found.other_settings.append(path)
        else:
            found.orphans.append(path)
    return found


def _read(path: Path, found: _Sorted) -> Baseline | None:
    """Read a file, or put it where it belongs; a file of published claims belongs nowhere."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        found.damaged[path] = f"it cannot be read: {problem}"
        return None
    try:
        raw: Any = json.loads(text)
    except ValueError:
        raw = None
    if isinstance(raw, dict):
        if "claims" in raw and "key" not in raw:
            return None
        if raw.get("version") != VERSION and isinstance(raw.get("version"), int):
            found.other_versions.append(path)
            return None
    try:
        return parse(text, path.name)
    except ConfigError as problem:
        found.damaged[path] = str(problem)
        return None


def _without_device(key: Key) -> Key:
    return key.model_copy(update={"device_kind": ""})


class _Hashes:
    """The SHA-256 of the models' sources, as far as they are known or quickly found."""

    def __init__(self, settings: Settings, models: Models, not_hashed: set[str]) -> None:
        self._settings = settings
        self._models = models
        self._not_hashed = not_hashed

    def is_other(self, baseline: Baseline) -> bool:
        """Tell whether a baseline is of other bytes than the model's source has now."""
        name, stored = baseline.key.model, baseline.source_sha256
        model = self._models.find(self._settings, name)
        if stored is None or not isinstance(model, Model) or model.source is None:
            return False
        if model.shape is not None:
            return model.shape.sha256 != stored
        digest = self._models.hash_like(model.source, stored)
        if digest is None:
            self._not_hashed.add(name)
        return digest not in {None, stored}


def _lines(folder: Path, files: _Sorted) -> list[str]:
    counts = {
        "in use": len(files.used),
        "of another host's device, kept": len(files.elsewhere),
        "of models that are not here, not examined": len(files.unsure),
        "of other settings": len(files.other_settings),
        "orphans": len(files.orphans),
        "of another schema": len(files.other_versions),
        "damaged": len(files.damaged),
        "of another source": len(files.other_sources),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    lines = [f"{folder}: {told or 'none are stored there'}"]
    lines += [f"  orphan {path.relative_to(folder)}" for path in files.orphans]
    if files.not_hashed:
        lines.append(
            f"  too large to be hashed here, so the source of its baselines was not compared:"
            f" {', '.join(sorted(files.not_hashed))}"
        )
    return lines


def _findings(settings: Settings, files: _Sorted) -> list[Finding]:
    root, findings = settings.root, []
    if files.orphans:
        findings.append(
            warning(
                f"{_named(root, files.orphans)}: of no cell of any profile",
                _remove(root, files.orphans),
            )
        )
    if files.other_settings:
        findings.append(
            error(
                f"{_named(root, files.other_settings)}: of settings that no profile has any more,"
                " and the cells have no other: NOT_COMPARABLE; set n_ctx, the text, flash attention"
                " and KV types back, or store new ones",
                f"pytest --quant-matrix {_STORE_ANEW}",
            )
        )
    if files.other_versions:
        findings.append(
            error(
                f"{_named(root, files.other_versions)}: not of schema version {VERSION}, the one"
                " that this release reads; store them anew, or install the release that wrote them",
                f"pytest --quant-matrix {_STORE_ANEW}",
            )
        )
    for path, why in files.damaged.items():
        findings.append(
            error(
                f"{_named(root, [path])} is damaged: {why}", f"pytest --quant-matrix {_STORE_ANEW}"
            )
        )
    if files.other_sources:
        names = sorted({files.used[path].key.model for path in files.other_sources})
        findings.append(
            error(
                f"{_named(root, files.other_sources)}: of another source of {', '.join(names)} than"
                " the one that is there now: NOT_COMPARABLE",
                f"pytest --quant-matrix --quant-model {','.join(names)} {_STORE_ANEW}",
            )
        )
    return findings


def _named(root: Path, paths: Sequence[Path]) -> str:
    shown = ", ".join(_relative(root, path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"baseline{'s' if len(paths) > 1 else ''} {shown}{more}"


def _relative(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _remove(root: Path, paths: Sequence[Path]) -> str:
    """Return the command that deletes files, whole folders as such."""
    words = []
    for folder in dict.fromkeys(path.parent for path in paths):
        mine = [path for path in paths if path.parent == folder]
        words += [folder] if set(mine) == set(folder.iterdir()) else mine
    is_tracked = any((parent / ".git").exists() for parent in (root, *root.parents))
    command = ["git", "rm", "-r", "--"] if is_tracked else ["rm", "-r", "--"]
    return shlex.join([*command, *(_relative(root, path) for path in words)])


def _facts(folder: Path, files: _Sorted, expected: Mapping[str, Iterable[Key]]) -> dict[str, Any]:
    def plain(paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(folder).as_posix() for path in paths]

    return {
        "folder": str(folder),
        "in_use": plain(files.used),
        "elsewhere": plain(files.elsewhere),
        "not_examined": plain(files.unsure),
        "other_settings": plain(files.other_settings),
        "orphans": plain(files.orphans),
        "other_schema": plain(files.other_versions),
        "damaged": plain(files.damaged),
        "other_source": plain(files.other_sources),
        "cells": {name: len(list(keys)) for name, keys in expected.items()},
    }
