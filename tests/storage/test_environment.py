"""What the machine refuses is one line, and nothing half-written stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.errors import EnvironmentProblem
from pytest_quantgate.storage import environment
from pytest_quantgate.storage.atomic import write_json
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.environment import cache_folder, path_below, temporary_folder

AS_A_USER_WITHOUT_A_NAME = """
import os, sys, tempfile
from pathlib import Path
import pytest_quantgate.storage.cache, pytest_quantgate.hosts.device_locks as device_locks
from pytest_quantgate.errors import EnvironmentProblem
tempfile.tempdir = sys.argv[1]
if os.getuid() == 0:
    os.setuid(12345)
try:
    print(pytest_quantgate.storage.cache.Cache(None, 1).folder)
except EnvironmentProblem as problem:
    print(problem)
with device_locks.hold_device("cpu"):
    print(*[path.name for path in Path(sys.argv[1]).iterdir()])
"""


def refused(problem: pytest.ExceptionInfo[EnvironmentProblem]) -> str:
    text = str(problem.value)
    assert "\n" not in text
    return text


@pytest.mark.skipif(not Path("/tmp").is_dir(), reason="there is no /tmp")
def test_a_user_without_a_name_and_a_home_folder() -> None:
    """As in ``docker run -u 12345``; the folder is one that another user may enter."""
    lacking = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in lacking}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's is its user's
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER_WITHOUT_A_NAME, folder],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    cache, locks = done.stdout.splitlines()
    if os.getuid() == 0:
        assert cache == (
            "there is no folder for the cache: uid-12345 has no home folder; set HOME or"
            " XDG_CACHE_HOME, or name a cache with --quant-cache DIR"
        )
        assert locks == "pytest-quantgate-uid-12345"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_keeps_nothing_half_written(small_disk: Path) -> None:
    write_json(small_disk / "old.json", "old")
    with pytest.raises(EnvironmentProblem, match="No space left on device; 1.0 MB are") as problem:
        write_json(small_disk / "old.json", "x" * 2_000_000)
    assert "name another cache with --quant-cache DIR" in refused(problem)
    assert [path.name for path in small_disk.iterdir()] == ["old.json"]
    assert (small_disk / "old.json").read_text() == '"old"\n'

    def make(path: Path) -> dict[str, Any]:
        path.write_bytes(b"x" * 2_000_000)
        return {}

    with pytest.raises(EnvironmentProblem, match="cannot make .*: No space left on device"):
        Cache(small_disk, 1 << 30).artifact("0" * 64, ".bin", make)
    assert not [path for path in small_disk.glob("artifacts/*") if path.is_file()]


def test_a_read_only_cache_is_one_line(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    cache = Cache(small_disk, 1 << 30)
    cache.prune()
    with pytest.raises(EnvironmentProblem, match="cannot make the folder .*runs: Read-only") as why:
        cache.sub("runs")
    assert "may not write there" in refused(why)


def test_a_folder_where_a_file_is_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot make the folder .*: Not a directory"):
        Cache(tmp_path / "cache", 1 << 30).sub("runs")


def test_no_temporary_folder_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(EnvironmentProblem, match="set TMPDIR"):
        temporary_folder()
    monkeypatch.setattr(environment, "user_cache_path", lambda *_, **__: Path("~/.cache/x"))
    with pytest.raises(EnvironmentProblem, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()

    def no_home(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(EnvironmentProblem, match="'~/m.gguf' is in a home folder, and .* has none"):
        path_below(Path(), "~/m.gguf")


def test_a_name_that_is_not_of_utf_8_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"m\\xe9\.gguf' is not of UTF-8; rename"):
        path_below(tmp_path, os.fsdecode(b"m\xe9.gguf"))
