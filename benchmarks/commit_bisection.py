"""Let ``quantgate bisect`` find faults among commits of llama.cpp, each built with CMake.

    python benchmarks/commit_bisection.py --source llama.cpp --work work --output found.jsonl

Makes a git repository of a source of llama.cpp. On each of its branches lie 32 commits, all of
them harmless (a comment or a line of documentation more) but one, which has a mutant of
mutants.toml. The bisection is asked for the first bad commit, and each candidate is built as a
user's would be. Prints a Markdown table and exits with 1 where it named another commit, or built
more candidates than a bisection of 32 needs.

The output has a line of JSON a case; those that are there already are not run again, and a case
that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mutant_build import Edit
from mutant_list import MUTANTS

N_COMMITS = 32
MOST_BUILDS = 6
"""The bad end, then five more halve 32 commits; the good end is built for all of them."""

QUANTGATE = "import sys; from pytest_quantgate.cli.main import main; sys.exit(main())"

HARMLESS = (
    *("README.md", "ggml/src/ggml-cpu/hbm.cpp", "docs/build.md", "src/llama-io.cpp"),
    *("ggml/src/ggml-threading.cpp", "AUTHORS", "src/llama-memory.cpp", "CONTRIBUTING.md"),
)
"""Files that take a further line in turn."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A branch: where its mutant lies, and which cell and test are red by it."""

    mutant: str
    at: int
    format: str
    why: str
    test: str = "cell"

    @property
    def edit(self) -> Edit:
        """The mutant's edit."""
        (edit,) = (item.edit for item in MUTANTS if item.name == self.mutant)
        return edit


CASES = (
    Case(mutant="q4_0-scale", at=7, format="Q4_0", why="in a quantizer"),
    Case(
        mutant="flash-one",
        at=19,
        format="Q8_0",
        why="in a kernel of one token alone",
        test="batch_geometry",
    ),
    Case(mutant="merges-left", at=30, format="Q8_0", why="in the tokenizer"),
    Case(mutant="q4_k-min", at=13, format="Q4_K_S", why="not decided at 16 chunks"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the bisection of a case named; ``commit`` is its number from 1, 0 for none."""

    mutant: str
    why: str
    at: int
    commit: int
    builds: int
    seconds_s: float
    said: str

    @property
    def is_right(self) -> bool:
        """Whether the mutant's commit was named, with no more builds than it takes."""
        return self.commit == self.at and self.builds <= MOST_BUILDS


def git(folder: Path, *words: str) -> str:
    """Run git as somebody, and return what it prints."""
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.invalid", "-c", "gc.auto=0"]
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(source: Path, repository: Path) -> None:
    """Make a repository of a source, with a branch a case."""
    if (repository / ".git").exists():
        return
    shutil.copytree(source, repository, ignore=shutil.ignore_patterns(".git"))
    git(repository, "init", "--quiet", "--initial-branch=base")
    git(repository, "add", "--all", "--force")
    git(repository, "commit", "--quiet", "--message=Take the source as it is")
    for case in CASES:
        git(repository, "checkout", "--quiet", "-b", case.mutant, "base")
        for number in range(1, N_COMMITS + 1):
            path, text = change(repository, case, number)
            path.write_text(text, encoding="utf-8")
            git(repository, "commit", "--quiet", "--all", f"--message=Change {number}: {path.name}")
    git(repository, "checkout", "--quiet", "base")


def change(repository: Path, case: Case, number: int) -> tuple[Path, str]:
    """Return the file that a commit changes, and its text after it."""
    name = case.edit.file if number == case.at else HARMLESS[number % len(HARMLESS)]
    path = repository / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if number == case.at:
        return path, case.edit.apply(text)
    return path, f"{text}\n// note {number}\n"


def bisect(case: Case, repository: Path, project: Path, jobs: int) -> str:
    """Ask for the first bad commit of a case; return what was printed."""
    project.mkdir(parents=True, exist_ok=True)
    (project / "pyproject.toml").write_text(
        f"""
[tool.quantgate]
profile = "one"
cache_dir = "{project.parent / "cache"}"
[tool.quantgate.profiles.one]
models = ["olmoe-mini"]
formats = ["{case.format}"]
chunks = 16
n_threads = 1
batch_geometry = true
""",
        encoding="utf-8",
    )
    words = ["base", case.mutant, "--model=olmoe-mini", f"--format={case.format}"]
    done = subprocess.run(
        [
            *(sys.executable, "-c", QUANTGATE, "bisect", *words),
            *(f"--repository={repository}", f"--test={case.test}", f"--jobs={jobs}"),
            "--cmake=-DGGML_NATIVE=OFF",
        ],
        cwd=project,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def examine(case: Case, repository: Path, work: Path, jobs: int) -> Found:
    """Bisect a case and look which commit was named."""
    started_s = time.monotonic()
    said = bisect(case, repository, work / case.mutant, jobs)
    named = re.search(r"First bad: \S+ \S+ Change (\d+)", said)
    answers = sorted((work / "cache" / "bisect").glob("answers-*.json"), key=os.path.getmtime)
    asked = json.loads(answers[-1].read_text(encoding="utf-8"))["answers"] if answers else {}
    return Found(
        mutant=case.mutant,
        why=case.why,
        at=case.at,
        commit=int(named.group(1)) if named else 0,
        builds=len(asked) - 1,  # the good end is asked too, and is what all are held against
        seconds_s=time.monotonic() - started_s,
        said=said,
    )


def main() -> int:
    """Run all cases; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--work", type=Path, required=True, help="for the repository and the cache")
    parser.add_argument("--output", type=Path, required=True, help="a line of JSON a case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    repository = work / "repository"
    make_repository(arguments.source, repository)
    lines = arguments.output.read_text().splitlines() if arguments.output.exists() else []
    done = [Found(**json.loads(line)) for line in lines]
    known = {found.mutant for found in done}
    for case in (case for case in CASES if case.mutant not in known):
        found = examine(case, repository, work, arguments.jobs)
        if found.commit:
            with arguments.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(found)) + "\n")
        else:
            print(found.said)
        done.append(found)
    print("| mutant | lies in commit | named | candidates built |\n|---|--:|--:|--:|")
    for found in done:
        print(f"| {found.why} ({found.mutant}) | {found.at} | {found.commit} | {found.builds} |")
    return 0 if all(found.is_right for found in done) else 1


if __name__ == "__main__":
    sys.exit(main())
