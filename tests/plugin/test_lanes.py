"""Several devices in one run: lanes, pools, and what stops them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project

needs_two_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, on Linux",
)

POOL = """
[tool.quantgate.devices.pool]
backend = "FAKE*"
"""


def two_devices() -> str:
    """Return two devices, each of one processor; one computes without flash attention."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return f"""
    [tool.quantgate.devices.left]
    cpus = "{first}"
    [tool.quantgate.devices.right]
    cpus = "{second}"
    flash_attention = false
    """


def figures(project: Project, name: str) -> dict[str, Any]:
    """Return the chunks of a record's cells, by id."""
    record = json.loads((project.root / name).read_text(encoding="utf-8"))
    return {cell["id"]: cell["chunks"] for cell in record["cells"]}


def events(cache: Path) -> list[dict[str, Any]]:
    """Return all events of all runs of a cache."""
    lines = [path.read_text(encoding="utf-8") for path in (cache / "runs").glob("*/events.jsonl")]
    return [json.loads(line) for text in lines for line in text.splitlines()]


@needs_two_processors
@pytest.mark.slow
def test_lanes_measure_what_one_device_after_the_other_does(own_cache: Project) -> None:
    devices = 'devices = ["left", "right"]'
    own_cache.configure(formats=("F16", "Q8_0", "Q4_0"), tables=two_devices(), profile=devices)
    result = own_cache.matrix("--quant-report=lanes.json", "--quant-fresh")
    result.assert_outcomes(passed=6)
    lanes = {event["cell"].rpartition("-")[2]: event["lane"] for event in events(own_cache.cache)}
    assert lanes == {"left": "left:cpu", "right": "right:cpu"}
    serial = two_devices().replace("cpus", "# cpus")
    own_cache.configure(formats=("F16", "Q8_0", "Q4_0"), tables=serial, profile=devices)
    own_cache.matrix("--quant-report=serial.json", "--quant-fresh").assert_outcomes(passed=6)
    assert figures(own_cache, "lanes.json") == figures(own_cache, "serial.json")


@needs_two_processors
@pytest.mark.slow
def test_workers_of_xdist_use_the_lanes(own_cache: Project) -> None:
    own_cache.configure(tables=two_devices(), profile='devices = ["left", "right"]')
    result = own_cache.matrix("-n2")
    assert result.parseoutcomes() == {"passed": 6}
    assert {event["lane"] for event in events(own_cache.cache)} == {"left:cpu", "right:cpu"}


def use_pool(project: Project, **faults: str) -> None:
    """Configure a pool of two devices of a fake engine."""
    project.configure(
        formats=("F16", "Q8_0", "Q4_0", "Q4_K_M"), tables=POOL, profile='devices = ["pool"]'
    )
    project.use_fake_engine(devices="CPU,FAKE0,FAKE1", **faults)


def test_the_cells_of_a_pool_are_spread_over_its_members(own_cache: Project) -> None:
    use_pool(own_cache)
    own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=4)
    lanes = {event["lane"] for event in events(own_cache.cache)}
    assert lanes == {"pool:FAKE0", "pool:FAKE1"}
    assert set(figures(own_cache, "run.json")) == {
        f"tiny-{name}-pool" for name in ("F16", "Q8_0", "Q4_0", "Q4_K_M")
    }


def test_a_pool_without_a_member_is_unavailable(own_cache: Project) -> None:
    use_pool(own_cache)
    own_cache.set_faults(devices="CPU")
    result = own_cache.matrix()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        ["tiny-F16-pool: UNAVAILABLE: device 'pool': the engine has no 'FAKE[*]'; there are: cpu"]
    )


def test_a_fault_is_its_cells_alone(own_cache: Project) -> None:
    use_pool(own_cache, Q8_0="crash")
    own_cache.matrix().assert_outcomes(passed=3, failed=1)


def test_the_first_failure_cancels_what_has_not_begun(own_cache: Project) -> None:
    use_pool(own_cache, F16="crash")
    result = own_cache.matrix("-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)


def test_a_tests_own_body_and_markers_are_answered_on_the_lane(own_cache: Project) -> None:
    """Figures that the body reads, and a marker that a fixture adds."""
    use_pool(own_cache)
    own_cache.pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def stricter(request):
            request.node.add_marker(pytest.mark.quant_ppl(max_vs_reference="+900%"))

        @pytest.mark.usefixtures("stricter")
        @pytest.mark.quant_size
        def test_it(quant_cell):
            assert quant_cell.perplexity > 0

        def test_plain(quant_cell):
            assert len(quant_cell.scores.chunks) > 0
        """
    )
    result = own_cache.run()
    result.assert_outcomes(passed=8)
    assert {event["lane"] for event in events(own_cache.cache)} == {"pool:FAKE0", "pool:FAKE1"}


@needs_two_processors
def test_processors_that_are_not_there_are_told_in_one_line(own_cache: Project) -> None:
    own_cache.configure(
        tables='[tool.quantgate.devices.far]\ncpus = "4095"', profile='devices = ["far"]'
    )
    result = own_cache.matrix()
    result.stdout.fnmatch_lines(["*device far:cpu: this process may use none of cpus = 4095; *"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
