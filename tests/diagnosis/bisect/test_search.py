"""Bisecting releases and commits: how many are asked, what is skipped, and going on later."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_quantgate.diagnosis.bisect.answers import Answer, Answers, Kind
from pytest_quantgate.diagnosis.bisect.histories import Commits, History, Releases, git
from pytest_quantgate.diagnosis.bisect.search import Bisection, bisect
from pytest_quantgate.errors import ConfigError

VERSIONS = [f"0.3.{number}" for number in range(40)]


def answers(folder: Path, question: str = "q") -> Answers:
    return Answers(folder / "answers.json", question)


def asking(first_bad: int, order: list[str], unbuildable: tuple[int, ...] = ()) -> tuple[
    Callable[[str], Answer], list[str]
]:  # fmt: skip
    """Return what answers, and the list of those that it was asked for."""
    asked: list[str] = []

    def ask(candidate: str) -> Answer:
        asked.append(candidate)
        at = order.index(candidate)
        if at in unbuildable:
            return Answer(kind=Kind.SKIP, reason="does not build")
        return Answer(kind=Kind.BAD if at >= first_bad else Kind.GOOD, reason="", shift=at / 100)

    return ask, asked


@pytest.mark.parametrize("first_bad", range(1, 40))
def test_each_release_is_found_in_at_most_six_questions(tmp_path: Path, first_bad: int) -> None:
    ask, asked = asking(first_bad, VERSIONS)
    result = bisect(Releases(VERSIONS), ask, answers(tmp_path))
    assert result.suspects == (VERSIONS[first_bad],)
    assert result.after.shift == first_bad / 100
    assert result.before is None or result.before.shift == (first_bad - 1) / 100
    assert len(asked) == result.asked <= 6 + 2, "both ends are asked first"
    assert len(set(asked)) == len(asked)


def test_releases_that_cannot_be_built_are_skipped_and_left_as_suspects(tmp_path: Path) -> None:
    ask, _ = asking(20, VERSIONS, unbuildable=(18, 19, 21))
    result = bisect(Releases(VERSIONS), ask, answers(tmp_path))
    assert result.suspects == tuple(VERSIONS[18:21])


def test_a_search_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    ask, asked = asking(13, VERSIONS)

    def interrupted(candidate: str) -> Answer:
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(candidate)

    with pytest.raises(KeyboardInterrupt):
        bisect(Releases(VERSIONS), interrupted, answers(tmp_path))
    before = list(asked)
    result = bisect(Releases(VERSIONS), ask, answers(tmp_path))
    assert result.suspects == (VERSIONS[13],)
    assert not set(before) & set(asked[3:])
    again = bisect(Releases(VERSIONS), ask, answers(tmp_path))
    assert (again.suspects, again.asked) == (result.suspects, 0)


def test_answers_to_another_question_are_not_taken(tmp_path: Path) -> None:
    answers(tmp_path).put("a", Answer(kind=Kind.BAD, reason="r"))
    assert "a" in answers(tmp_path)
    assert "a" not in answers(tmp_path, "another format")


def test_a_good_end_that_is_bad_is_refused(tmp_path: Path) -> None:
    """It breaks a limit that has nothing to do with what changed since."""

    def ask(_candidate: str) -> Answer:
        return Answer(kind=Kind.BAD, reason="mean KLD 1.2 nats is above 1 nats")

    with pytest.raises(ConfigError, match=r"0\.3\.0, the good end, is bad itself \(mean KLD"):
        bisect(Releases(VERSIONS), ask, answers(tmp_path))


def test_a_bad_end_that_is_not_bad_is_refused(tmp_path: Path) -> None:
    ask, _ = asking(99, VERSIONS)
    with pytest.raises(ConfigError, match=r"llama-cpp-python 0\.3\.39 is not bad but good"):
        bisect(Releases(VERSIONS), ask, answers(tmp_path))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """40 commits in a row, each of which changes one of two files."""
    folder = tmp_path_factory.mktemp("repository")
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    git(folder, "init", "-q")
    for number in range(40):
        (folder / ("kernel.c" if number % 2 else "quants.c")).write_text(f"{number}\n")
        git(folder, "add", ".")
        git(folder, *identity, "commit", "-qm", f"Change {number}")
    return folder, git(folder, "rev-list", "--reverse", "HEAD").split()


def find(
    repository: tuple[Path, list[str]], folder: Path, first_bad: int, **more: object
) -> tuple[Bisection, list[str], History]:
    path, order = repository
    paths = more.pop("paths", ())
    ask, asked = asking(first_bad, order, **more)  # type: ignore[arg-type]
    commits = Commits(path, folder / "worktree", order[0], order[-1], paths)  # type: ignore[arg-type]
    return bisect(commits, ask, answers(folder)), asked, commits


@pytest.mark.parametrize(
    "first_bad", [17, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 2, 31, 38, 39))]
)
def test_a_commit_is_found_in_at_most_six_builds(
    repository: tuple[Path, list[str]], tmp_path: Path, first_bad: int
) -> None:
    """The user's own checkout stays where it is."""
    head = git(repository[0], "rev-parse", "HEAD")
    result, asked, commits = find(repository, tmp_path, first_bad)
    assert result.suspects == (repository[1][first_bad],)
    assert commits.describe(result.suspects[0]).endswith(f"Change {first_bad}")
    assert len(asked) <= 6 + 2
    assert git(repository[0], "rev-parse", "HEAD") == head
    assert git(repository[0], "status", "--porcelain") == ""


def test_commits_that_do_not_build_are_stepped_around(
    repository: tuple[Path, list[str]], tmp_path: Path
) -> None:
    result, _, _ = find(repository, tmp_path, 25, unbuildable=(19, 20, 21, 28))
    assert result.suspects == (repository[1][25],)
    result, _, _ = find(repository, tmp_path / "next", 20, unbuildable=(19, 20))
    assert result.suspects == tuple(repository[1][19:22])


def test_a_half_of_the_engine_halves_the_commits(
    repository: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Those that touch no file of it are not built."""
    result, asked, _ = find(repository, tmp_path, 26, paths=("quants.c",))
    assert result.suspects == (repository[1][26],)
    assert len(asked) <= 5 + 2


def test_a_good_commit_must_come_before_the_bad_one(
    repository: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, order = repository
    with pytest.raises(ConfigError, match="is no ancestor of"):
        Commits(path, tmp_path / "w", order[-1], order[0])
    with pytest.raises(ConfigError, match="git rev-parse"):
        Commits(path, tmp_path / "w", "no-such", order[0])


def test_a_merge_is_searched_too(tmp_path: Path) -> None:
    """Git's own bisection knows histories that are no line."""
    folder = tmp_path / "repository"
    folder.mkdir()
    run = ("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org")

    def commit(name: str) -> str:
        (folder / name).write_text(name)
        subprocess.run([*run, "add", "."], check=True)
        subprocess.run([*run, "commit", "-qm", name], check=True)
        return git(folder, "rev-parse", "HEAD")

    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    good = commit("start")
    subprocess.run([*run, "checkout", "-qb", "side"], check=True)
    side = [commit(f"side{number}") for number in range(5)]
    subprocess.run([*run, "checkout", "-q", "main"], check=True)
    for number in range(3):
        commit(f"main{number}")
    subprocess.run([*run, "merge", "-q", "--no-ff", "-m", "merge", "side"], check=True)
    last = commit("last")
    wrong = side[2]

    def ask(candidate: str) -> Answer:
        base = git(folder, "merge-base", wrong, candidate)
        return Answer(kind=Kind.BAD if base == wrong else Kind.GOOD, reason="")

    history = Commits(folder, tmp_path / "worktree", good, last)
    assert bisect(history, ask, answers(tmp_path)).suspects == (wrong,)
