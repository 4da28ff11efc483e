"""Memory in whole runs: its maximum, its baseline by hardware and batch.

The engine is a fake whose peak is set; none of these tests is about a figure of a machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Project
from tests.plugin.test_speed import PROFILE, marked, stored


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project with the fake engine."""
    own_cache.use_fake_engine()
    own_cache.configure(formats=("F16", "Q4_0"), profile=PROFILE)
    return own_cache


def memory(fake: Project, *arguments: str | Path) -> pytest.RunResult:
    """Run the matrix with memory instead of speed."""
    fake.configure(formats=("F16", "Q4_0"), profile="memory = true")
    return fake.matrix("--quant-report=report.json", *arguments)


def test_memory_is_held_to_its_baseline_on_the_same_hardware(fake: Project) -> None:
    memory(fake, "--snapshot-update", "--quant-reason=first").assert_outcomes(passed=4)
    (part,) = stored(fake, "Q4_0")["memory"].values()
    assert part["peak_resident_bytes"] == 1_000_000
    memory(fake).assert_outcomes(passed=4)
    fake.set_faults(Q4_0="large")
    result = memory(fake)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        ["*REGRESSED: peak memory +10.00 % against the baseline (1,100,000 bytes, was 1,000,000)*"]
    )
    fake.set_faults(Q4_0="large", cpu="another processor")
    memory(fake, "-k", "test_memory").assert_outcomes(passed=2)
    marked(fake, 'quant_memory(max_vs_baseline="+20%")')
    result = fake.run("-k", "Q4_0")
    result.stdout.fnmatch_lines(["*NOT_COMPARABLE: no stored memory is of this hardware: CPU*"])


def test_memory_in_other_batches_is_not_comparable(fake: Project) -> None:
    """A larger batch takes larger buffers, and a smaller one would hide what grew."""
    memory(fake, "--snapshot-update", "--quant-reason=first").assert_outcomes(passed=4)
    fake.set_faults(Q4_0="large")
    fake.configure(formats=("F16", "Q4_0"), profile="memory = true\nn_ubatch = 32")
    fake.matrix("-k", "test_memory").assert_outcomes(passed=2)
    marked(fake, 'quant_memory(max_vs_baseline="+20%")')
    result = fake.run("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NOT_COMPARABLE: *memory is of other settings: n_ubatch 32 *"])


def test_memory_has_a_maximum(fake: Project) -> None:
    marked(fake, "quant_memory(max_resident_bytes=1_050_000)")
    fake.run().assert_outcomes(passed=2)
    fake.set_faults(Q4_0="large")
    result = fake.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED: peak memory 1,100,000 bytes is above 1,050,000*"])


def test_a_platform_without_peak_memory_is_unsupported_where_a_limit_asks(fake: Project) -> None:
    fake.set_faults(Q4_0="no memory")
    marked(fake, "quant_memory(max_resident_bytes=1_050_000)")
    result = fake.run("-k", "Q4_0")
    result.stdout.fnmatch_lines(["*UNSUPPORTED: this platform does not report*"])
    memory(fake, "-k", "test_memory and Q4_0").assert_outcomes(passed=1)
