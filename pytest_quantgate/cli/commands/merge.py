"""``quantgate merge``: join the run records of the shards of a matrix."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.write import check_ending, write_report
from pytest_quantgate.results.merge import join
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.results.shard_folder import ShardFolder, wait_for_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.cli.command import Subparsers


DEFAULT_TIMEOUT_S = 3600.0
_MOST_NAMED = 8


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "merge", help="join the run records of shards; fails as the whole run would"
    )
    parser.add_argument("records", type=Path, nargs="*", help="the .json of each shard's run")
    parser.add_argument(
        "--wait",
        type=Path,
        metavar="DIR",
        help="instead of records: wait until this folder has a record of every shard",
    )
    parser.add_argument("--expect", type=int, metavar="N", help="how many shards --wait waits for")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        default=DEFAULT_TIMEOUT_S,
        help="after so long --wait joins what is there, and fails (default: %(default)g)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        help="write the joined record to this .json, or a report of it to this .md or .html;"
        " may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the joined record; return 1 where a cell is red or missing."""
    for path in arguments.output:
        check_ending("--output", path)
    joined = join(_waited_for(arguments) if arguments.wait else _named(arguments))
    for path in arguments.output:
        write_report(path, joined)
    print("\n".join(summary_lines(joined)))
    for path in arguments.output:
        print(f"wrote {path}")
    return int(joined.is_red)


def _named(arguments: argparse.Namespace) -> dict[str, RunRecord]:
    if arguments.expect is not None:
        raise ConfigError("--expect is for --wait; type quantgate merge --wait DIR --expect N")
    if not arguments.records:
        raise ConfigError(
            "no record is named; type quantgate merge shard-*.json, or quantgate merge --wait DIR"
            " --expect N"
        )
    if len(set(arguments.records)) < len(arguments.records):
        raise ConfigError("a record is named twice; name each once")
    return _records(arguments.records, arguments.output)


def _waited_for(arguments: argparse.Namespace) -> Mapping[str, RunRecord]:
    folder, count = arguments.wait, arguments.expect
    if arguments.records:
        raise ConfigError(f"--wait {folder} takes no records besides; leave out one of them")
    if count is None or count < 1:
        raise ConfigError(
            f"--wait {folder} needs --expect N, the number of shards, as --expect 4"
            if count is None
            else f"--expect {count} is no number of shards; write 1 or more"
        )
    if not math.isfinite(arguments.timeout) or arguments.timeout < 0:
        raise ConfigError(f"--timeout {arguments.timeout:g} is no time; write seconds, as 3600")

    def say(present: ShardFolder) -> None:
        missing = present.missing(count)
        waits = f"; waiting for {_shard_names(missing, count)}" if missing else ""
        print(f"{count - len(missing)} of {count} shards in {folder}{waits}", flush=True)

    present = wait_for_shards(folder, count, arguments.timeout, say)
    missing = present.missing(count)
    for reason in present.unreadable.values() if missing else ():
        print(f"ignored: {reason}")
    if missing:
        print(
            f"waited {arguments.timeout:g} s for {_shard_names(missing, count)}; run each again"
            f" alone, as --quant-shard {missing[0]}/{count}, and merge again"
        )
    if not present.records:
        raise ConfigError(f"no record of a shard came to {folder} within {arguments.timeout:g} s")
    return present.records


def _shard_names(numbers: tuple[int, ...], count: int) -> str:
    """Name shards, the first few of many."""
    shown = ", ".join(f"{number}/{count}" for number in numbers[:_MOST_NAMED])
    more = len(numbers) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _records(paths: list[Path], outputs: list[Path]) -> dict[str, RunRecord]:
    """Read the records, without what an earlier merge wrote to an output of this one."""
    records = {str(path): read_record(path) for path in paths}
    targets = {path.resolve() for path in outputs}
    for path in paths:
        if path.resolve() in targets:
            others = [record for name, record in records.items() if name != str(path)]
            if records[str(path)].shard is not None or not any(item.shard for item in others):
                raise ConfigError(
                    f"{path} is both a record to join and the output, which would replace it; name"
                    " another output"
                )
            print(f"ignored {path}: it is the output of an earlier merge")
            del records[str(path)]
    return records


def summary_lines(record: RunRecord) -> Iterator[str]:
    """Return how many cells got which verdict, and name what is red or missing."""
    counts = Counter(
        "accepted" if cell.accepted else "skipped" if cell.is_skipped else cell.verdict
        for cell in record.cells
    )
    verdicts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    yield f"{len(record.cells)} cells: {verdicts or 'none was judged'}"
    for cell in record.cells:
        if cell.is_red:
            said = cell.reason.partition("\n")[0]
            yield f"red: {cell.id} {cell.verdict}: {said}"
    for what in record.missing:
        yield f"missing: {what}"
    if record.gated and not record.cells:
        yield "red: no cell was judged, so the gated run is red"
    for warning in record.warnings:
        yield f"warning: {warning}"
