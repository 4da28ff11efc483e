"""One comment a pull request, written once and then updated; a local server acts as GitHub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.baseline_store import shipped_folder
from tests.action.test_action import FOLDER
from tests.cli.commands.test_diff import NAME, edit, git
from tests.reports.html.test_page import regressed

MARK = "<!-- quantgate: ci / gate / quantgate -->"


class GitHub(ThreadingHTTPServer):
    """Keeps comments of pull request 7; ``fail`` has statuses to answer with first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.comments: list[dict[str, Any]] = []
        self.fail: list[int] = []
        self.requests: list[str] = []
        self.next_id = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, body: str, kind: str = "Bot", association: str = "NONE") -> dict[str, Any]:
        comment = {
            "id": self.next_id,
            "body": body,
            "user": {"type": kind},
            "author_association": association,
            "html_url": f"https://github.example/c/{self.next_id}",
        }
        self.next_id += 1
        self.comments.append(comment)
        return comment


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: object = None) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self) -> None:
        server, where = self.server, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        server.requests.append(f"{self.command} {where.path}")
        if server.fail:
            return self.answer(server.fail.pop(0), {"message": "no"})
        if self.headers["Authorization"] != "Bearer secret":
            return self.answer(401, {"message": "Bad credentials"})
        prefix = "/repos/o/r/issues/"
        if where.path == f"{prefix}7/comments":
            if self.command == "POST":
                return self.answer(201, server.add(body["body"]))
            query = parse_qs(where.query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            return self.answer(200, server.comments[(page - 1) * size : page * size])
        number = int(where.path.removeprefix(f"{prefix}comments/"))
        (comment,) = (item for item in server.comments if item["id"] == number)
        if self.command == "DELETE":
            server.comments.remove(comment)
            return self.answer(204)
        comment["body"] = body["body"]
        return self.answer(200, comment)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 # the base class's names


@pytest.fixture
def github() -> Iterator[GitHub]:
    """A server on a free port of this machine."""
    server = GitHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pull_request(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that writes comments."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import pull_request

    return pull_request


@pytest.fixture
def put(pull_request: ModuleType, github: GitHub) -> Callable[[str], str]:
    """Writes a comment."""
    api = pull_request.Api(url=github.url, repository="o/r", token="secret", pause_s=0)
    return lambda text: str(pull_request.put_comment(api, 7, MARK, text))


def test_it_is_written_once_and_then_updated(put: Callable[[str], str], github: GitHub) -> None:
    github.add("a reviewer's words", kind="User", association="MEMBER")
    first = put("one")
    assert put("two") == first
    assert [c["body"] for c in github.comments] == ["a reviewer's words", f"{MARK}\ntwo"]


def test_it_is_found_behind_a_hundred_others(put: Callable[[str], str], github: GitHub) -> None:
    for n in range(230):
        github.add(f"comment {n}", kind="User")
    ours = github.add(f"{MARK}\nold")
    github.add("later")
    put("new")
    assert ours["body"] == f"{MARK}\nnew"
    assert len(github.comments) == 232


def test_another_jobs_comment_is_left_alone(put: Callable[[str], str], github: GitHub) -> None:
    other = github.add(f"{MARK.replace('gate /', 'other /')}\nold")
    put("new")
    assert other["body"].endswith("old")
    assert len(github.comments) == 2


def test_a_strangers_comment_with_our_mark_is_not_ours(
    put: Callable[[str], str], github: GitHub
) -> None:
    """They could edit what stands in it afterwards."""
    stranger = github.add(f"{MARK}\nall green", kind="User", association="CONTRIBUTOR")
    put("red")
    assert stranger["body"] == f"{MARK}\nall green"
    assert github.comments[-1]["body"] == f"{MARK}\nred"


def test_of_two_that_were_written_at_once_the_older_stays(
    put: Callable[[str], str], github: GitHub
) -> None:
    first, second = github.add(f"{MARK}\na"), github.add(f"{MARK}\nb")
    put("c")
    assert github.comments == [first]
    assert second not in github.comments


def test_an_overloaded_server_is_asked_again(put: Callable[[str], str], github: GitHub) -> None:
    github.fail = [502, 503]
    put("one")
    assert [c["body"] for c in github.comments] == [f"{MARK}\none"]
    assert github.requests == [*["GET /repos/o/r/issues/7/comments"] * 3, github.requests[-1]]


def test_a_refusal_is_one_line(
    put: Callable[[str], str], github: GitHub, pull_request: ModuleType
) -> None:
    github.fail = [403]
    with pytest.raises(pull_request.Refused, match=r"^GET issues/7/comments.* HTTP 403 Forbidden$"):
        put("one")
    assert len(github.requests) == 1


@pytest.mark.parametrize(
    ("event", "number"),
    [
        ({"pull_request": {"number": 7}}, 7),
        ({"issue": {"number": 8, "pull_request": {}}}, 8),
        ({"issue": {"number": 8}}, None),
        ({"ref": "refs/heads/main"}, None),
    ],
)
def test_which_pull_request(
    event: dict[str, Any], number: int | None, pull_request: ModuleType
) -> None:
    assert pull_request.number_of(event) == number


# The step, as GitHub's runner runs it


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of GitHub's test merge, one commit deep, whose baselines are not the base's."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    origin = tmp_path / "origin"
    baseline = origin / "baselines" / NAME
    baseline.parent.mkdir(parents=True)
    shutil.copy(shipped_folder() / NAME, baseline)
    (origin / "pyproject.toml").write_text("[tool.quantgate]\n", encoding="utf-8")
    git(origin, "init", "-qb", "main")
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "base")

    def change(plain: dict[str, Any]) -> None:
        plain["size"]["file_bytes"] += 1000
        plain["reason"] = "wider scales"

    edit(baseline, change)
    git(origin, "commit", "-qam", "the pull request's")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), str(clone))
    return clone


def comment_step(
    checkout: Path, github: GitHub, record: Path, event: dict[str, Any], token: str = "secret"
) -> subprocess.CompletedProcess[str]:
    rev_parse = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    head = subprocess.check_output(rev_parse, text=True).strip()
    path = checkout.parent / "event.json"
    path.write_text(json.dumps(event), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(FOLDER / "steps.py"), "comment"],
        cwd=checkout.parent,
        env={
            **os.environ,
            "GITHUB_API_URL": github.url,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_EVENT_PATH": str(path),
            "GITHUB_EVENT_NAME": "pull_request" if "pull_request" in event else "push",
            "GITHUB_SHA": head,
            "GITHUB_WORKSPACE": str(checkout),
            "GITHUB_WORKFLOW": "ci",
            "GITHUB_JOB": "gate",
            "GITHUB_RUN_ID": "99",
            "INPUT_ARTIFACT": "quantgate",
            "INPUT_ARTIFACT_URL": "https://github.example/o/r/actions/runs/99/artifacts/5",
            "INPUT_CONFIG": ".",
            "INPUT_GITHUB_TOKEN": token,
            "INPUT_RECORD": str(record),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


PULL = {
    "pull_request": {"number": 7, "head": {"sha": "abcdef0123456789"}, "base": {"sha": "0" * 40}}
}


def test_the_step_writes_verdict_link_and_what_changed(
    checkout: Path, github: GitHub, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    write_report(record, regressed())
    for _ in range(2):
        done = comment_step(checkout, github, record, PULL)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == "commented: https://github.example/c/1\n", done.stderr
    (comment,) = github.comments
    lines = comment["body"].splitlines()
    assert lines[0] == MARK
    assert lines[1].startswith("# Quantization gate: 1 of 3 cells red")
    assert lines[3] == (
        "[HTML report](https://github.example/o/r/actions/runs/99/artifacts/5) (zipped)"
        " · [log](https://github.example/o/r/actions/runs/99) · of abcdef012"
    )
    assert "## What is red" in lines
    assert "## Baselines changed since the base" in lines
    (size,) = (line for line in lines if "| bytes |" in line)
    assert size.startswith("| olmoe-mini-Q4_K_M-cpu | bytes | 6,322,144 → 6,323,144 |")
    assert "- wider scales (olmoe-mini-Q4_K_M-cpu)" in lines
    assert "<summary>All cells</summary>" in lines
    assert "<img" not in comment["body"]


def test_a_run_without_a_record_replaces_what_was_green(
    checkout: Path, github: GitHub, tmp_path: Path
) -> None:
    github.add(f"{MARK}\n# Quantization gate: all green")
    done = comment_step(checkout, github, tmp_path / "none.json", PULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# Quantization gate: no result" in github.comments[0]["body"]


def test_a_fork_without_the_right_gets_a_warning(
    checkout: Path, github: GitHub, tmp_path: Path
) -> None:
    done = comment_step(checkout, github, tmp_path / "none.json", PULL, token="weak")
    assert done.returncode == 0
    assert done.stdout.startswith("::warning title=quantgate::no comment was written (GET ")
    assert "HTTP 401" in done.stdout
    assert "pull-requests: write" in done.stdout


def test_a_push_has_no_comment(checkout: Path, github: GitHub, tmp_path: Path) -> None:
    done = comment_step(checkout, github, tmp_path / "none.json", {"ref": "refs/heads/main"})
    assert (done.returncode, done.stdout) == (0, "no pull request, so no comment\n")
    assert not github.requests
