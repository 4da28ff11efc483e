"""A test that judged nothing of what it asked for says so, and is red where it set a limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Project
from tests.plugin.test_shapes import SHAPE

MINIATURE = 'models = ["lfm2moe-mini"]\ntexts = ["story"]\nn_ctx = 64\nchunks = 1'


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project of the fake engine, which reports no logits."""
    own_cache.use_fake_engine()
    return own_cache


def cells_of(project: Project, *arguments: str) -> tuple[pytest.RunResult, list[dict[str, Any]]]:
    """Run pytest, and return its result and the record's cells."""
    result = project.run(*arguments, "--quant-report=report.json")
    return result, json.loads((project.root / "report.json").read_text())["cells"]


def marked(project: Project, marker: str) -> None:
    """Write a test with one marker."""
    project.pytester.makepyfile(
        f"import pytest\n\n@pytest.mark.{marker}\ndef test_mine(quant_cell): pass\n"
    )


def test_an_oracle_that_the_engine_cannot_be_held_against(fake: Project) -> None:
    fake.configure(formats=("F16", "Q8_0"), profile=MINIATURE)
    result, (reference, quantized) = cells_of(fake, "--quant-matrix")
    assert result.ret == pytest.ExitCode.OK
    note = "oracle not judged: engine 'default' reports no logits to compare with the oracle's"
    assert [item for item in reference["notes"] if item.startswith(note)]
    assert not [item for item in quantized["notes"] if "oracle" in item]
    marked(fake, "quant_oracle(max_mean_kld=0.001)")
    result, (reference, quantized) = cells_of(fake)
    result.assert_outcomes(passed=1, failed=1)
    assert reference["verdict"] == "UNSUPPORTED"
    assert reference["reason"].startswith("engine 'default' reports no logits")
    assert quantized["verdict"] == "MEASURED"
    assert quantized["reason"] == "oracle not judged: an oracle is of a model's reference alone"


def test_an_oracle_that_the_model_does_not_have(fake: Project) -> None:
    """No word of it where the built-in suite asks for it of every model."""
    fake.configure(formats=("F16",))
    result, (cell,) = cells_of(fake, "--quant-matrix")
    assert result.ret == pytest.ExitCode.OK
    assert cell["notes"] == []
    marked(fake, "quant_oracle(max_mean_kld=0.001)")
    result, (cell,) = cells_of(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*tiny-F16-cpu: UNSUPPORTED: model 'tiny' has no oracle: only *"])


def test_an_oracle_needs_a_cache_that_does_not_round(fake: Project) -> None:
    fake.configure(formats=("F16",), profile=f'{MINIATURE}\ntype_k = "Q8_0"')
    marked(fake, "quant_oracle(max_mean_kld=0.001)")
    result, _ = cells_of(fake)
    result.stdout.fnmatch_lines(["*UNSUPPORTED: an oracle needs a KV cache of F16 or F32, not *"])


def test_a_coverage_without_an_importance_matrix(fake: Project) -> None:
    """Full precision is made without one; another format could have one."""
    marked(fake, "quant_imatrix(min_tokens_per_expert=1)")
    result, cells = cells_of(fake)
    result.assert_outcomes(passed=1, failed=2)
    assert {cell["format"]: cell["verdict"] for cell in cells} == {
        "F16": "MEASURED",
        "Q8_0": "UNSUPPORTED",
        "Q4_0": "UNSUPPORTED",
    }
    result.stdout.fnmatch_lines(["*UNSUPPORTED: the cell has no importance matrix; add one, as *"])
    result, cells = cells_of(fake, "--quant-matrix", "-k", "test_cell")
    assert not [note for cell in cells for note in cell["notes"] if "matrix" in note]


def test_batches_and_devices_of_a_shape(fake: Project) -> None:
    fake.configure(
        formats=("F16",),
        tables=SHAPE + "[tool.quantgate.devices.second]",
        profile='models = ["small"]\ndevices = ["cpu", "second"]\nbatch_geometry = true\n'
        "compare_devices = true",
    )
    result, cells = cells_of(fake, "--quant-matrix")
    assert result.ret == pytest.ExitCode.OK
    why = "not judged: model 'small' is a shape, which has size and speed and no quality"
    for cell in cells:
        assert cell["notes"] == [f"batches {why}", f"devices {why}"]
    result.stdout.fnmatch_lines([f"note: F16: batches {why}"])
    marked(fake, "quant_batches(max_mean_kld=0.1)")
    result, cells = cells_of(fake)
    assert {cell["verdict"] for cell in cells} == {"UNSUPPORTED"}


def test_the_first_device_is_what_the_others_are_compared_with(fake: Project) -> None:
    fake.configure(
        formats=("F16",),
        tables="[tool.quantgate.devices.second]",
        profile='devices = ["cpu", "second"]',
    )
    marked(fake, "quant_devices(max_mean_kld=0.1)")
    _, (first, second) = cells_of(fake)
    assert first["verdict"] == "MEASURED"
    assert first["reason"] == "devices not judged: cpu is the device compared with"
    assert second["verdict"] == "UNSUPPORTED"


@pytest.mark.parametrize(
    "marker",
    [
        'quant_ppl(max_vs_reference="+90%")',
        "quant_kld(min_same_top=0.1)",
        'quant_size(max_vs_reference="+5%")',
        'quant_speed(phase="decode", min_vs_reference=0.1)',
    ],
)
def test_a_limit_against_the_reference_is_not_judged_on_the_reference(
    fake: Project, marker: str
) -> None:
    fake.configure(formats=("F16",), profile="speed_processes = 5\nspeed_repetitions = 1")
    marked(fake, marker)
    result, (cell,) = cells_of(fake)
    assert result.ret == pytest.ExitCode.OK
    assert cell["reason"] == "not judged: the limits are against the reference itself"
