"""What the commits of a branch did to files, read with git's plumbing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.storage.git import file_changes, git, is_shallow, read_blobs

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def commit(folder: Path, subject: str, **files: str | None) -> None:
    for name, text in files.items():
        path = folder / "kept" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")
    run(folder, "add", "-A")
    run(folder, "commit", "-qm", subject)


def run(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two files over four commits of a branch, of which one is a merge and one removes a file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    run(folder, "init", "-qb", "main")
    commit(folder, "first: ä | \t x", a="1", b="1")
    run(folder, "checkout", "-qb", "side")
    commit(folder, "on the side", a="2")
    run(folder, "checkout", "-q", "main")
    (folder / "other.txt").write_text("x")
    run(folder, "add", "-A")
    run(folder, "commit", "-qm", "nothing of ours")
    run(folder, "merge", "-q", "--no-ff", "-m", "merge the side", "side")
    commit(folder, "remove b", b=None)
    return folder


def test_changes_come_in_order_and_a_merge_is_one_commit(repository: Path) -> None:
    changes = file_changes(repository / "kept")
    assert [(c.commit.subject, c.path, bool(c.blob)) for c in changes] == [
        ("first: ä | \t x", "a.json", True),
        ("first: ä | \t x", "b.json", True),
        ("merge the side", "a.json", True),
        ("remove b", "b.json", False),
    ]
    contents = read_blobs(repository, [c.blob for c in changes if c.blob])
    assert [contents[c.blob] for c in changes if c.blob] == [b"1", b"1", b"2"]
    assert not is_shallow(repository)


def test_a_shallow_clone_says_so(repository: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), str(clone))
    assert is_shallow(clone)
    assert {c.commit.subject for c in file_changes(clone / "kept")} == {"remove b"}


def test_no_repository_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^git log: fatal: not a git repository"):
        file_changes(tmp_path)
    with pytest.raises(ConfigError, match="git cat-file"):
        git(tmp_path, "cat-file", "--batch", given=b"0000000\n")
