"""The repository that a bisection is measured on has one bad commit a branch."""

from __future__ import annotations

from pathlib import Path

import pytest
from commit_bisection import CASES, N_COMMITS, Case, git, make_repository

pytestmark = pytest.mark.slow  # 128 commits


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a source that has the mutants' places alone."""
    source = tmp_path_factory.mktemp("source")
    for case in CASES:
        path = source / case.edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.write(f"{case.edit.after}\n{case.edit.old}\n")
    for folder in ("docs", "src", "ggml/src/ggml-cpu"):
        (source / folder).mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "docs/build.md", "src/llama-io.cpp", "ggml/src/ggml-cpu/hbm.cpp"):
        (source / name).write_text("\n")
    for name in ("ggml/src/ggml-threading.cpp", "AUTHORS", "src/llama-memory.cpp"):
        (source / name).write_text("\n")
    (source / "CONTRIBUTING.md").write_text("\n")
    target = tmp_path_factory.mktemp("work") / "repository"
    make_repository(source, target)
    return target


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.mutant)
def test_one_of_32_commits_has_the_mutant(repository: Path, case: Case) -> None:
    commits = git(repository, "rev-list", "--reverse", f"base..{case.mutant}").split()
    assert len(commits) == N_COMMITS
    touching = git(repository, "rev-list", f"base..{case.mutant}", "--", case.edit.file).split()
    assert touching == [commits[case.at - 1]]
    text = git(repository, "show", f"{case.mutant}:{case.edit.file}")
    assert case.edit.new in text


def test_it_is_made_once(repository: Path) -> None:
    head = git(repository, "rev-parse", "base")
    make_repository(Path("nowhere"), repository)
    assert git(repository, "rev-parse", "base") == head
