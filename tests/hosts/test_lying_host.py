"""What a host sends is data: it can spoil its own cells and nothing else."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.config.machines import HostSettings
from pytest_quantgate.engines.messages import Failed
from pytest_quantgate.errors import CellCrashed, HostLost
from pytest_quantgate.hosts import remote_engine, ssh
from pytest_quantgate.hosts.host_files import HostFiles
from pytest_quantgate.storage.keys import file_sha256


class Liar:
    """A link whose host answers what a test wants."""

    label = "p40"

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def ask(self, kind: type, name: str, *_arguments: object) -> Any:
        """Return the next answer."""
        answer = self._answers[name]
        if not isinstance(answer, kind):
            raise HostLost("no answer")
        return answer


def files_of(**answers: Any) -> HostFiles:
    """Return the files of a host that lies."""
    return HostFiles(Liar(**answers), file_sha256, lambda *_progress: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row",
    [
        ("../../evil", 1, "0"),
        ("/etc/passwd", 1, "0"),
        (".hidden", 1, "0"),
        ("name", -1, "0"),
        ("name", 1 << 40, "0"),
        ("name", "1", "0"),
        ("name",),
        "name",
    ],
)
def test_a_listing_with_a_path_or_a_size_that_is_none(tmp_path: Path, row: Any) -> None:
    with pytest.raises(HostLost):
        files_of(listing=(row,), read=b"x").pull_folder("there", tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_another_than_it_says(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    with pytest.raises(HostLost, match="came back damaged"):
        files_of(adopt=("kept", "0" * 64, 3), read=b"abc").fetch("there", target)
    with pytest.raises(HostLost, match="ended early"):
        files_of(adopt=("kept", "0" * 64, 3), read=b"").fetch("there", target)
    with pytest.raises(HostLost, match="told no file"):
        files_of(adopt=("kept", 7, "x"), read=b"").fetch("there", target)
    assert list(tmp_path.iterdir()) == []


def test_a_reply_of_other_types_is_the_cells_crash() -> None:
    with pytest.raises(CellCrashed, match="the host sent a Failed whose reason is wrong"):
        remote_engine._checked(Failed(kind="CRASHED", reason=["x"]))  # type: ignore[arg-type]
    honest = Failed(kind="CRASHED", reason="x")
    assert remote_engine._checked(honest) == honest


def test_two_gigabytes_are_not_read() -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError(f"{size} bytes were read")

    pipe = ssh._Bounded(Endless())
    with pytest.raises(EOFError):
        pipe.read(2 << 30)


def test_the_far_shell_reads_every_word_as_it_is_written() -> None:
    host = HostSettings(ssh="me@p40", python="/opt/a b/$(id)", environment={"X": "a; rm -rf ~"})
    command = ssh.ssh_command(host, [host.python, "-c", "import sys;exec('x')"])
    assert command[-3:-1] == ["--", "me@p40"]
    assert shlex.split(command[-1]) == [
        "exec",
        "env",
        "PYTHONSAFEPATH=1",
        "X=a; rm -rf ~",
        "/opt/a b/$(id)",
        "-c",
        "import sys;exec('x')",
    ]


def test_an_interpreter_in_the_home_folder_there(tmp_path: Path) -> None:
    program = tmp_path / "a $(id)" / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$1"\n', encoding="utf-8")
    program.chmod(0o755)
    host = HostSettings(ssh="me@p40", python="~/a $(id)/python")
    command = ssh.ssh_command(host, [host.python, "x y"])
    done = subprocess.run(
        ["sh", "-c", command[-1]],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "x y\n"


@pytest.mark.parametrize(
    "given",
    [{"ssh": "-oProxyCommand=id"}, {"ssh": ""}, {"ssh": "a", "environment": {"A=B;": "x"}}],
)
def test_what_is_no_host(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is no"):
        HostSettings(**given)
