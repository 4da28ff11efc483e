"""What lies between a good and a bad end: releases in a row, or commits of a repository."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_quantgate.diagnosis.bisect.answers import Kind
from pytest_quantgate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is left: ``candidate`` is asked next, None where the answers settle it.

    ``suspects`` are those of which one is the first bad, the last of them known to be bad; one
    alone is it. ``at_most`` more candidates are asked, unless some are skipped.
    """

    candidate: str | None
    suspects: tuple[str, ...]
    at_most: int


class History(Protocol):
    """An order in which good becomes bad once."""

    good: str
    bad: str

    def step(self, kinds: Mapping[str, Kind]) -> Step:
        """Return what follows from the answers."""

    def describe(self, candidate: str) -> str:
        """Return what a person knows a candidate by."""


class Releases:
    """Releases in their order, the good end first and the bad one last."""

    def __init__(self, versions: Sequence[str]) -> None:
        self._versions = tuple(versions)
        self.good, self.bad = self._versions[0], self._versions[-1]

    def step(self, kinds: Mapping[str, Kind]) -> Step:
        """Return what follows; of skipped ones the nearest neighbour of the middle is asked."""
        order = self._versions
        known = {self.good: Kind.GOOD, self.bad: Kind.BAD, **kinds}
        first_bad = next(at for at, name in enumerate(order) if known.get(name) is Kind.BAD)
        last_good = max(at for at in range(first_bad) if known.get(order[at]) is Kind.GOOD)
        suspects = order[last_good + 1 : first_bad + 1]
        unknown = [at for at in range(last_good + 1, first_bad) if order[at] not in known]
        middle = (last_good + first_bad) / 2
        nearest = min(unknown, key=lambda at: (abs(at - middle), at), default=None)
        return Step(
            candidate=None if nearest is None else order[nearest],
            suspects=suspects,
            at_most=(len(unknown)).bit_length(),
        )

    def describe(self, candidate: str) -> str:
        """Return the release's name."""
        return f"llama-cpp-python {candidate}"


class Commits:
    """Commits of a repository, bisected by git itself, in a worktree of its own.

    The user's checkout is left alone: git keeps the state of a bisection by worktree, and moves no
    file with ``--no-checkout``.

    Args:
        repository: a checkout.
        worktree: the folder of the worktree; made where it is not there.
        good: a revision.
        bad: a revision that descends from it.
        paths: only commits that touch these count; empty for all.

    Raises:
        ConfigError: git is missing, or a revision is none, or good is no ancestor of bad.

    """

    def __init__(
        self, repository: Path, worktree: Path, good: str, bad: str, paths: Sequence[str] = ()
    ) -> None:
        self.worktree = worktree
        self._paths = tuple(paths)
        self.good, self.bad = (
            git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
            for name in (good, bad)
        )
        base = git(repository, "merge-base", self.good, self.bad)
        if base != self.good or self.good == self.bad:
            raise ConfigError(
                f"{good} is no ancestor of {bad} in {repository}: name a good commit before the"
                f" bad one, as {base[:12]}, where both lines of history part"
            )
        if not (worktree / ".git").exists():
            git(repository, "worktree", "prune")
            worktree.parent.mkdir(parents=True, exist_ok=True)
            git(repository, "worktree", "add", "--detach", str(worktree), self.bad)

    def step(self, kinds: Mapping[str, Kind]) -> Step:
        """Let git choose the next commit after these answers."""
        goods = [self.good, *_of_kind(kinds, Kind.GOOD)]
        bad = self.bad
        for name in _of_kind(kinds, Kind.BAD):
            if git(self.worktree, "merge-base", name, bad) == name:
                bad = name
        skipped = set(_of_kind(kinds, Kind.SKIP))
        listed = git(
            self.worktree, "rev-list", "--reverse", "--topo-order", bad, "--not", *goods,
            "--", *self._paths,
        ).split()  # fmt: skip
        suspects = (*(name for name in listed if name != bad), bad)
        left = [name for name in suspects[:-1] if name not in skipped]
        if not left:
            return Step(candidate=None, suspects=suspects, at_most=0)
        self._bisect("reset", "HEAD")
        self._bisect("start", "--no-checkout", bad, *goods, "--", *self._paths)
        if skipped:
            self._bisect("skip", *sorted(skipped))
        return Step(
            candidate=git(self.worktree, "rev-parse", "BISECT_HEAD"),
            suspects=suspects,
            at_most=len(left).bit_length(),
        )

    def _bisect(self, *arguments: str) -> None:
        # "Only skipped commits are left" is status 2, and seen from the suspects.
        git(self.worktree, "bisect", *arguments, allowed=(0, 2))

    def describe(self, candidate: str) -> str:
        """Return a commit's short name, date and subject."""
        return git(self.worktree, "show", "-s", "--format=%h %cs %s", candidate)


def _of_kind(kinds: Mapping[str, Kind], kind: Kind) -> list[str]:
    return [name for name, own in kinds.items() if own is kind]


def git(folder: Path, *arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
    """Return what git prints.

    Raises:
        ConfigError: git is missing, or fails.

    """
    program = shutil.which("git")
    if program is None:
        raise ConfigError("git is not installed: commits are bisected with it")
    done = subprocess.run(
        [program, "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in allowed:
        why = done.stderr.strip().splitlines()
        raise ConfigError(f"git {arguments[0]}: {why[-1] if why else 'failed'}")
    return done.stdout.strip()
