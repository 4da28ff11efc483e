"""Disturbs runs that update baselines, and compares the next run with an undisturbed one.

A run is killed with SIGKILL at a random moment, alone or with its workers; or its folder, with
cache, baselines and report, is a disk that is full at one of many sizes (Linux, as root: a tmpfs is
mounted); or two run at once on one cache; or the cache is deleted meanwhile. Then every JSON and
every archive that is there must be whole. The same command runs again with nothing in its way: it
must be green, every chunk's sums and the stored baselines equal to the last bit, and nothing
half-written left where it would be believed.

    python benchmarks/disturbed_runs.py --kills 200 --full-disks 50
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from forked_project import UPDATE, Ended, ForkedProject

from pytest_quantgate.storage.arrays import read_arrays

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.tiny_model import Shape, write_story, write_tiny_model  # the checkout's

FORMATS = ("F16", "Q8_0", "Q4_0")
KINDS = ("kill -9", "full disk", "two at once", "cache deleted")
N_CHUNKS = 8
DEADLINE_S = 300.0
_PLENTY_BYTES = 64 << 20
_TRACEBACK = re.compile(r"INTERNALERROR|Traceback \(most recent call last\)|^E   ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an undisturbed run leaves: its cells' chunks by id, its baselines by path."""

    chunks: dict[str, Any]
    baselines: dict[str, str]


def outcome(project: ForkedProject) -> Outcome:
    """Read the last record and the baselines."""
    return Outcome(
        chunks={cell["id"]: cell["chunks"] for cell in project.record()["cells"]},
        baselines={
            str(path.relative_to(project.root)): path.read_text() for path in project.baselines
        },
    )


def torn(root: Path) -> list[str]:
    """Return the JSON files and archives below a folder that cannot be read."""
    names = []
    for path in root.rglob("*"):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".npz":
                read_arrays(path)
        except (OSError, ValueError, EOFError, BadZipFile):
            names.append(f"torn: {path.relative_to(root)}")
    return names


def _as_root(program: str, *arguments: str | Path) -> None:
    path = shutil.which(program)
    if path is None or os.geteuid():
        raise SystemExit(f"a full disk needs Linux, root and {program}; try --full-disks 0")
    subprocess.run([path, *arguments], check=True)


class Disturbance:
    """Disturbs runs of one project, a trial after the other.

    Args:
        folder: for the model, the text and the project.
        chance: the random numbers.

    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._chance = chance
        model = write_tiny_model(folder / "tiny.gguf", Shape(layers=1))
        write_story(folder / "story.txt")
        self._folder = folder
        self._lines = {"tiny": f"source = '{model}'"}
        self._project = ForkedProject(root=folder / "project")
        self._project.root.mkdir()
        self._fill_in()
        ended = self._project.run(*UPDATE)
        if ended.status != 0:
            raise RuntimeError(f"it fails undisturbed:\n{ended.output}")
        self._undisturbed = outcome(self._project)
        files = [path for path in self._project.root.rglob("*") if path.is_file()]
        self._n_bytes = sum(path.stat().st_size + 4095 & ~4095 for path in files)
        self._forget()
        began_s = time.perf_counter()
        self._project.run(*UPDATE)
        self._longest_s = time.perf_counter() - began_s

    def _fill_in(self) -> None:
        profile = f"formats = {list(FORMATS)}\nchunks = {N_CHUNKS}"
        self._project.configure(self._lines, profile)
        shutil.copy(self._folder / "story.txt", self._project.root)

    def _forget(self) -> None:
        for path in self._project.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._fill_in()

    def trial(self, kind: str, share: float) -> str:
        """Disturb a run and run again; ``share`` is where among all trials of the kind this is."""
        self._forget()
        match kind:
            case "kill -9":
                return self._verified(self._kill())
            case "full disk":
                with self._full_disk(share):
                    ended = self._project.run(*UPDATE, deadline_s=DEADLINE_S)
                    says = "names the disk" if "free on its disk" in ended.output else "silent"
                    came = f"{self._status(ended)}, {says}"
                    if ended.status and says == "silent":
                        came += " WRONG"
                        print(ended.output)
                    problems = torn(self._project.root)
                    self._mount(_PLENTY_BYTES, "remount,")
                    return self._verified(came, problems)
            case "two at once":
                return self._verified(self._pair())
            case _:
                return self._verified(self._delete())

    def _status(self, ended: Ended) -> str:
        if ended.status is None or _TRACEBACK.search(ended.output):
            print(ended.output)
            return f"WRONG: exit status {ended.status}, a traceback or a hang"
        return f"exit status {ended.status}"

    def _verified(self, came: str, problems: list[str] | None = None) -> str:
        """Run again with nothing in the way, and add what differs from an undisturbed run."""
        problems = problems or torn(self._project.root)
        ended = self._project.run(*UPDATE, deadline_s=DEADLINE_S)
        if ended.status != 0:
            problems.append(f"the next run has {self._status(ended)}")
            print(ended.output)
        else:
            after = outcome(self._project)
            if after.chunks != self._undisturbed.chunks:
                problems.append("other figures")
            if after.baselines != self._undisturbed.baselines:
                problems.append("other baselines")
        problems += torn(self._project.root)
        for name in ("cache/artifacts", "baselines"):
            for path in (self._project.root / name).rglob("*.partial"):
                problems.append(f"half-written: {name}/{re.sub('[0-9a-f]{32,}', '*', path.name)}")
        wrong = f"WRONG: {', '.join(problems)}" if problems else "the next run is equal"
        return f"{came}; {wrong}"

    def _kill(self) -> str:
        project = self._project
        process = project.start("--quant-report=report.json", *UPDATE)
        time.sleep(self._chance.uniform(0, self._longest_s))
        send = os.killpg if self._chance.random() < 0.5 else os.kill
        try:
            send(process, signal.SIGKILL)
        except ProcessLookupError:  # before its session began
            os.kill(process, signal.SIGKILL)
        ended = project.wait(process, DEADLINE_S)
        n_stored = len(project.baselines)
        is_killed = ended.status == -signal.SIGKILL
        return f"killed, {n_stored} baselines stored" if is_killed else "had ended"

    @contextmanager
    def _full_disk(self, share: float) -> Iterator[None]:
        least = sum(path.stat().st_size + 4095 & ~4095 for path in self._project.root.iterdir())
        self._mount(least + 4096 + int(share * self._n_bytes))
        try:
            self._fill_in()
            yield
        finally:
            _as_root("umount", "-l", self._project.root)

    def _mount(self, n_bytes: int, options: str = "") -> None:
        size = f"{options}size={n_bytes}"
        _as_root("mount", "-t", "tmpfs", "-o", size, "none", self._project.root)

    def _pair(self) -> str:
        project = self._project
        other = ForkedProject(root=self._folder / "other")
        shutil.rmtree(other.root, ignore_errors=True)
        shutil.copytree(project.root, other.root)
        runs = [item.start(*UPDATE, f"--quant-cache={project.cache}") for item in (project, other)]
        ends = [
            item.wait(process, DEADLINE_S)
            for item, process in zip((project, other), runs, strict=True)
        ]
        return f"{' and '.join(map(self._status, ends))}"

    def _delete(self) -> str:
        process = self._project.start(*UPDATE)
        time.sleep(self._chance.uniform(0, self._longest_s))
        shutil.rmtree(self._project.cache, ignore_errors=True)
        return self._status(self._project.wait(process, DEADLINE_S))


def disturb(folder: Path, counts: dict[str, int], number: int) -> Counter[str]:
    """Disturb runs, and count what came of each kind; ``number`` is the random numbers' seed."""
    chance = random.Random(number)  # noqa: S311 # reproducible, and no secret
    disturbance = Disturbance(folder, chance)
    outcomes: Counter[str] = Counter()
    for kind, count in counts.items():
        for trial in range(count):
            came = disturbance.trial(kind, (trial + chance.random()) / count)
            outcomes[f"{kind}: {came}"] += 1
            print(f"{kind} {trial + 1}/{count}: {came}", flush=True)
    return outcomes


def main() -> None:
    """Print how often each outcome came; exit with 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--deletions", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    trials = (arguments.kills, arguments.full_disks, arguments.pairs, arguments.deletions)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = disturb(Path(folder), dict(zip(KINDS, trials, strict=True)), arguments.seed)
    for kind, count in outcomes.most_common():
        print(f"{count:5} {kind}")
    if any("WRONG" in kind for kind in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
