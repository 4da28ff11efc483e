"""Devices: settings of their own, one that is not there, and one against another."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Project

PLAIN = """
[tool.quantgate.devices.plain]
backend = "cpu"
repack = false
[tool.quantgate.devices.narrow]
backend = "cpu"
type_k = "Q8_0"
type_v = "Q8_0"
[tool.quantgate.devices.gpus]
backend = "CUDA7,CUDA8"
tensor_split = [3, 1]
"""


def test_one_device_against_another(own_cache: Project) -> None:
    """Repacked kernels against plain ones, in small batches and a large one."""
    own_cache.configure(
        formats=("F16", "Q4_0"),
        tables=PLAIN,
        profile='devices = ["cpu", "plain"]\ncompare_devices = true',
    )
    own_cache.matrix("-k", "test_devices", "--quant-report=report.json").assert_outcomes(passed=4)
    record = json.loads((own_cache.root / "report.json").read_text())
    found = {cell["id"]: cell["measured"].get("devices") for cell in record["cells"]}
    assert found["tiny-Q4_0-cpu"] is None
    plain = found["tiny-F16-plain"]
    assert (plain["against"], plain["n_tokens"]) == ("cpu", 64)
    assert [row["n_ubatch"] for row in plain["differences"]] == [1, 8, 64]
    # A batch of one rounds otherwise than one of 64, by 4e-6 here: F16 is not repacked.
    assert all(row["mean_kld_nats"] < 4e-5 for row in plain["differences"])
    assert all(row["mean_kld_nats"] < 0.03 for row in found["tiny-Q4_0-plain"]["differences"])


def test_a_difference_above_the_limit_is_a_regression(own_cache: Project) -> None:
    """Small batches round otherwise than a large one, which this limit takes for a fault."""
    own_cache.configure(
        formats=("Q8_0",),
        tables=PLAIN,
        profile='devices = ["cpu", "plain"]\ncompare_devices = true\n'
        "limits = { Q8_0 = { device_kld_max = 1e-15 } }",
    )
    result = own_cache.matrix("-k", "test_devices and plain")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*REGRESSED: mean KLD at n_ubatch * against device cpu * nats is above 1e-15 nats*"]
    )


def test_an_update_accepts_no_difference_between_devices(own_cache: Project) -> None:
    """A baseline has no part in it: it stays red, and nothing is rewritten."""
    own_cache.configure(formats=("Q8_0",), tables=PLAIN, profile='devices = ["cpu", "plain"]')
    assert own_cache.accept().ret == pytest.ExitCode.OK
    before = {path: path.stat().st_mtime_ns for path in own_cache.baselines}
    own_cache.configure(
        formats=("Q8_0",),
        tables=PLAIN,
        profile='devices = ["cpu", "plain"]\ncompare_devices = true\n'
        "limits = { Q8_0 = { device_kld_max = 1e-15 } }",
    )
    result = own_cache.accept("-k", "test_devices")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*tiny-Q8_0-plain: REGRESSED: mean KLD at n_ubatch *"])
    result.stdout.no_fnmatch_line("accepted *")
    assert {path: path.stat().st_mtime_ns for path in own_cache.baselines} == before


def test_a_devices_kv_types_are_a_dimension_with_baselines_of_its_own(own_cache: Project) -> None:
    own_cache.configure(formats=("F16",), tables=PLAIN, profile='devices = ["cpu", "narrow"]')
    own_cache.accept()
    names = [path.name for path in own_cache.baselines]
    assert names == ["F16-cpu-story-c64-kv-Q8_0-Q8_0.json", "F16-cpu-story-c64.json"]
    narrow, wide = (json.loads(path.read_text()) for path in own_cache.baselines)
    assert narrow["key"]["type_k"] == "Q8_0"
    sums = [item["perplexity"]["chunks"]["nll_sum_nats"] for item in (narrow, wide)]
    assert sums[0] != sums[1]
    again = own_cache.matrix()
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["*F16 * PASS *"] * 2)


@pytest.mark.parametrize("test", ["test_cell", "test_speed", "test_memory", "test_batch_geometry"])
def test_a_device_that_is_not_there_is_red_whatever_is_asked(own_cache: Project, test: str) -> None:
    """Also where the format is optional: that is for what an engine cannot do."""
    own_cache.configure(
        formats=("Q4_0",),
        tables=PLAIN,
        profile='devices = ["gpus"]\noptional = ["Q4_0"]\nspeed = true\nmemory = true\n'
        "batch_geometry = true",
    )
    result = own_cache.matrix("-k", test)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tiny-Q4_0-gpus: UNAVAILABLE: device 'gpus': the engine has no 'CUDA7'; there are:"
            " cpu, *CPU*"
        ]
    )


def test_a_shape_on_a_device_that_is_not_there_is_red_too(own_cache: Project) -> None:
    own_cache.configure(
        formats=("Q4_0",), tables=PLAIN, profile='models = ["smollm2-135m"]\ndevices = ["gpus"]'
    )
    result = own_cache.matrix()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UNAVAILABLE: device 'gpus': the engine has no 'CUDA7'*"])
