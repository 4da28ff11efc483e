"""A folder in which the jobs of an array write their run records, and waiting for the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """What a folder has: the shards' records by the names of their files, and what is none.

    ``unreadable`` says why, by the file's name. Records of runs without a shard, which an earlier
    merge may have written here, are left out.
    """

    records: Mapping[str, RunRecord] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the shards that are there."""
        return frozenset(r.shard.number for r in self.records.values() if r.shard is not None)

    def missing(self, count: int) -> tuple[int, ...]:
        """Return the numbers of the shards that are not there."""
        return tuple(number for number in range(1, count + 1) if number not in self.numbers)


def read_shards(folder: Path, count: int) -> ShardFolder:
    """Read the records that are in a folder now.

    Raises:
        ConfigError: a record is of a matrix that was cut into another number of shards.

    """
    records: dict[str, RunRecord] = {}
    unreadable: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path)
        except ConfigError as error:
            unreadable[path.name] = str(error)
            continue
        if record.shard is None:
            continue
        if record.shard.count != count:
            raise ConfigError(
                f"{path} is shard {record.shard.number} of {record.shard.count}, not of {count};"
                f" type --expect {record.shard.count}, or give each array a folder of its own"
            )
        records[str(path)] = record
    return ShardFolder(records=records, unreadable=unreadable)


def wait_for_shards(
    folder: Path, count: int, timeout_s: float, on_news: Callable[[ShardFolder], None]
) -> ShardFolder:
    """Wait until a folder, which may not be there yet, has a record of every shard.

    Args:
        folder: where the jobs write them.
        count: how many shards there are.
        timeout_s: what is there after so many seconds is returned.
        on_news: called at once, and for every shard that comes.

    Raises:
        ConfigError: as :func:`read_shards`.

    """
    until_s = time.monotonic() + timeout_s
    before: frozenset[int] | None = None
    while True:
        present = read_shards(folder, count)
        if present.numbers != before:
            before = present.numbers
            on_news(present)
        left_s = until_s - time.monotonic()
        if not present.missing(count) or left_s <= 0:
            return present
        time.sleep(min(_LOOK_EVERY_S, left_s))
