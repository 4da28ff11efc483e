"""The built-in suite: what a person types, and what is shown."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project

WAYS = pytest.mark.parametrize("way", [(), ("-n2",)], ids=["plain", "n2"])
CELLS = ("tiny-F16-cpu", "tiny-Q8_0-cpu", "tiny-Q4_0-cpu")


def events(cache: Path) -> list[dict[str, object]]:
    """Return all events of all runs in a cache."""
    return [
        json.loads(line)
        for path in sorted(cache.glob("runs/*/events.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_a_first_run_measures_alike_however_it_is_spread(project: Project) -> None:
    """Green, one table, the reference measured once, bit-equal figures, the next command."""
    seen = []
    for number, way in enumerate([(), ("-n0",), ("-n2",)]):
        cache = project.root / f"cache{number}"
        report = project.root / f"{number}.json"
        result = project.matrix(*way, f"--quant-report={report}", f"--quant-cache={cache}")
        assert result.ret == pytest.ExitCode.OK
        result.assert_outcomes(passed=3)
        output = result.stdout.str()
        assert output.count("= quantization gate =") == 1
        assert output.count("No baseline is stored for these cells and settings") == 1
        result.stdout.fnmatch_lines(
            [
                "tiny on cpu, text story, 16 common chunks, reference F16",
                "*F16*2.1*16.0*reference*MEASURED*",
                "*  pytest --quant-matrix --snapshot-update --quant-reason*",
            ]
        )
        done = Counter(
            event["done"]
            for event in events(cache)
            if event["event"] == "Scoring" and event["cell"] == "tiny-F16-cpu"
        )
        assert done == dict.fromkeys(range(17), 1), "the start, then each chunk once"
        cells = json.loads(report.read_text())["cells"]
        assert [cell["id"] for cell in cells] == list(CELLS)
        assert {cell["verdict"] for cell in cells} == {"MEASURED"}
        seen.append([(cell["chunks"]["nll_sum_nats"], cell["file_sha256"]) for cell in cells])
    assert seen[0] == seen[1] == seen[2]


def test_a_record_keeps_what_two_are_compared_by(project: Project) -> None:
    """Whatever a baseline would know, except the values of single tokens."""
    project.accept("--quant-report=record.json")
    record = read_record(project.root / "record.json")
    assert record.command == "pytest --quant-matrix"
    assert len(project.baselines) == len(record.cells) == 3
    for stored in project.baselines:
        baseline = parse(stored.read_text(encoding="utf-8"), stored.name)
        seen = next(item for item in record.cells if item.format == baseline.key.format)
        scored = baseline.scored
        assert (seen.key, seen.made_by) == (baseline.key, baseline.made_by)
        assert (seen.text_sha256, seen.source_sha256) == (
            scored.text_sha256,
            baseline.source_sha256,
        )
        assert (seen.tensors, seen.metadata) == (baseline.size.tensors, baseline.metadata)
        same = {"domain": scored.chunks.domain}  # which a baseline does not keep
        assert seen.chunks.replace(**same) == scored.chunks
        assert (seen.chunks.kld_sums is None) == (baseline.divergence is None)
        assert seen.limits["size_vs_baseline"] == 0.005
        assert seen.n_chunks_in_text is not None
        assert seen.chunks.is_exact
        assert seen.quantizer == ("" if seen.format == "F16" else "default")
    assert (record.against, record.others) == (None, ())


def test_the_matrix_alone_runs_only_its_cells(project: Project) -> None:
    project.pytester.makepyfile("def test_mine(): pass")
    project.use_fake_engine()
    result = project.matrix("-v")
    result.assert_outcomes(passed=3)
    for cell in CELLS:
        result.stdout.fnmatch_lines([f"quant-matrix::test_cell[[]{cell}[]] PASSED*"])


def test_paths_and_the_matrix_run_together(project: Project) -> None:
    path = project.pytester.makepyfile("def test_mine(): pass")
    project.use_fake_engine()
    result = project.matrix(path)
    result.assert_outcomes(passed=4)


def test_an_expression_selects_cells(project: Project) -> None:
    project.use_fake_engine()
    project.matrix("-k", "Q4_0").assert_outcomes(passed=1, deselected=2)


def test_a_gated_run_that_judged_no_cell_is_red(project: Project) -> None:
    """Even when other tests passed."""
    project.configure(profile="gate = true")
    project.use_fake_engine()
    path = project.pytester.makepyfile("def test_mine(): pass")
    result = project.matrix(path, "-k", "mine")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["quantgate: no cell was judged, so the gated run is red"])


def test_a_gated_run_with_nothing_collected_is_red(project: Project) -> None:
    project.configure(profile="gate = true")
    project.use_fake_engine()
    assert project.matrix("-k", "nothing").ret != pytest.ExitCode.OK


def test_a_gated_profile_without_baselines_is_red(project: Project) -> None:
    project.configure(profile="gate = true")
    project.use_fake_engine()
    result = project.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ['*NO_BASELINE: no baseline is stored; store one: pytest --quant-matrix -k "tiny-*-cpu"*']
    )


def test_the_command_line_stands_above_the_profile(project: Project) -> None:
    project.use_fake_engine()
    result = project.matrix("-v", "--quant-formats=Q6_K,mxfp4", "--quant-devices=cpu")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_cell[[]tiny-Q6_K-cpu[]]*", "*[[]tiny-MXFP4_MOE-cpu[]]*"])
    again = "pytest --quant-matrix --quant-formats Q6_K,mxfp4 --quant-devices cpu"
    result.stdout.fnmatch_lines([f"  {again} --snapshot-update *"])


def test_a_model_and_a_text_may_be_paths(project: Project) -> None:
    project.use_fake_engine()
    result = project.matrix("-v", f"--quant-model={project.model}", f"--quant-text={project.text}")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["tiny on cpu, text story, 16 common chunks, reference F16"])


def test_a_plan_runs_nothing(own_cache: Project) -> None:
    result = own_cache.run("--quant-plan")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "profile default: 3 cells, nothing was run",
            "tiny-Q4_0-cpu*disk*memory*looks at 16 chunks",
            "in all: disk * GB in *",
        ]
    )
    assert not list(own_cache.cache.glob("artifacts/*"))
    assert not list(own_cache.cache.glob("measurements/*"))
    assert not [event for event in events(own_cache.cache) if event["event"] == "Scoring"]


def test_a_run_notes_its_end(own_cache: Project) -> None:
    """So that one that was killed can be told from it."""
    own_cache.use_fake_engine()
    own_cache.matrix()
    runs = list((own_cache.cache / "runs").iterdir())
    assert len(runs) == 1
    assert (runs[0] / "ended").is_file()


def test_a_plan_tells_what_it_does_not_count(own_cache: Project) -> None:
    own_cache.configure(profile="memory = true\nbatch_geometry = true")
    result = own_cache.run("--quant-plan")
    result.stdout.fnmatch_lines(["not counted: batch_geometry, memory"])


def test_a_plan_counts_an_importance_matrix_once_a_model(own_cache: Project) -> None:
    result = own_cache.run(
        "--quant-plan", "--quant-imatrix=calibration", "--quant-formats=Q4_0,Q8_0"
    )
    lines = [line for line in result.stdout.lines if "importance matrix" in line]
    assert len(lines) == 1
    assert re.fullmatch(
        r"importance matrix calibration of tiny, unless it is in the cache: [0-9.]+ s", lines[0]
    )


def test_a_plan_of_a_calibration_counts_its_settings(own_cache: Project) -> None:
    def seconds(*options: str) -> float:
        found = re.search(
            r"up to about ([0-9.]+) s", own_cache.run("--quant-plan", *options).stdout.str()
        )
        assert found is not None
        return float(found[1])

    own_cache.configure(profile="chunks = 20\nn_ctx = 256")
    assert seconds("--quant-calibrate") > 3 * seconds() > 0


def test_a_plan_under_xdist_runs_nothing(own_cache: Project) -> None:
    result = own_cache.run("--quant-plan", "-n2")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["profile default: 3 cells, nothing was run"])
    assert not list(own_cache.cache.glob("artifacts/*"))


def test_a_markdown_report_has_the_table_and_what_is_red(project: Project) -> None:
    project.use_fake_engine(Q4_0="crash")
    result = project.matrix("--quant-report=report.md")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = (project.root / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Quantization gate: 1 of 3 cells red\n")
    assert "| format | size MB |" in text
    assert "- **tiny-Q4_0-cpu** CRASHED: the worker died: killed by SIGABRT" in text


@WAYS
def test_junit_carries_each_cells_figures(project: Project, way: tuple[str, ...]) -> None:
    """As properties of its test, also where another process ran it."""
    project.use_fake_engine(Q4_0="crash")
    project.matrix(*way, "--junitxml=junit.xml", "--quant-report=run.json")
    tree = ET.parse(project.root / "junit.xml")
    found = {
        str(case.get("name")): {
            str(item.get("name")): str(item.get("value")) for item in case.iter("property")
        }
        for case in tree.iter("testcase")
    }
    cells = json.loads((project.root / "run.json").read_text())["cells"]
    assert set(found) == {f"test_cell[{cell['id']}]" for cell in cells}
    for cell in cells:
        properties = found[f"test_cell[{cell['id']}]"]
        assert properties["quant_verdict"] == cell["verdict"]
        if cell["ppl"] is None:
            assert set(properties) == {"quant_verdict"}
        else:
            assert float(properties["quant_ppl"]) == cell["ppl"]
            assert int(properties["quant_file_bytes"]) == cell["file_bytes"]


def test_the_record_holds_no_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the values of secret variables nor the names of all."""
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    project.matrix("--quant-report=report.json", "-k", "F16")
    text = (project.root / "report.json").read_text()
    assert json.loads(text)["version"] == 2
    assert "verysecret" not in text
    assert "HF_TOKEN" not in text


@WAYS
def test_a_real_abort_fails_its_own_cells_alone(
    project: Project, aborting_model: Path, way: tuple[str, ...]
) -> None:
    """A GGML_ASSERT in the worker: CRASHED with its text; the other model goes on."""
    project.configure(
        formats=("F16", "Q8_0"),
        profile='models = ["bad", "tiny"]',
        tables=f'[tool.quantgate.models.bad]\nsource = "{aborting_model}"',
    )
    result = project.matrix(*way, "--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2)
    cells = json.loads((project.root / "report.json").read_text())["cells"]
    assert [(cell["id"], cell["verdict"]) for cell in cells] == [
        ("bad-F16-cpu", "CRASHED"),
        ("bad-Q8_0-cpu", "CRASHED"),
        ("tiny-F16-cpu", "MEASURED"),
        ("tiny-Q8_0-cpu", "MEASURED"),
    ]
    for cell in cells[:2]:
        assert "killed by SIGABRT" in cell["reason"]
        assert "GGML_ASSERT(n_expert_used_max <= hparams.n_expert) failed" in cell["reason"]
