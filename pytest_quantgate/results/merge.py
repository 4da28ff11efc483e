"""Joins the run records of several jobs, the shards of one matrix, to the record of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.record import CellRecord, RunRecord, to_plain
from pytest_quantgate.results.stored_alone import StoredAlone, StoredPart

_ENGINE = ("kind", "version", "llama_cpp_version", "commit", "build_options", "system_info")
"""What makes two engines one: not their bytes, which differ from build to build by the names of
the compiler's folders, nor the machine's own facts."""

_MACHINES_SETTINGS = frozenset({"n_threads"})
"""Settings that a machine may choose, and that move no figure of quality."""


def join(records: Mapping[str, RunRecord]) -> RunRecord:
    """Join records, by the names of their files.

    The cells come in the order of the shards. ``missing`` says what the joined record lacks: a
    shard, or a cell that a shard should have judged. What the jobs' machines differ in, their
    processors, threads and the bytes of their libraries, is listed in ``warnings``; each cell's
    ``made_by`` has its own.

    Raises:
        ConfigError: no records; or two that are no parts of one run, or tell of one cell
            differently; in one line that says what differs.

    """
    if not records:
        raise ConfigError("there is no record to join")
    (first_name, first), *others = records.items()
    for name, record in others:
        difference = _difference(first, record)
        if difference is not None:
            what, there, here = difference
            raise ConfigError(
                f"{name} cannot be joined with {first_name}: {what} is {here!r} in the former,"
                f" {there!r} in the latter"
            )
    ordered = dict(sorted(records.items(), key=lambda item: _number(item[1])))
    cells = _union({name: record.cells for name, record in ordered.items()})
    return replace(
        first,
        engine={**first.engine, **_engine_names(ordered)},
        cells=cells,
        others=_union({name: record.others for name, record in ordered.items()}),
        started=min(record.started for record in records.values()),
        seconds_s=sum(record.seconds_s for record in records.values()),
        warnings=_warnings(ordered),
        stored_alone=_stored_alone(ordered, {cell.id for cell in cells}),
        command=first.command if len({r.command for r in records.values()}) == 1 else "",
        shard=None,
        missing=_missing(ordered, {cell.id for cell in cells}),
    )


def _number(record: RunRecord) -> int:
    return 0 if record.shard is None else record.shard.number


def _difference(one: RunRecord, other: RunRecord) -> tuple[str, object, object] | None:
    """Return what keeps two records apart: its name, and each one's value."""
    for what, find in _COMPARED.items():
        here, there = find(one), find(other)
        if here is None or there is None:
            continue
        for key in dict.fromkeys((*here, *there)):
            if here.get(key) != there.get(key):
                return f"{what}{key}", here.get(key), there.get(key)
    here, there = _sources(one), _sources(other)
    for model in here.keys() & there.keys():
        if here[model] != there[model]:
            return f"the hash of the source of model {model}", here[model], there[model]
    return None


def _sources(record: RunRecord) -> dict[str, str]:
    """Return each model's source: a record of before a model was replaced is of another run."""
    return {
        cell.model: cell.source_sha256 for cell in record.cells if cell.source_sha256 is not None
    }


def _engine_of(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what two jobs' engines must have in common; None where one could not be asked."""
    if facts is None:
        return {}
    return None if "error" in facts else {key: facts.get(key) for key in _ENGINE}


_COMPARED: Mapping[str, Callable[[RunRecord], dict[str, Any] | None]] = {
    "": lambda record: {
        "profile": record.profile,
        "gated": record.gated,
        "the number of shards": 1 if record.shard is None else record.shard.count,
        "the hash of the matrix": None if record.shard is None else record.shard.matrix_sha256,
    },
    "the setting ": lambda record: {
        key: value for key, value in record.settings.items() if key not in _MACHINES_SETTINGS
    },
    "the engine's ": lambda record: _engine_of(record.engine),
    "the old engine's ": lambda record: _engine_of(record.against),
}


def _union(parts: Mapping[str, tuple[CellRecord, ...]]) -> tuple[CellRecord, ...]:
    """Return all cells once.

    Raises:
        ConfigError: two parts tell of one cell, and not the same.

    """
    by_key: dict[tuple[str, str, str], tuple[str, CellRecord]] = {}
    for name, cells in parts.items():
        for cell in cells:
            key = (cell.id, cell.engine, cell.quantizer)
            before_name, before = by_key.setdefault(key, (name, cell))
            if _content(before) != _content(cell):
                raise ConfigError(
                    f"{name} cannot be joined with {before_name}: both have the cell {cell.id},"
                    " and not with the same result; leave one of the records out"
                )
    return tuple(cell for _, cell in by_key.values())


def _content(cell: CellRecord) -> str:
    """Return what a cell says, without how long it took; a NaN equals itself."""
    return json.dumps(to_plain(replace(cell, seconds_s=0.0, durations_s={})), sort_keys=True)


def _missing(records: Mapping[str, RunRecord], judged: set[str]) -> tuple[str, ...]:
    shards = [record.shard for record in records.values() if record.shard is not None]
    count = max((shard.count for shard in shards), default=0)
    numbers = {shard.number for shard in shards}
    lost = [f"shard {n}/{count}" for n in range(1, count + 1) if n not in numbers]
    expected = chain.from_iterable(shard.cells for shard in shards)
    return (*lost, *(cell for cell in dict.fromkeys(expected) if cell not in judged))


def _engine_names(records: Mapping[str, RunRecord]) -> dict[str, str]:
    """Return the processors of all jobs as one text, where an engine names them."""
    names = [str(name) for r in records.values() if (name := r.engine.get("cpu_name"))]
    return {"cpu_name": " and ".join(dict.fromkeys(names))} if names else {}


def _stored_alone(
    records: Mapping[str, RunRecord], judged: Collection[str]
) -> tuple[StoredAlone, ...]:
    """Return what no shard compared, each name once; a cell left out of one may be another's."""
    names: dict[StoredPart, dict[str, None]] = {}
    for item in chain.from_iterable(record.stored_alone for record in records.values()):
        known = judged if item.what is StoredPart.LEFT_OUT else ()
        left = (name for name in item.names if name not in known)
        names.setdefault(item.what, {}).update(dict.fromkeys(left))
    return tuple(StoredAlone(what=what, names=tuple(each)) for what, each in names.items() if each)


def _warnings(records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    warnings: list[str] = []
    for record in records.values():
        warnings += record.warnings
    machine = {
        "the jobs ran on different processors, and a build may round differently on each": {
            name: record.engine.get("cpu_name") for name, record in records.items()
        },
        "the jobs had different numbers of threads": {
            name: record.settings.get("n_threads") for name, record in records.items()
        },
        "the jobs' engines were built apart, their libraries are not the same bytes": {
            name: str(record.engine.get("library_sha256") or "")[:12] or None
            for name, record in records.items()
        },
    }
    for what, values in machine.items():
        known = {name: value for name, value in values.items() if value is not None}
        if len(set(known.values())) > 1:
            each = ", ".join(f"{value} ({name})" for name, value in known.items())
            warnings.append(f"{what}: {each}")
    return tuple(dict.fromkeys((*warnings, *_apart(records))))


def _apart(records: Mapping[str, RunRecord]) -> Iterator[str]:
    """Name the cells whose reference gave other values on the machine of another job."""
    groups: dict[tuple[object, ...], dict[str | None, str]] = {}
    for name, record in records.items():
        for cell in record.cells:
            control = (
                cell.per_token_sha256 if cell.is_reference else cell.reference_per_token_sha256
            )
            if control is not None:
                key = (cell.model, cell.reference, cell.device, cell.text_name, cell.engine)
                groups.setdefault((*key, cell.chunks.index), {}).setdefault(control, name)
    for (model, reference, device, *_), by_control in groups.items():
        if len(by_control) > 1:
            yield (
                f"{model} on {device}: {reference} has other values in"
                f" {' and '.join(by_control.values())}, so that their figures do not compare bit"
                " for bit; run both shards on equal machines"
            )
