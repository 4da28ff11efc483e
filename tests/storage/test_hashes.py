"""What is remembered of a file: worked out once, and never taken for another file's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.hashes import FileState, Hashes

LARGE = 3 << 20
"""More than the head that is compared whole."""


def hashes_in(folder: Path) -> Hashes:
    """Return the hashes of a new process with this cache."""
    return Cache(folder / "cache", 1 << 30).hashes


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of ones."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"1" * LARGE)
    return path


def test_facts_are_worked_out_once(tmp_path: Path, file: Path) -> None:
    calls: list[Path] = []

    def work_out(path: Path) -> dict[str, int]:
        calls.append(path)
        return {"n_bytes": path.stat().st_size}

    first = hashes_in(tmp_path)
    assert first.known(file, "size") is None
    for hashes in (first, first, hashes_in(tmp_path)):
        assert hashes.facts(file, "size", work_out) == {"n_bytes": LARGE}
    assert calls == [file]
    assert hashes_in(tmp_path).sha256(file) == sha256(b"1" * LARGE)
    assert hashes_in(tmp_path).known(file, "size") == {"n_bytes": LARGE}, "both are kept"


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def by_rename(path: Path, data: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


def by_link(path: Path, data: bytes) -> None:
    """As a hub's cache does: the name is a link to another file."""
    other = path.with_name("other")
    other.write_bytes(data)
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("replace", [in_place, by_rename, by_link])
@pytest.mark.parametrize("in_one_process", [True, False])
def test_another_file_of_the_same_size_and_time_is_another_file(
    tmp_path: Path, file: Path, replace: Callable[[Path, bytes], None], in_one_process: bool
) -> None:
    hashes = hashes_in(tmp_path)
    hashes.sha256(file)
    state = file.stat()
    other = b"1" * (LARGE - 1) + b"2"
    replace(file, other)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert (hashes if in_one_process else hashes_in(tmp_path)).sha256(file) == sha256(other)


def test_a_file_written_at_once_after_it_was_hashed_is_another_file(tmp_path: Path) -> None:
    """Within a tick of the file system's clock two changes leave the same times."""
    path = tmp_path / "x"
    for number in range(20):
        data = str(number % 10).encode()
        with path.open("r+b" if path.exists() else "wb") as stream:
            stream.write(data)
        os.utime(path, ns=(10**18, 10**18))
        assert hashes_in(tmp_path).sha256(path) == sha256(data)


def test_a_file_system_without_inodes_and_times_is_not_relied_on(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = FileState(inode=0, n_bytes=LARGE, mtime_ns=0, ctime_ns=0)
    monkeypatch.setattr(FileState, "of", lambda _path: same)
    hashes_in(tmp_path).sha256(file)
    for changed in (b"2" + b"1" * (LARGE - 1), b"1" * (LARGE - 1) + b"2", b"2" * LARGE):
        file.write_bytes(changed)
        assert hashes_in(tmp_path).sha256(file) == sha256(changed)


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, file: Path) -> None:
    reads: list[bytes] = []

    def work_out(path: Path) -> dict[str, str]:
        reads.append(path.read_bytes())
        if len(reads) == 1:
            path.write_bytes(b"2" * LARGE)
        return {"hex": sha256(reads[-1])}

    facts = hashes_in(tmp_path).facts(file, "sha256", work_out)
    assert facts == {"hex": sha256(b"2" * LARGE)}


def test_threads_and_processes_work_it_out_once(tmp_path: Path, file: Path) -> None:
    hashes, calls = hashes_in(tmp_path), []

    def work_out(path: Path) -> dict[str, str]:
        calls.append(path)
        script = (
            "import sys\nfrom pathlib import Path\n"
            "from pytest_quantgate.storage.cache import Cache\n"
            f"hashes = Cache(Path({str(tmp_path / 'cache')!r}), 1).hashes\n"
            "print('ready', flush=True)\n"
            f"print(hashes.facts(Path({str(file)!r}), 'x', lambda _: 1 / 0))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        others.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return {"x": "here"}

    others: list[subprocess.Popen[bytes]] = []
    threads = [threading.Thread(target=hashes.facts, args=(file, "x", work_out)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert others[0].communicate(timeout=60)[0] == b"{'x': 'here'}\n"
