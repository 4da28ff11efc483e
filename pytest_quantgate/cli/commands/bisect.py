"""``quantgate bisect``: the release or commit that made a cell worse."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.diagnosis.bisect.answers import Answers
from pytest_quantgate.diagnosis.bisect.builds import (
    Builder,
    BuildFailed,
    CommitBuilder,
    ReleaseBuilder,
)
from pytest_quantgate.diagnosis.bisect.histories import Commits, History, Releases, Step
from pytest_quantgate.diagnosis.bisect.question import Question
from pytest_quantgate.diagnosis.bisect.releases import installed_releases, releases_between
from pytest_quantgate.diagnosis.bisect.search import bisect
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import NO_TEXT
from pytest_quantgate.matrix.matrix import Matrix
from pytest_quantgate.reports.bisection import bisection_blocks
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.baseline_store import Store
from pytest_quantgate.storage.atomic import write_atomically
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.cli.command import Subparsers
    from pytest_quantgate.config.settings import Settings

_CHOICES = ("model", "formats", "text", "devices", "imatrix", "profile")
"""What chooses the cell, each an option of the same name of pytest's."""

_TESTS = ("cell", "batch_geometry", "sweep", "speed", "memory")
"""The tests of the built-in suite; all but the first need a profile that asks for them."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "bisect", help="find the release or commit of llama.cpp that made a cell worse"
    )
    parser.add_argument("good", help="a release of llama-cpp-python, or a commit, that is good")
    parser.add_argument("bad", help="a later one that is bad")
    parser.add_argument("--cell", help="the cell's id, as a red line of a run names it")
    parser.add_argument("--model", help="instead of --cell: the cell's model")
    parser.add_argument("--format", dest="formats", help="with --model: the cell's format")
    for name in ("text", "device", "imatrix", "profile"):
        dest = "devices" if name == "device" else name
        several = f"the cell's {name}, if the profile has several"
        parser.add_argument(f"--{name}", dest=dest, help=several)
    parser.add_argument(
        "--repository", type=Path, help="a checkout of llama.cpp: bisect its commits"
    )
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        help="only commits that touch this file or folder of the repository; may be repeated",
    )
    parser.add_argument(
        "--cmake", action="append", default=[], metavar="ARGUMENT", help="as -DGGML_CUDA=ON"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        default=[],
        help="an interpreter that has a release already; with it, only such are asked",
    )
    parser.add_argument(
        "--test",
        choices=_TESTS,
        default="cell",
        help="which test of the cell is red; the profile asks for it",
    )
    parser.add_argument("--crash", action="store_true", help="the cell is red because it crashes")
    parser.add_argument(
        "--moved", action="store_true", help="bad is whatever moved in any bit, not what is red"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be done; do nothing")
    parser.add_argument("-o", "--output", type=Path, help="write the report to this .md too")


def run(arguments: argparse.Namespace) -> int:
    """Bisect and print the report."""
    root = project_folder(Path.cwd())
    settings = load_settings(root, Overrides(profile=arguments.profile))
    _choose(arguments, settings)
    folder = Cache(settings.cache_dir, settings.cache_max_bytes).sub("bisect")
    lock = FileLock(folder / "lock", timeout=0)
    try:
        with lock:
            return _bisect(arguments, root, folder)
    except Timeout as error:
        # They would check out and build each other's candidates.
        raise ConfigError(
            f"another bisection is running in {folder}; wait for its end, or set another cache_dir"
        ) from error


def _bisect(arguments: argparse.Namespace, root: Path, folder: Path) -> int:
    history, builder = _history(arguments, folder)
    options = _options(arguments)
    step = history.step({})
    print(
        f"{len(step.suspects)} candidates, at most {step.at_most + 1} to build and measure"
        f" (the bad end, then {step.at_most}); {_minutes(arguments, step.at_most + 1)}",
        flush=True,
    )
    if arguments.plan:
        return 0
    try:
        good = builder.python(history.good)
    except BuildFailed as error:
        raise ConfigError(f"{history.describe(history.good)} cannot be built: {error}") from error
    asked = key_of(
        good=history.good,
        options=options,
        test=arguments.test,
        crash=arguments.crash,
        moved=arguments.moved,
        root=str(root),
    )
    question = Question(
        root=root,
        good=good,
        builder=builder,
        options=options,
        records=folder / "records" / asked[:16],
        test=f"test_{arguments.test}",
        crash_is_bad=arguments.crash,
        move_is_bad=arguments.moved,
    )
    answers = Answers(folder / f"answers-{asked[:16]}.json", asked)
    result = bisect(history, question.ask, answers, _tell(history))
    last = builder.python(result.suspects[-1])
    command = question.command(last, Path("report.md"))[1:]
    blocks = bisection_blocks(
        result,
        history.describe,
        cell=f"{arguments.model} {arguments.formats}",
        good=history.describe(history.good),
        commands=(
            f"python {shlex.join(command)}",
            f"quantgate locate {arguments.model}.gguf --a python={good} --b python={last}",
        ),
    )
    print(text(blocks), end="")
    if arguments.output is not None:
        write_atomically(arguments.output, markdown(blocks).encode())
    return 0


def _history(arguments: argparse.Namespace, folder: Path) -> tuple[History, Builder]:
    log = folder / "build.log"
    if arguments.repository is not None:
        repository = arguments.repository.resolve()
        own = folder / key_of(repository=str(repository))[:16]
        commits = Commits(
            repository, own / "worktree", arguments.good, arguments.bad, arguments.path
        )
        return commits, CommitBuilder(commits.worktree, own, arguments.cmake, arguments.jobs, log)
    given = installed_releases(arguments.python)
    versions = releases_between(arguments.good, arguments.bad, given)
    return Releases(versions), ReleaseBuilder(folder / "releases", given, log)


def _choose(arguments: argparse.Namespace, settings: Settings) -> None:
    """Take the model, format and the rest from the cell's id where that is what was given.

    Raises:
        ConfigError: neither an id nor a model and its format were given, or no such cell.

    """
    if (arguments.cell is None) == (arguments.model is None or arguments.formats is None):
        raise ConfigError("name the cell with --cell ID, or with --model and --format")
    if arguments.cell is None:
        return
    store = Store(settings.baselines_dir, use_shipped=settings.uses_built_in_profile)
    cell = Matrix(settings, Library(settings), store).named(arguments.cell)
    arguments.model, arguments.formats = cell.model, cell.format.name
    arguments.text = None if cell.text == NO_TEXT else cell.text
    arguments.devices, arguments.imatrix = cell.device, cell.imatrix or "none"


def _options(arguments: argparse.Namespace) -> tuple[str, ...]:
    chosen = ((name, getattr(arguments, name)) for name in _CHOICES)
    return tuple(f"--quant-{name}={value}" for name, value in chosen if value)


def _minutes(arguments: argparse.Namespace, n_builds: int) -> str:
    """Return how long it may take: some 18 minutes of one core build llama.cpp for a processor."""
    if arguments.python:
        return "nothing is built; a measurement takes what a run of the cell takes, twice"
    full = 18 / max(arguments.jobs, 1)
    further = n_builds * (full / 4 if arguments.repository is not None else full)
    return (
        f"some {full + further:.0f} minutes of building with {arguments.jobs} compilers (CPU"
        " backend), and what a run of the cell takes, twice each"
    )


def _tell(history: History) -> Callable[[Step, float | None], None]:
    def tell(step: Step, seconds_s: float | None) -> None:
        left = f", some {seconds_s * step.at_most / 60:.1f} minutes" if seconds_s else ""
        candidate = history.describe(str(step.candidate))
        counts = f"{len(step.suspects)} left, at most {step.at_most} to ask{left}"
        print(f"{counts}: {candidate}", flush=True)

    return tell
