"""The cache: whole or not there, made once, verified on read, bounded, safe after a kill."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_quantgate
from pytest_quantgate.storage.atomic import read_json, write_atomically, write_json
from pytest_quantgate.storage.cache import FOLDERS, Cache
from pytest_quantgate.storage.keys import file_sha256, key_of

KEY = key_of(kind="test")


def make_bytes(data: bytes, calls: list[Path] | None = None) -> Any:
    """Return what makes an artifact of these bytes, and notes its calls."""

    def make(path: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(path)
        path.write_bytes(data)
        return {"seconds_s": 1.5}

    return make


def test_an_artifact_is_made_once_and_found_by_the_next_run(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data", calls))
    second = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"other", calls))
    assert len(calls) == 1
    assert first == second
    assert second.path.read_bytes() == b"data"
    assert second.identity == hashlib.sha256(b"data").hexdigest()
    assert second.facts == {"seconds_s": 1.5}


def test_it_is_written_beside_its_place_and_renamed(tmp_path: Path) -> None:
    calls: list[Path] = []
    entry = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data", calls))
    assert calls[0] != entry.path
    assert calls[0].parent == entry.path.parent
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("damage", [b"dat", b"datX", b""])
def test_a_damaged_artifact_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    entry = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data"))
    entry.path.write_bytes(damage)
    again = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data"))
    assert again.path.read_bytes() == b"data"


def test_an_artifact_without_a_readable_stamp_is_made_anew(tmp_path: Path) -> None:
    """As after a kill between the two renames."""
    entry = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data"))
    stamp = entry.path.with_name(f"{entry.path.name}.json")
    for text in ("{", "[]", '{"version": 99}'):
        calls: list[Path] = []
        stamp.write_text(text)
        Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data", calls))
        assert len(calls) == 1


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> dict[str, Any]:
        path.write_bytes(b"half")
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError):
        Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", fail)
    assert not list((tmp_path / "artifacts").iterdir())


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """The process is killed while it writes."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pytest_quantgate.storage.cache import Cache\n"
        "def make(path):\n"
        "    path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Cache(Path({str(tmp_path)!r}), 1 << 30).artifact({KEY!r}, '.bin', make)\n"
    )
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -9
    assert len(list(tmp_path.rglob("*.partial"))) == 1
    Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"data"))
    assert not list(tmp_path.rglob("*.partial"))


def test_two_processes_make_one_artifact_once(tmp_path: Path) -> None:
    """Both start at the same moment; each call of ``make`` leaves a file."""
    script = (
        "import sys, uuid\n"
        "from pathlib import Path\n"
        "from pytest_quantgate.storage.cache import Cache\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "def make(path):\n"
        "    (folder / f'made-{uuid.uuid4().hex}').touch()\n"
        "    path.write_bytes(b'data' * 100000)\n"
        "    return {}\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"entry = Cache(folder, 1 << 30).artifact({KEY!r}, '.bin', make)\n"
        "print(entry.identity)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n", timeout=60)[0] for process in processes]
    assert answers[0] == answers[1]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_old_artifacts_go_when_the_bound_is_reached_but_not_what_is_in_use(
    tmp_path: Path,
) -> None:
    for age, name in ((300, "oldest"), (200, "older")):
        entry = Cache(tmp_path, 1 << 30).artifact(key_of(n=name), ".bin", make_bytes(b"x" * 100))
        stamp = entry.path.with_name(f"{entry.path.name}.json")
        os.utime(stamp, (1e9 - age, 1e9 - age))
    cache = Cache(tmp_path, 250)
    mine = cache.artifact(key_of(n="mine"), ".bin", make_bytes(b"x" * 100))
    left = {path.name for path in (tmp_path / "artifacts").glob("*.bin")}
    assert left == {f"{key_of(n='older')}.bin", mine.path.name}
    also = cache.artifact(key_of(n="also"), ".bin", make_bytes(b"x" * 200))
    assert mine.path.exists(), "in use, although the bound is passed"
    assert also.path.exists()
    assert not (tmp_path / "artifacts" / f"{key_of(n='older')}.bin").exists()
    stamps = {path.name.removesuffix(".json") for path in (tmp_path / "artifacts").glob("*.json")}
    assert stamps == {mine.path.name, also.path.name}


def test_reading_an_artifact_makes_it_recent(tmp_path: Path) -> None:
    for name in ("a", "b"):
        entry = Cache(tmp_path, 1 << 30).artifact(key_of(n=name), ".bin", make_bytes(b"x" * 100))
        os.utime(entry.path.with_name(f"{entry.path.name}.json"), (1e9, 1e9))
    Cache(tmp_path, 1 << 30).artifact(key_of(n="a"), ".bin", make_bytes(b""))
    Cache(tmp_path, 250).artifact(key_of(n="c"), ".bin", make_bytes(b"x" * 100))
    left = {path.stem for path in (tmp_path / "artifacts").glob("*.bin")}
    assert left == {key_of(n="a"), key_of(n="c")}


def test_an_artifact_that_was_replaced_in_a_run_is_made_anew(tmp_path: Path) -> None:
    """Another file of the same size and modification time."""
    cache = Cache(tmp_path, 1 << 30)
    path = cache.artifact(KEY, ".bin", make_bytes(b"data")).path
    state = path.stat()
    path.write_bytes(b"evil")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert cache.artifact(KEY, ".bin", make_bytes(b"data")).path.read_bytes() == b"data"


def test_a_text_is_restored_when_it_was_damaged(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    digest = hashlib.sha256(b"text\r\n").hexdigest()
    path = cache.text(b"text\r\n", digest)
    assert path.read_bytes() == b"text\r\n"
    path.write_bytes(b"text\n")
    assert cache.text(b"text\r\n", digest).read_bytes() == b"text\r\n"


def test_keys_depend_on_every_part_and_not_on_their_order() -> None:
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1"), key_of(a=None)}) == 5


def test_json_is_sorted_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8").index('"a"') < path.read_text().index('"b"')
    write_atomically(path, b"{")
    assert read_json(path) is None
    assert read_json(tmp_path / "nothing.json") is None
    assert [item.name for item in path.parent.iterdir()] == ["x.json"]


def test_a_file_hash_is_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_what_another_process_is_making_is_not_evicted(tmp_path: Path) -> None:
    """It holds the artifact's lock."""
    entry = Cache(tmp_path, 1 << 30).artifact(KEY, ".bin", make_bytes(b"x" * 100))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_quantgate.storage.cache import Cache\n"
        f"with Cache(Path({str(tmp_path)!r}), 1).lock('artifact-{KEY[:32]}'):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        Cache(tmp_path, 1).evict(keep=set())
        assert entry.path.exists()
        other.communicate("go\n", timeout=60)
    Cache(tmp_path, 1).evict(keep=set())
    assert not entry.path.exists()


def test_every_folder_that_is_used_is_one_of_the_parts() -> None:
    package = Path(pytest_quantgate.__file__).parent
    used = {
        match[1].partition("/")[0]
        for path in package.rglob("*.py")
        for match in re.finditer(r"(?:cache|self)\.sub\(f?\"([^\"]+)", path.read_text("utf-8"))
    }
    # The folder of hashes is made with the first of them.
    assert used | {"hashes"} == {*FOLDERS, "locks"}


def test_an_artifact_of_a_killed_process_is_a_leftover(tmp_path: Path) -> None:
    """One that another process is writing is not: it holds the lock."""
    cache = Cache(tmp_path, 1 << 30)
    partial = cache.sub("artifacts") / f"{KEY}.0123456789abcdef.partial"
    partial.write_bytes(b"half")
    assert cache.leftovers() == [partial]
    with cache.lock(f"artifact-{KEY[:32]}"):
        assert cache.leftovers() == []
        cache.prune()
        assert partial.exists()
    cache.prune()
    assert not partial.exists()


def test_a_partial_file_with_a_number_is_left_when_its_process_has_ended(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = cache.sub("references/one") / f"base.{os.getpid()}.partial"
    left = cache.sub("references/one") / f"base.{ended.pid}.partial"
    for path in (mine, left):
        path.write_bytes(b"half")
    assert cache.leftovers() == [], "another host's process may be writing it"
    for path in (mine, left):
        os.utime(path, (1e9, 1e9))
    assert cache.leftovers() == [left]


def test_what_bears_no_number_is_left_after_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    file = cache.sub("tokens") / f"t.npz.{'7' * 32}.partial"
    file.write_bytes(b"half")
    folder = cache.sub("plans/tmpabc")
    assert cache.leftovers() == []
    for path in (file, folder):
        os.utime(path, (1e9, 1e9))
    assert cache.leftovers() == [file, folder]


def test_a_run_that_still_writes_is_not_pruned(tmp_path: Path) -> None:
    """Its folder's own time is that of its first file."""
    cache = Cache(tmp_path, 1 << 30)
    log = cache.sub("runs/long/logs") / "x.log"
    log.touch()
    os.utime(log.parent.parent, (1e9, 1e9))
    cache.prune()
    assert log.exists()
    for path in (log, log.parent, log.parent.parent):
        os.utime(path, (1e9, 1e9))
    cache.prune()
    assert not log.parent.parent.exists()


def test_what_is_in_no_part_is_shown(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    (cache.sub("other") / "x").write_bytes(b"12")
    assert list(cache.contents())[-1] == "other"
    assert cache.contents()["other"] == (1, 2)


def test_a_run_without_an_end_and_a_process_was_killed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for run_id, number in (("killed", gone.pid), ("ended", gone.pid), ("going-on", os.getpid())):
        (cache.sub(f"runs/{run_id}/logs") / f"default-{number}.log").touch()
    cache.sub("runs/planned")
    cache.note_end("ended")
    cache.note_end("nowhere")
    assert [path.name for path in cache.killed_runs()] == ["killed"]
