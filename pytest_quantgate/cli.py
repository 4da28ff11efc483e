"""The ``quantgate`` command: what can be done without a test run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_quantgate import __version__
from pytest_quantgate.artifacts.cache import Cache
from pytest_quantgate.claims.evidence import Evidence, read_help_texts
from pytest_quantgate.claims.judging import judge_claims
from pytest_quantgate.claims.schema import read_claims
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.report.claims import claim_lines, claims_markdown
from pytest_quantgate.report.record import read_record
from pytest_quantgate.report.sections import make_sections, section_lines
from pytest_quantgate.report.table import make_tables, markdown, text_lines
from pytest_quantgate.report.write import write_report
from pytest_quantgate.worker.messages import ListDevices


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quantgate", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="show a run record, or write it as Markdown")
    report.add_argument("record", type=Path, help="a .json of --quant-report")
    report.add_argument("--markdown", action="store_true", help="print Markdown")
    report.add_argument("-o", "--output", type=Path, help="write to this .md or .json instead")
    claims = commands.add_parser(
        "claims", help="set published figures beside what was measured here"
    )
    claims.add_argument("file", help="a .json of claims, or the name of one that ships")
    claims.add_argument(
        "--record",
        type=Path,
        action="append",
        default=[],
        help="a .json of --quant-report to take figures from; may be repeated",
    )
    claims.add_argument(
        "--programs", type=Path, help="a folder of llama.cpp's programs, to ask for their options"
    )
    claims.add_argument("--markdown", action="store_true", help="print Markdown")
    cache = commands.add_parser("cache", help="show what the cache holds")
    cache.add_argument("--dir", type=Path, help="the cache's folder, if not the usual one")
    cache.add_argument("--clear", action="store_true", help="remove artifacts and references")
    devices = commands.add_parser("devices", help="list the devices that an engine finds here")
    devices.add_argument("--python", help="the engine's interpreter, if not this one")
    return parser


def _report(arguments: argparse.Namespace) -> None:
    record = read_record(arguments.record)
    if arguments.output is not None:
        if arguments.output.suffix not in {".json", ".md"}:
            raise ConfigError(f"--output {str(arguments.output)!r}: valid endings: .json, .md")
        write_report(arguments.output, record)
    elif arguments.markdown:
        print(markdown(record), end="")
    else:
        for table in make_tables(record):
            print("\n".join(text_lines(table)))
        for section in make_sections(record):
            print("\n".join(section_lines(section)))


def _claims(arguments: argparse.Namespace) -> None:
    claims = read_claims(arguments.file)
    records = [read_record(path) for path in arguments.record]
    texts = read_help_texts(arguments.programs) if arguments.programs is not None else {}
    findings = judge_claims(claims, Evidence(records=records, help_texts=texts))
    if arguments.markdown:
        print(claims_markdown(claims.title, findings), end="")
    else:
        print("\n".join(claim_lines(claims.title, findings)))


def _cache(arguments: argparse.Namespace) -> None:
    cache = Cache(arguments.dir, max_bytes=0)
    if arguments.clear:
        cache.clear()
    print(f"{cache.folder}:")
    for name, (count, n_bytes) in cache.contents().items():
        print(f"  {name:<14}{count:>7,} files  {n_bytes / 1e6:>10,.1f} MB")


def _devices(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = LlamaCppPython(
            python=arguments.python, log=Path(folder) / "worker.log", stall_s=60
        )
        try:
            identity, found = engine.identity(), engine.ask(ListDevices())
        except CellError as error:
            raise ConfigError(f"the engine lists no devices: {error}") from error
        finally:
            engine.close()
    print(
        f"{identity.kind} {identity.version}, llama.cpp {identity.llama_cpp_version}".rstrip(", ")
    )
    print(f"  {'cpu':<10}the processor alone; every other device is hidden")
    for name, description, free, total in found.rows:
        memory = f", {free / 1e9:,.1f} of {total / 1e9:,.1f} GB free" if total else ""
        print(f"  {name:<10}{description}{memory}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parsed = _parser().parse_args(arguments)
    commands = {"report": _report, "claims": _claims, "cache": _cache, "devices": _devices}
    try:
        commands[parsed.command](parsed)
    except ConfigError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return 2
    return 0
