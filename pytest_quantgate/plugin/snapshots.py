"""Writes baselines as syrupy snapshots, so that ``--snapshot-update`` is syrupy's own.

syrupy takes every file in a snapshot folder that no test of this run asked for as unused, and
an update would delete it. Baselines of cells that were not run (another host's GPU) must stay,
so this extension discovers nothing; ``quantgate doctor`` knows the orphans.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.data import SnapshotCollections
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from syrupy.location import PyTestLocation

from pytest_quantgate.plugin.private_names import syrupy_session
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.baseline_file import dump
from pytest_quantgate.results.baseline_store import Store
from pytest_quantgate.storage.atomic import write_atomically
from pytest_quantgate.storage.environment import environment


def extension_for(path: Path) -> type[SingleFileSnapshotExtension]:
    """Return an extension whose one snapshot is the file at ``path``."""

    class BaselineExtension(SingleFileSnapshotExtension):
        _write_mode = WriteMode.TEXT
        file_extension = "json"

        def serialize(self, data: Any, **_kwargs: Any) -> str:
            assert isinstance(data, Baseline)
            return dump(data)

        @classmethod
        def dirname(cls, **_kwargs: Any) -> str:
            return str(path.parent)

        @classmethod
        def get_file_basename(cls, **_kwargs: Any) -> str:
            return path.stem

        @classmethod
        def matches_test_location(cls, **_kwargs: Any) -> bool:
            return True

        def discover_snapshots(self, **_kwargs: Any) -> SnapshotCollections:
            return SnapshotCollections()

        def delete_snapshots(self, **_kwargs: Any) -> None:
            """Keep every file: an update accepts, it never deletes."""

        @classmethod
        def write_snapshot_collection(cls, *, snapshot_collection: Any, **_kwargs: Any) -> None:
            # What a killed run left half-written; the baseline's lock is held.
            for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
                left.unlink(missing_ok=True)
            for snapshot in snapshot_collection:
                write_atomically(path, str(snapshot.data).encode())

    return BaselineExtension


def store_baseline(item: pytest.Item, store: Store, candidate: Baseline) -> None:
    """Store a baseline by asserting it under ``--snapshot-update``.

    This is what syrupy's fixture ``snapshot`` makes; a project may have another of that name.

    Args:
        item: the test that the baseline is accepted for.
        store: says which file is the baseline's.
        candidate: what is accepted.

    Raises:
        EnvironmentProblem: it cannot be written.

    """
    path = store.path(candidate.key)
    assertion = SnapshotAssertion(
        session=syrupy_session(item.config),
        extension_class=extension_for(path),
        test_location=PyTestLocation(item),
        update_snapshots=item.config.option.update_snapshots,
    )
    is_stored = candidate == assertion
    for result in assertion.executions.values():
        if result.exception is not None:  # syrupy keeps what it met, and says only that it failed
            with environment("cannot write", path):
                raise result.exception
    assert is_stored
