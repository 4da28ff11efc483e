"""``quantgate merge``: join the run records of the shards of a matrix."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.write import check_ending, write_report
from pytest_quantgate.results.merge import join
from pytest_quantgate.results.record import RunRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "merge", help="join the run records of shards; fails as the whole run would"
    )
    parser.add_argument("records", type=Path, nargs="+", help="the .json of each shard's run")
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
    if len(set(arguments.records)) < len(arguments.records):
        raise ConfigError("a record is named twice; name each once")
    joined = join(_records(arguments.records, arguments.output))
    for path in arguments.output:
        write_report(path, joined)
    print("\n".join(summary_lines(joined)))
    for path in arguments.output:
        print(f"wrote {path}")
    return int(joined.is_red)


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
