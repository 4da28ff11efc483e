"""Histories from run records, and from the baselines that a repository accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.baseline_diff import named_of_text
from pytest_quantgate.reports.history.cell_versions import Version, of_baseline, of_record
from pytest_quantgate.reports.history.series import (
    History,
    accepted_changes,
    make_series,
    measured_changes,
)
from pytest_quantgate.reports.words import count
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.engine_facts import EngineFacts
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.storage.git import FileChange, file_changes, is_shallow, read_blobs


def read_records(paths: Iterable[Path]) -> tuple[dict[str, RunRecord], tuple[str, ...]]:
    """Return the records of files and folders by name, and what was left out of the folders.

    Raises:
        ConfigError: a file that was named is no record, or there is none at all.

    """
    records: dict[Path, RunRecord] = {}
    left_out = []
    named = tuple(paths)
    for path in named:
        if not path.is_dir():
            records[path] = read_record(path)
            continue
        for inside in sorted(path.rglob("*.json")):
            try:
                records[inside] = read_record(inside)
            except ConfigError as error:
                left_out.append(f"left out: {error}")
    if not records:
        folders = ", ".join(map(str, named))
        raise ConfigError(
            f"there is no run record below {folders}; write some with pytest --quant-matrix"
            " --quant-report PATH.json"
        )
    return {name: records[path] for path, name in _short_names(records).items()}, tuple(left_out)


def _short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a file's name, with as many of its folders as tell it from the others."""
    given = tuple(paths)
    for depth in range(1, max(len(path.parts) for path in given) + 1):
        names = {path: str(Path(*path.parts[-depth:]).with_suffix("")) for path in given}
        if len(set(names.values())) == len(given):
            break
    return names


def history_of_records(records: dict[str, RunRecord], warnings: Sequence[str] = ()) -> History:
    """Return the history of runs, in the order in which they were started."""
    cells, versions = [], []
    for name, record in sorted(records.items(), key=lambda item: item[1].started):
        version = Version(name=name, when=record.started, engine=_engine(record))
        versions.append(version)
        cells += [of_record(cell, version) for cell in record.cells]
    return History(
        source=count(len(versions), "run record"),
        is_cumulative=False,
        versions=tuple(versions),
        series=make_series(cells, measured_changes),
        warnings=tuple(warnings),
    )


def _engine(record: RunRecord) -> str:
    engine = EngineFacts.read(record.engine)
    return " ".join(filter(None, (engine.kind, engine.version, engine.commit)))


def history_of_baselines(folder: Path) -> History:
    """Return the history of the accepted baselines in a folder, by the commits of its branch.

    Raises:
        ConfigError: no such folder, no repository of git, or no baseline was ever committed.

    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder of baselines {str(folder)!r} (baselines_dir); for a history of"
            " runs name their records: quantgate history RECORDS"
        )
    changes = [change for change in file_changes(folder) if _is_baseline(change.path)]
    contents = read_blobs(folder, (change.blob for change in changes if change.blob))
    stored: list[tuple[FileChange, Baseline]] = []
    warnings = [_shallow(changes[0])] if changes and is_shallow(folder) else []
    for change in changes:
        if not change.blob:
            continue
        name = f"{change.path} of {change.commit.short_id}"
        try:
            stored.append((change, parse(contents[change.blob].decode("utf-8"), name)))
        except (ConfigError, UnicodeDecodeError) as error:
            warnings.append(f"left out: {error}")
    if not stored:
        raise ConfigError(
            f"no baseline below {str(folder)!r} was ever committed; store some with pytest"
            " --quant-matrix --snapshot-update and commit them"
        )
    named = named_of_text(baseline.key for _, baseline in stored)
    versions = {
        change.commit.id: Version(
            name=change.commit.short_id, when=change.commit.when, subject=change.commit.subject
        )
        for change, _ in stored
    }
    cells = [
        of_baseline(baseline, versions[change.commit.id], named=named)
        for change, baseline in stored
    ]
    return History(
        source=f"baselines accepted in {count(len(versions), 'commit')}",
        is_cumulative=True,
        versions=tuple(versions.values()),
        series=make_series(cells, accepted_changes),
        warnings=tuple(warnings),
    )


def _is_baseline(path: str) -> bool:
    return path.endswith(".json") and not path.startswith("published/")


def _shallow(oldest: FileChange) -> str:
    return (
        f"this clone is shallow: the history begins at {oldest.commit.short_id}"
        f" ({oldest.commit.when[:10]}), whose baselines may be older; for all of it type"
        " git fetch --unshallow"
    )
