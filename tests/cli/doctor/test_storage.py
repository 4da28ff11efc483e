"""A cache that is empty, full, littered and not to be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_quantgate.cli.doctor import storage
from pytest_quantgate.cli.doctor.findings import Severity
from pytest_quantgate.cli.doctor.storage import examine_storage
from pytest_quantgate.storage.cache import Cache
from tests.cli.doctor.conftest import Configure, examined


def test_an_empty_cache_is_well_and_stays_unmade(configure: Configure, tmp_path: Path) -> None:
    section = examined(examine_storage, configure(top="cache_max_gib = 0.001"))
    assert section.findings == []
    assert section.lines[0] == str(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_full_cache_is_told(configure: Configure, tmp_path: Path) -> None:
    settings = configure(top="cache_max_gib = 0.001")
    artifact = tmp_path / "cache" / "artifacts" / "x.gguf"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"x" * 900_000)
    assert examined(examine_storage, settings).findings == []
    artifact.write_bytes(b"x" * 1_000_000)
    section = examined(examine_storage, settings)
    (finding,) = section.findings
    assert finding.severity is Severity.WARNING
    assert finding.what.startswith("the cache is full")
    assert finding.mend == "quantgate cache --clear"
    assert section.facts["made_again_bytes"] == 1_000_000
    assert section.facts["parts"]["artifacts"] == {"files": 1, "bytes": 1_000_000}


def test_what_a_killed_run_left_is_told(configure: Configure, tmp_path: Path) -> None:
    settings = configure()
    folder = tmp_path / "cache" / "artifacts"
    folder.mkdir(parents=True)
    (folder / f"{'a' * 64}.0123.partial").write_bytes(b"x" * 2_000_000)
    section = examined(examine_storage, settings)
    assert section.facts["leftover_bytes"] == 2_000_000
    (finding,) = section.findings
    assert finding.mend == "quantgate cache --prune"


def test_only_locks_that_are_held_are_reported(configure: Configure) -> None:
    """The file of a lock stays when it is released, however often it is looked at."""
    settings = configure()
    cache = Cache(settings.cache_dir, settings.cache_max_bytes)
    for number in range(156):
        with cache.lock(f"artifact-{number}"):
            pass
    with cache.lock("artifact-held"):
        lines = examined(examine_storage, settings).lines
    assert "locks held now, by other runs: 1" in lines
    assert not any(line.startswith("locks") for line in examined(examine_storage, settings).lines)


def test_a_killed_run_is_told_with_its_logs(configure: Configure, tmp_path: Path) -> None:
    settings = configure()
    log = tmp_path / "cache" / "runs" / "one" / "logs" / f"default-{_ended_process()}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    told = f"runs that were killed: 1; the last one's logs: {log.parent}"
    assert told in examined(examine_storage, settings).lines
    (log.parent.parent / "ended").touch()
    assert told not in examined(examine_storage, settings).lines


def _ended_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_disk_that_is_full_or_too_small(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure()

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=n_bytes))

    free(30 << 30)
    assert examined(examine_storage, settings).findings == []
    free(10 << 30)
    (finding,) = examined(examine_storage, settings).findings
    assert finding.severity is Severity.WARNING
    assert "set a smaller cache_max_gib" in finding.what
    free(1 << 20)
    (finding,) = examined(examine_storage, settings).findings
    assert finding.severity is Severity.ERROR
    assert "no more than 0 MB that could be removed" in finding.what
    assert finding.mend == "", "clearing an empty cache frees nothing"
    monkeypatch.setattr(storage, "_LEAST_FREE_BYTES", (1 << 20) + 1)
    cached = settings.cache_dir / "texts" / "x.txt"  # type: ignore[operator] # configured
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x")
    (finding,) = examined(examine_storage, settings).findings
    assert finding.mend == "quantgate cache --clear"


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="here every folder can be written"
)
def test_a_cache_that_cannot_be_written(configure: Configure, tmp_path: Path) -> None:
    settings = configure(top="")
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    (finding,) = examined(examine_storage, settings).findings
    assert "cannot be written" in finding.what


def test_a_file_in_the_caches_place(configure: Configure, tmp_path: Path) -> None:
    settings = configure()
    (tmp_path / "cache").write_text("no folder")
    (finding,) = examined(examine_storage, settings).findings
    assert finding.severity is Severity.ERROR
    assert "cannot be written" in finding.what


def test_a_disk_that_is_mounted_read_only(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root, whom no permission stops."""
    settings = configure()
    state = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda _path: state)
    (finding,) = examined(examine_storage, settings).findings
    assert finding.severity is Severity.ERROR
    assert "is on a disk that is mounted read-only; set cache_dir" in finding.what


def test_a_folder_of_the_cache_that_another_user_made(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure()
    folder = tmp_path / "cache" / "artifacts"
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != folder)
    (finding,) = examined(examine_storage, settings).findings
    assert f"the cache cannot be written: {folder} is not yours to write" in finding.what
