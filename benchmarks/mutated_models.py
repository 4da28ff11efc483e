"""Runs the whole matrix over damaged models, and counts what comes of them.

The headers, settings, tables of tensors and tensor data of a tiny model, dense or with experts, are
changed: in the F16 file from which formats are made, and in a finished Q4_0 file. The baselines are
those of the whole files, under the same name and path. Every cell must end green with exactly the
figures of the whole file, or red with a reason; a file that cannot be used at all ends the run in
one line that names it. No run may end in a traceback, go on beyond its deadline or take more than
a bounded memory, and a model that was not touched must PASS beside the damaged ones with its
figures.

    python benchmarks/mutated_models.py --count 500
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_project import REPORT, UPDATE, Ended, ForkedProject
from gguf_mutations import mutate

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.language_model import check_language_model
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.results.verdicts import VerdictKind

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.tiny_model import Shape, write_story, write_tiny_model  # the checkout's

MODELS_A_RUN = 25
FORMATS = ("F16", "Q4_0")
STALL_S = 20
MAX_S_A_CELL = 4 * STALL_S
"""A run may take so long a cell on average."""

MAX_BYTES = 2 << 30
"""Peak of resident memory of a run's largest process; an undamaged run takes a quarter of it."""

WHOLE = "whole"
_TRACEBACK = re.compile(r"INTERNALERROR|Traceback \(most recent call last\)|^E   ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Original:
    """A whole file that is damaged; ``lines`` is how the configuration names it as ``{}``."""

    name: str
    data: bytes
    header_bytes: int
    lines: str

    @classmethod
    def read(cls, name: str, path: Path, lines: str) -> Original:
        """Read a file."""
        offset = min(tensor.offset_bytes for tensor in read_gguf(path).tensors)
        return cls(name=name, data=path.read_bytes(), header_bytes=offset, lines=lines)


def damage(original: Original, chance: random.Random) -> bytes:
    """Return a model with faults in its header or, in one of two, in its tensors' data."""
    if chance.random() < 0.5:
        header = original.data[: original.header_bytes]
        return mutate(header, chance) + original.data[original.header_bytes :]
    data = bytearray(original.data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(original.header_bytes, len(data))
        length = len(data[place : place + chance.choice([1, 2, 64, 4096])])
        match chance.randrange(12):
            case 0:
                del data[place:]
                break
            case 1 | 2 | 3 | 4:
                data[place : place + length] = chance.randbytes(length)
            case 5 | 6 | 7:
                data[place : place + length] = b"\xff" * length
            case _:
                data[place : place + length] = bytes(length)
    return bytes(data)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A project of one original under several names, with the baselines and chunks of each cell."""

    project: ForkedProject
    original: Original
    chunks: dict[str, Any]

    @classmethod
    def prepare(cls, root: Path, original: Original, count: int) -> Trial:
        """Store the baselines of the whole file under every name.

        Raises:
            RuntimeError: the whole file is not measured, or does not pass.

        """
        project = ForkedProject(root=root, environment={"GGML_NO_BACKTRACE": "1"})
        trial = cls(project=project, original=original, chunks={})
        names = [WHOLE, *(f"m{number}" for number in range(count))]
        for name in names:
            (root / f"{name}.gguf").write_bytes(original.data)
        trial.configure(names)
        ended = project.run(*UPDATE)
        if ended.status == 0:
            ended = project.run()
        cells = project.record()["cells"] if ended.status == 0 else []
        if [cell["verdict"] for cell in cells] != ["PASS"] * len(names) * len(FORMATS):
            raise RuntimeError(f"the whole file does not pass:\n{ended.output}")
        trial.chunks.update({cell["format"]: cell["chunks"] for cell in cells})
        return trial

    def configure(self, names: Sequence[str]) -> None:
        """Write the configuration of so many models."""
        models = {name: self.original.lines.format(f"{name}.gguf") for name in names}
        profile = f"formats = {list(FORMATS)}\nchunks = 2"
        self.project.configure(models, profile, f"stall_s = {STALL_S}")

    def run(self, mutants: dict[str, bytes]) -> Counter[str]:
        """Run with damaged files, and count what came of each."""
        outcomes: Counter[str] = Counter()
        for name, data in mutants.items():
            (self.project.root / f"{name}.gguf").write_bytes(data)
        refused = [name for name in mutants if not self._is_readable(name)]
        for name in refused:
            outcomes += self._run_refused(name)
        names = [WHOLE, *(name for name in mutants if name not in refused)]
        ended = self._run(names)
        wrong = _wrong(ended) or (
            "" if ended.status in {0, 1} else f"exit status {ended.status} of readable files"
        )
        if wrong:
            outcomes[f"WRONG: {wrong}"] += 1
            print(ended.output)
            return outcomes
        return outcomes + self._judge(names)

    def _is_readable(self, name: str) -> bool:
        """Return whether a file can be read: one that cannot be ends a run for all others."""
        try:
            check_language_model(read_gguf(self.project.root / f"{name}.gguf"))
        except ModelFileError:
            return False
        return True

    def _run(self, names: Sequence[str]) -> Ended:
        (self.project.root / REPORT).unlink(missing_ok=True)
        self.configure(names)
        return self.project.run(deadline_s=MAX_S_A_CELL * len(FORMATS) * len(names))

    def _run_refused(self, name: str) -> Counter[str]:
        """Run with a file that cannot be read: one line names it."""
        ended = self._run([name])
        lines = [line for line in ended.output.splitlines() if line.startswith("ERROR: ")]
        wrong = _wrong(ended)
        if ended.status != 4 or len(lines) != 1 or f"/{name}.gguf" not in lines[0]:
            wrong = wrong or f"exit status {ended.status}, {len(lines)} lines of errors"
        if not wrong and self._says_enough(lines[0].removeprefix("ERROR: ")):
            return Counter({"file: refused in one line": 1})
        print(ended.output)
        return Counter({f"WRONG: {wrong or 'the reason ' + lines[0]}": 1})

    def _judge(self, names: Sequence[str]) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        cells = self.project.record()["cells"]
        missing = len(FORMATS) * len(names) - len(cells)
        if missing:
            outcomes["WRONG: a cell without a verdict"] += missing
        of_files: dict[str, list[str]] = {}
        for cell in cells:
            kind = self._outcome(cell)
            if cell["model"] == WHOLE:
                if kind != "PASS, same figures":
                    outcomes[f"WRONG: an untouched model is {kind}: {cell['reason']}"] += 1
                continue
            outcomes[f"cell: {kind}"] += 1
            of_files.setdefault(cell["model"], []).append(kind)
        for kinds in of_files.values():
            is_green = all(kind.startswith("PASS") for kind in kinds)
            outcomes["file: green" if is_green else "file: red"] += 1
        return outcomes

    def _outcome(self, cell: dict[str, Any]) -> str:
        verdict, first = VerdictKind(cell["verdict"]), cell["reason"].partition("\n")[0].strip()
        if not self._says_enough(first):
            return f"WRONG: the reason {first!r}"
        if not verdict.is_green:
            return verdict.value
        same = cell["chunks"] == self.chunks[cell["format"]]
        if verdict is VerdictKind.PASS and same:
            return "PASS, same figures"
        return f"WRONG: {verdict.value} with other figures: {first}"

    @staticmethod
    def _says_enough(line: str) -> bool:
        return 8 <= len(line) < 1500 and "Error(" not in line


def _wrong(ended: Ended) -> str:
    """Return what a run must never do, "" where it did not."""
    if ended.status is None:
        return "it went on beyond its deadline"
    if _TRACEBACK.search(ended.output):
        return f"exit status {ended.status} with a traceback"
    if ended.peak_bytes > MAX_BYTES:
        return f"a process took {ended.peak_bytes / 1e6:.0f} MB"
    return ""


def originals(folder: Path) -> list[Original]:
    """Return the files that are damaged: two sources, and a finished Q4_0 beside its source."""
    found = []
    for name, shape in (("dense", Shape(layers=1)), ("experts", Shape(layers=1, experts=4))):
        path = write_tiny_model(folder / f"{name}.gguf", shape)
        found.append(Original.read(f"source, {name}", path, "source = '{}'"))
        quantized = _quantize(folder / name, path)
        lines = f"files = {{{{ F16 = '{path}', Q4_0 = '{{}}' }}}}"
        found.append(Original.read(f"finished Q4_0, {name}", quantized, lines))
    return found


def _quantize(root: Path, path: Path) -> Path:
    """Let a run make the Q4_0 file of a model."""
    root.mkdir()
    write_story(root / "story.txt")
    project = ForkedProject(root=root)
    project.configure({"tiny": f"source = '{path}'"}, "formats = ['Q4_0']\nchunks = 2")
    ended = project.run()
    if ended.status != 0:
        raise RuntimeError(ended.output)
    (made,) = project.cache.glob("artifacts/*.gguf")
    return Path(shutil.copy(made, root / "Q4_0.gguf"))


def run(count: int, number: int, folder: Path, models_a_run: int = MODELS_A_RUN) -> Counter[str]:
    """Run with so many damaged files; ``number`` is the random numbers' seed."""
    chance = random.Random(number)  # noqa: S311 # reproducible, and no secret
    began_s, outcomes, done = time.perf_counter(), Counter[str](), 0
    trials = []
    for place, original in enumerate(originals(folder)):
        root = folder / str(place)
        root.mkdir()
        write_story(root / "story.txt")
        trials.append(Trial.prepare(root, original, min(models_a_run, count)))
    while done < count:
        trial = trials[done // models_a_run % len(trials)]
        names = [f"m{item}" for item in range(min(models_a_run, count - done))]
        came = trial.run({name: damage(trial.original, chance) for name in names})
        done += len(names)
        outcomes += came
        took_s = time.perf_counter() - began_s
        print(f"{done} files, {took_s:.0f} s, {trial.original.name}: {dict(came)}", flush=True)
    return outcomes


def main() -> None:
    """Print how often each outcome came; exit with 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.count, arguments.seed, Path(folder))
    for kind, number in outcomes.most_common():
        print(f"{number:6} {kind}")
    if any("WRONG" in kind for kind in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
