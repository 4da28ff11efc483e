"""The project's baselines: which cells have one, and which files nobody can use."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Models, Project
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import BUILT_IN_PROFILES, Settings, load_settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import expand_sources
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.results.baseline import VERSION, Baseline, Key
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.baseline_store import Store, file_name
from pytest_quantgate.storage.parsing import parse_json

_CPU = "cpu"
_STORE_ANEW = '--snapshot-update --quant-reason "WHY"'
_SHOWN = 3


class _Kind(StrEnum):
    """What a file in the project's folder is; the value is its name among the facts."""

    IN_USE = "in_use"
    ELSEWHERE = "elsewhere"
    NOT_EXAMINED = "not_examined"
    OTHER_SETTINGS = "other_settings"
    ORPHAN = "orphans"
    OTHER_SCHEMA = "other_schema"
    DAMAGED = "damaged"
    OTHER_SOURCE = "other_source"


_LABELS = {
    _Kind.IN_USE: "in use",
    _Kind.ELSEWHERE: "of another host's device, kept",
    _Kind.NOT_EXAMINED: "of models that are not here, not examined",
    _Kind.OTHER_SETTINGS: "of other settings",
    _Kind.ORPHAN: "orphans",
    _Kind.OTHER_SCHEMA: "of another schema",
    _Kind.DAMAGED: "damaged",
    _Kind.OTHER_SOURCE: "of another source",
}


@dataclass(kw_only=True)
class _Sorted:
    """The files of the project's folder by their kind; one of another source is in use as well.

    ``reasons`` say why a damaged one is, ``sources`` the model of one of another source, and
    ``not_hashed`` has the models that are too large to be hashed here.
    """

    paths: dict[_Kind, list[Path]] = field(default_factory=lambda: {kind: [] for kind in _Kind})
    reasons: dict[Path, str] = field(default_factory=dict)
    sources: dict[Path, str] = field(default_factory=dict)
    not_hashed: set[str] = field(default_factory=set)

    def damaged(self, path: Path, reason: str) -> None:
        """Add a file that is damaged."""
        self.paths[_Kind.DAMAGED].append(path)
        self.reasons[path] = reason


def examine_stored(section: Section, project: Project) -> None:
    """Compare the project's baselines with the cells of every profile of the configuration.

    A built-in profile counts too: its baselines may stand in the project. One of another host's
    device is no orphan: this host may not have it.
    """
    settings, models = project.settings, project.models
    expected: dict[str, frozenset[Key]] = {}
    lacking: set[Key] = set()
    own = sorted({settings.profile_name, *settings.other_profiles})
    for name in dict.fromkeys((*own, *BUILT_IN_PROFILES)):
        try:
            of_profile = settings
            if name != settings.profile_name:
                of_profile = load_settings(settings.root, Overrides(profile=name))
            cells = expand_sources(of_profile, models.sources(of_profile))
            expected[name] = frozenset(key_of_cell(of_profile, cell) for cell in cells)
        except ConfigError as problem:
            section.find(Severity.ERROR, problem, lead=f"profile {name!r}: ")
            continue
        if name in own:
            store = Store(of_profile.baselines_dir, use_shipped=of_profile.uses_built_in_profile)
            missing = {key for key in expected[name] if not store.has_any([key])}
            lacking |= missing
            _profile(section, of_profile, len(expected[name]), len(missing))
    folder = settings.baselines_dir
    files = _sort(folder, settings, models, frozenset().union(*expected.values()), lacking)
    _summarize(section, folder, files)
    _report_problems(section, settings.root, files)
    section.facts["folder"] = str(folder)
    section.facts |= {
        str(kind): [path.relative_to(folder).as_posix() for path in paths]
        for kind, paths in files.paths.items()
    }
    section.facts["cells"] = {name: len(keys) for name, keys in expected.items()}


def _profile(section: Section, settings: Settings, n_cells: int, n_missing: int) -> None:
    """Count a profile's cells with a baseline; report what a gated one lacks."""
    name = settings.profile_name
    if settings.profile.against is not None:
        against = settings.profile.against
        section.say(f"profile {name}: {n_cells} cells, held against engine {against}")
        return
    gates = settings.profile.gate or n_missing < n_cells
    if gates and n_missing:
        section.warn(
            f"profile {name!r}: {n_missing} of {n_cells} cells have no baseline and will be"
            " NO_BASELINE",
            f"pytest --quant-matrix --quant-profile {name} {_STORE_ANEW}",
        )
    state = "gated" if gates else "not gated: a run measures, and is green"
    n_stored = n_cells - n_missing
    section.say(f"profile {name}: {n_stored} of {n_cells} cells have a baseline ({state})")


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
    files = _Sorted()
    by_file = {file_name(key): key for key in expected}
    others = {_without_device(key) for key in expected}
    missing = {
        name for name in settings.models if not isinstance(models.find(settings, name), Model)
    }
    hashes = _Hashes(settings, models, files.not_hashed)
    for path in sorted(folder.glob("*/*.json")):
        baseline = _read(path, files)
        if baseline is None:
            continue
        key = baseline.key
        if file_name(key) != path.relative_to(folder).as_posix():
            files.damaged(path, "it is of another cell: copied or renamed by hand")
            continue
        if by_file.get(file_name(key)) == key:
            kind = _Kind.IN_USE
            if hashes.is_other(baseline):
                files.paths[_Kind.OTHER_SOURCE].append(path)
                files.sources[path] = key.model
        elif not key.device_kind.startswith(_CPU) and _without_device(key) in others:
            kind = _Kind.ELSEWHERE
        elif key.model in missing:
            kind = _Kind.NOT_EXAMINED
        elif any(key.is_of_cell_of(other) for other in lacking):
            kind = _Kind.OTHER_SETTINGS
        else:
            kind = _Kind.ORPHAN
        files.paths[kind].append(path)
    return files


def _read(path: Path, files: _Sorted) -> Baseline | None:
    """Read a file, or put it where it belongs; a file of published claims belongs nowhere."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        files.damaged(path, f"it cannot be read: {problem}")
        return None
    try:
        raw = parse_json(text)
    except ValueError:
        raw = None
    if isinstance(raw, dict):
        if "claims" in raw and "key" not in raw:
            return None
        if raw.get("version") != VERSION and isinstance(raw.get("version"), int):
            files.paths[_Kind.OTHER_SCHEMA].append(path)
            return None
    try:
        return parse(text, path.name)
    except ConfigError as problem:
        files.damaged(path, str(problem))
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
        """Return whether a baseline is of other bytes than the model's source has now."""
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


def _summarize(section: Section, folder: Path, files: _Sorted) -> None:
    counts = [f"{len(paths)} {_LABELS[kind]}" for kind, paths in files.paths.items() if paths]
    section.say(f"{folder}: {', '.join(counts) or 'none are stored there'}")
    section.say(*(f"  orphan {path.relative_to(folder)}" for path in files.paths[_Kind.ORPHAN]))
    if files.not_hashed:
        section.say(
            "  too large to be hashed here, so the source of its baselines was not compared:"
            f" {', '.join(sorted(files.not_hashed))}"
        )


def _report_problems(section: Section, root: Path, files: _Sorted) -> None:
    store_anew = f"pytest --quant-matrix {_STORE_ANEW}"
    paths = files.paths
    if paths[_Kind.ORPHAN]:
        section.warn(
            f"{_named(root, paths[_Kind.ORPHAN])}: of no cell of any profile",
            _remove(paths[_Kind.ORPHAN]),
        )
    if paths[_Kind.OTHER_SETTINGS]:
        section.error(
            f"{_named(root, paths[_Kind.OTHER_SETTINGS])}: of settings that no profile has any"
            " more, and the cells have no other: NOT_COMPARABLE; set n_ctx, the text, flash"
            " attention and KV types back, or store new ones",
            store_anew,
        )
    if paths[_Kind.OTHER_SCHEMA]:
        section.error(
            f"{_named(root, paths[_Kind.OTHER_SCHEMA])}: not of schema version {VERSION}, the one"
            " that this release reads; store them anew, or install the release that wrote them",
            store_anew,
        )
    for path in paths[_Kind.DAMAGED]:
        section.error(f"{_named(root, [path])} is damaged: {files.reasons[path]}", store_anew)
    if paths[_Kind.OTHER_SOURCE]:
        names = sorted(set(files.sources.values()))
        section.error(
            f"{_named(root, paths[_Kind.OTHER_SOURCE])}: of another source of {', '.join(names)}"
            " than the one that is there now: NOT_COMPARABLE",
            f"pytest --quant-matrix --quant-model {','.join(names)} {_STORE_ANEW}",
        )


def _named(root: Path, paths: Sequence[Path]) -> str:
    shown = ", ".join(_relative(root, path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"baseline{'s' if len(paths) > 1 else ''} {shown}{more}"


def _relative(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _remove(paths: Sequence[Path]) -> str:
    """Return the command that deletes files from here, whole folders as such."""
    words = []
    for folder in dict.fromkeys(path.parent for path in paths):
        orphans = [path for path in paths if path.parent == folder]
        words += [folder] if set(orphans) == set(folder.iterdir()) else orphans
    return shlex.join(["rm", "-r", "--", *(_relative(Path.cwd(), path) for path in words)])
