"""Storing baselines: what an update writes, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project

REFUSED = ["crash", "hang", "nan", "noisy"]


def contents(project: Project) -> dict[str, bytes]:
    """Return each baseline's bytes by its format."""
    return {path.name.split("-")[0]: path.read_bytes() for path in project.baselines}


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project with the fake engine and no faults."""
    own_cache.use_fake_engine()
    return own_cache


@pytest.mark.parametrize("way", [(), ("-n0",), ("-n2",)], ids=["plain", "n0", "n2"])
def test_baselines_are_stored_and_then_green(own_cache: Project, way: tuple[str, ...]) -> None:
    """With the real engine and warnings as errors; a green re-run reports nothing unused."""
    first = own_cache.accept(*way)
    assert first.ret == pytest.ExitCode.OK
    first.stdout.fnmatch_lines(["accepted tiny-Q4_0-cpu: PPL *, * bytes (new)"])
    first.stdout.no_fnmatch_line("*No baseline is stored*")
    assert [path.relative_to(own_cache.root).as_posix() for path in own_cache.baselines] == [
        "baselines/tiny/F16-cpu-story-c64.json",
        "baselines/tiny/Q4_0-cpu-story-c64.json",
        "baselines/tiny/Q8_0-cpu-story-c64.json",
    ]
    before = contents(own_cache)
    again = own_cache.matrix(*way, "--quant-report=report.json")
    assert again.ret == pytest.ExitCode.OK
    again.assert_outcomes(passed=3)
    again.stdout.no_fnmatch_line("*unused*")
    assert contents(own_cache) == before
    record = json.loads((own_cache.root / "report.json").read_text())
    assert [cell["verdict"] for cell in record["cells"]] == ["PASS"] * 3
    assert record["gated"] is True


def test_without_a_configuration_the_folder_of_the_run_is_the_project(
    fake: Project, tmp_path: Path
) -> None:
    """An option's folder beside the project moves pytest's root above it."""
    (fake.root / "pyproject.toml").unlink()
    (tmp_path / "cache").mkdir()
    options = ["-p", "no:cacheprovider", "--quant-cache", str(tmp_path / "cache")]
    options += [f"--quant-model={fake.model}", f"--quant-text={fake.text}"]
    options += ["--quant-formats=F16", "--quant-matrix"]
    accepted = fake.pytester.runpytest_inprocess(
        *options, "--snapshot-update", "--quant-reason=for a test"
    )
    assert accepted.ret == pytest.ExitCode.OK
    assert [path.name for path in fake.baselines] == ["F16-cpu-story-c512.json"]
    fake.pytester.runpytest_inprocess(*options).stdout.fnmatch_lines(["F16*PASS*identical*"])


def test_a_baseline_is_a_readable_file_of_a_few_kilobytes(fake: Project) -> None:
    fake.accept()
    text = fake.baselines[0].read_text(encoding="utf-8")
    stored = json.loads(text)
    assert len(text) < 6000
    assert stored["version"] == 1
    assert stored["reason"] == "for a test"
    assert stored["key"]["format"] == "F16"
    assert stored["made_by"]["engine"] == "fake 1"
    assert len(stored["perplexity"]["chunks"]["nll_sum_nats"]) == 16
    keys = [line.split('"')[1] for line in text.splitlines() if line.startswith(' "')]
    assert keys[:2] == ["reason", "summary"]
    assert keys[2:] == sorted(keys[2:])
    assert not list(fake.root.glob("baselines/**/*.partial"))


def test_an_update_of_one_cell_keeps_the_others(fake: Project) -> None:
    fake.accept()
    before = contents(fake)
    fake.set_faults(Q4_0="worse", Q8_0="worse")
    result = fake.accept("-k", "Q4_0")
    assert result.ret == pytest.ExitCode.OK
    after = contents(fake)
    assert after["Q4_0"] != before["Q4_0"]
    assert (after["F16"], after["Q8_0"]) == (before["F16"], before["Q8_0"])
    result.stdout.fnmatch_lines(
        ["accepted tiny-Q4_0-cpu: PPL * → * (+*.??? %), * → * bytes (+0.00 %)"]
    )


def test_an_update_keeps_the_anchor(fake: Project) -> None:
    """The first accepted values stay, so that slow drift can be judged."""
    fake.accept()
    anchors = [json.loads(path.read_text())["anchor"] for path in fake.baselines]
    fake.set_faults(Q4_0="worse")
    fake.accept()
    assert [json.loads(path.read_text())["anchor"] for path in fake.baselines] == anchors


def test_an_update_of_what_passes_rewrites_nothing(fake: Project) -> None:
    fake.accept()
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in fake.baselines}
    result = fake.accept()
    assert result.ret == pytest.ExitCode.OK
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in fake.baselines}
    assert after == before
    result.stdout.no_fnmatch_line("accepted *")


@pytest.mark.parametrize("fault", REFUSED)
def test_an_update_refuses_what_nobody_should_accept(fake: Project, fault: str) -> None:
    """INVALID, CRASHED, TIMEOUT, INCONCLUSIVE: red, and the old one stays."""
    fake.accept()
    before = contents(fake)
    fake.set_faults(Q4_0=fault)
    result = fake.accept()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*tiny-Q4_0-cpu: not accepted as a baseline: *"])
    assert contents(fake) == before


@pytest.mark.parametrize("fault", ["crash", "nan", "refuse"])
def test_a_first_update_stores_nothing_of_a_fault(fake: Project, fault: str) -> None:
    fake.set_faults(Q4_0=fault)
    assert fake.accept().ret == pytest.ExitCode.TESTS_FAILED
    assert set(contents(fake)) == {"F16", "Q8_0"}


@pytest.mark.parametrize("way", [(), ("-n2",)], ids=["plain", "n2"])
def test_an_update_needs_a_reason(fake: Project, way: tuple[str, ...]) -> None:
    result = fake.matrix("--snapshot-update", *way)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['*--snapshot-update needs a reason; add --quant-reason "WHY"*'])
    assert not fake.baselines


def test_an_update_through_a_test_of_ones_own_needs_a_reason_too(fake: Project) -> None:
    """A baseline without a reason could not be read again."""
    fake.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_ppl
        def test_mine(quant_cell):
            pass
        """
    )
    result = fake.run("--snapshot-update")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(['*needs a reason; add --quant-reason "WHY"*'])
    assert not fake.baselines
    assert fake.run("--snapshot-update", "--quant-reason=mine").ret == pytest.ExitCode.OK
    assert fake.run().ret == pytest.ExitCode.OK


def test_snapshots_of_other_tests_are_left_alone(fake: Project) -> None:
    """An update of theirs needs no reason of ours, and touches no baseline."""
    fake.pytester.makepyfile("def test_theirs(snapshot): assert snapshot == 3")
    assert fake.run("--snapshot-update").ret == pytest.ExitCode.OK
    assert fake.run().ret == pytest.ExitCode.OK
    assert not fake.baselines


@pytest.mark.parametrize("damage", ["{", '{"version": 0}'])
def test_an_update_replaces_a_damaged_baseline(fake: Project, damage: str) -> None:
    fake.accept()
    before = contents(fake)
    path = next(path for path in fake.baselines if "Q4_0" in path.name)
    path.write_text(damage)
    assert fake.accept().ret == pytest.ExitCode.OK
    assert contents(fake) == before


def test_a_real_change_of_files_is_the_quantizers(own_cache: Project, tmp_path: Path) -> None:
    """Existing files: Q4_0's file is replaced by one with a tensor in Q8_0."""
    project = own_cache
    project.configure(
        formats=("F16", "Q4_0", "mixed"),
        tables='[tool.quantgate.formats.mixed]\nbase="Q4_0"\ntensors={"blk.0.attn_v"="Q8_0"}',
    )
    made = tmp_path / "made.json"
    assert project.matrix(f"--quant-report={made}").ret == pytest.ExitCode.OK
    cells = {cell["format"]: cell for cell in json.loads(made.read_text())["cells"]}
    artifacts = {
        json.loads(path.read_text())["identity"]: path.with_suffix("")
        for path in (project.cache / "artifacts").glob("*.json")
    }
    current = tmp_path / "current.gguf"
    current.write_bytes(artifacts[cells["Q4_0"]["file_sha256"]].read_bytes())
    project.configure(
        formats=("F16", "Q4_0"),
        profile='models = ["own"]',
        tables=(
            "[tool.quantgate.models.own]\n"
            f'files = {{ F16 = "{project.model}", Q4_0 = "{current}" }}'
        ),
    )
    assert project.accept().ret == pytest.ExitCode.OK
    current.write_bytes(artifacts[cells["mixed"]["file_sha256"]].read_bytes())
    result = project.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*own-Q4_0-cpu: REGRESSED: *1 of 21 tensors changed type (attn_v Q4_0 → Q8_0 in blk.0*",
            "cause: quantizer (tokenization same; 1 of 21 tensors changed type (attn_v Q4_0 → *",
        ]
    )


PARTS = {
    "size": '@pytest.mark.quant_size(max_vs_baseline="+0.5%")',
    "perplexity": '@pytest.mark.quant_ppl(max_vs_baseline="+0.25%")',
}


def two_parts_moved(fake: Project) -> Project:
    """Return a project whose Q4_0 has a worse perplexity and a larger file than its baseline."""
    fake.accept()
    for name, marker in PARTS.items():
        body = f"import pytest\n\n{marker}\ndef test_mine(quant_cell): pass\n"
        fake.pytester.makepyfile(**{f"test_{name}": body})
    path = next(path for path in fake.baselines if "Q4_0" in path.name)
    stored = json.loads(path.read_text())
    stored["size"]["file_bytes"] -= 100_000
    tensors = stored["size"]["tensors"].items()
    stored["size"]["tensors"] = {name: re.sub(r":\w+", ":0", words) for name, words in tensors}
    path.write_text(json.dumps(stored))
    fake.set_faults(Q4_0="worse", library="another build")
    return fake


def one_stored(project: Project) -> dict[str, Any]:
    """Return Q4_0's baseline."""
    path = next(path for path in project.baselines if "Q4_0" in path.name)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    ("asked", "taken"),
    [("size", {"size"}), ("perplexity", {"perplexity", "divergence", "made_by"})],
)
def test_an_update_stores_what_its_test_asked_about(
    fake: Project, asked: str, taken: set[str]
) -> None:
    """Nobody looked at the other part, which stays red."""
    two_parts_moved(fake)
    before = one_stored(fake)
    accepted = fake.run(
        "--snapshot-update", "--quant-reason=seen", "-k", "Q4_0", f"test_{asked}.py"
    )
    assert accepted.ret == pytest.ExitCode.OK
    after = one_stored(fake)
    moved = {name for name in before if before[name] != after[name]}
    assert moved - {"scored_tensors", "reason", "summary"} <= taken
    assert asked in moved
    assert after["scored_tensors"] != after["size"]["tensors"]
    result = fake.run("-k", "Q4_0")
    result.assert_outcomes(passed=1, failed=1)
    other = next(name for name in PARTS if name != asked)
    result.stdout.fnmatch_lines([f"FAILED test_{other}.py*"])


def test_a_size_accepted_alone_does_not_hide_whose_fault_the_quality_is(fake: Project) -> None:
    """The perplexity is still of the tensors before, which have changed since."""
    two_parts_moved(fake)
    fake.run("--snapshot-update", "--quant-reason=seen", "-k", "Q4_0", "test_size.py")
    result = fake.run("-k", "Q4_0", "test_perplexity.py")
    result.stdout.fnmatch_lines(["cause: quantizer (*tensors changed*"])
    fake.run("--snapshot-update", "--quant-reason=seen", "-k", "Q4_0", "test_perplexity.py")
    assert one_stored(fake)["scored_tensors"] is None
    assert fake.run("-k", "Q4_0").ret == pytest.ExitCode.OK


def test_a_size_of_another_text_keeps_the_quality_too(fake: Project) -> None:
    """Whoever accepts a size has not looked at what the other text says."""
    two_parts_moved(fake)
    before = one_stored(fake)
    other = fake.root / "other.txt"
    other.write_bytes(b"Once more: " + fake.text.read_bytes())
    config = fake.root / "pyproject.toml"
    config.write_text(config.read_text().replace(str(fake.text), str(other)))
    fake.run("--snapshot-update", "--quant-reason=seen", "-k", "Q4_0", "test_size.py")
    after = one_stored(fake)
    assert after["size"] != before["size"]
    assert after["perplexity"] == before["perplexity"]
    result = fake.run("-k", "Q4_0", "test_perplexity.py")
    result.stdout.fnmatch_lines(["*NOT_COMPARABLE: the text's bytes are not the baseline's*"])


def test_a_marker_of_the_drift_alone_needs_a_baseline_and_stops_early(fake: Project) -> None:
    """It is judged without a limit against the baseline, as one against it would be."""
    marker = '@pytest.mark.quant_ppl(max_vs_anchor="+1%")'
    fake.pytester.makepyfile(f"import pytest\n\n{marker}\ndef test_mine(quant_cell): pass\n")
    fake.configure(profile="looks = [8, 16]\ngate = true")
    fake.run("-k", "Q4_0").stdout.fnmatch_lines(["*NO_BASELINE: no baseline is stored*"])
    fake.accept()
    assert fake.run("--quant-report=report.json").ret == pytest.ExitCode.OK
    cells = json.loads((fake.root / "report.json").read_text())["cells"]
    assert {len(cell["chunks"]["index"]) for cell in cells} == {8}
    fake.set_faults(Q4_0="worse")
    result = fake.run("-k", "Q4_0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*REGRESSED: PPL rose by * against the anchor over *"])


def test_a_projects_own_fixture_snapshot_is_not_asked_for(project: Project) -> None:
    """It may be anything: here it raises."""
    project.use_fake_engine()
    conftest = project.root / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\n\nimport pytest\n\n@pytest.fixture\ndef snapshot(): raise OSError('not of syrupy')\n"
    )
    result = project.accept()
    result.assert_outcomes(passed=3)
    assert len(project.baselines) == 3
    project.matrix().assert_outcomes(passed=3)
