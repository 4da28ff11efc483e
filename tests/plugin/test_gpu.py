"""On a CUDA device: quality, routes, memory and speed there, and models split over two.

They need an engine that was compiled for CUDA (docs/how-to/devices.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.engines.inventory import list_devices
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import EngineDevice
from tests.conftest import Project

pytestmark = pytest.mark.gpu

GPU = """
[tool.quantgate.devices.gpu]
backend = "CUDA0"
[tool.quantgate.devices.part]
backend = "CUDA0"
n_gpu_layers = 1
"""


def cells_of(project: Project) -> dict[str, dict[str, Any]]:
    """Return the cells of the run's record by id."""
    record = json.loads((project.root / "report.json").read_text(encoding="utf-8"))
    return {cell["id"]: cell for cell in record["cells"]}


@pytest.mark.parametrize("model", ["tiny", "olmoe-mini", "lfm2moe-mini"])
def test_a_gpu_computes_what_the_processor_computes(own_cache: Project, model: str) -> None:
    """With all layers and with one, at small batches and a large one."""
    own_cache.configure(
        formats=("F16", "Q8_0", "Q4_K_M", "MXFP4_MOE"),
        tables=GPU,
        profile=f'models = ["{model}"]\ndevices = ["cpu", "gpu", "part"]\ncompare_devices = true',
    )
    own_cache.matrix("-k", "test_devices and not cpu").assert_outcomes(passed=8)


def test_the_quality_on_a_gpu_is_that_on_the_processor(own_cache: Project) -> None:
    """The perplexities agree within 1 %, each measured on its own device."""
    own_cache.configure(
        formats=("F16", "Q4_K_M"),
        tables=GPU,
        profile='models = ["olmoe-mini"]\ndevices = ["cpu", "gpu"]\ntexts = ["evaluation"]\n'
        "n_ctx = 256",
    )
    own_cache.matrix("-k", "test_cell", "--quant-report=report.json").assert_outcomes(passed=4)
    ppl = {name: cell["ppl"] for name, cell in cells_of(own_cache).items()}
    for name in ("F16", "Q4_K_M"):
        assert ppl[f"olmoe-mini-{name}-gpu"] == pytest.approx(
            ppl[f"olmoe-mini-{name}-cpu"], rel=0.01
        )


def test_a_shape_is_timed_on_a_gpu(own_cache: Project) -> None:
    shape = """
    [tool.quantgate.models.small.shape]
    architecture = "olmoe"
    layers = 4
    hidden = 1024
    feed_forward = 512
    heads = 8
    kv_heads = 8
    vocabulary = 2000
    experts = 16
    experts_used = 4
    """
    own_cache.configure(
        formats=("F16", "MXFP4_MOE"),
        tables=GPU + shape,
        profile='models = ["small"]\ndevices = ["gpu"]\nspeed = true\nspeed_processes = 5\n'
        "speed_repetitions = 1",
    )
    own_cache.matrix("-k", "test_speed", "--quant-report=report.json").assert_outcomes(passed=2)
    for cell in cells_of(own_cache).values():
        times = [ns for item in cell["measured"]["speed"]["cell"] for ns in item["decode_ns"]]
        assert min(times) > 0


def test_routes_on_a_gpu_are_those_on_the_processor(own_cache: Project) -> None:
    """Fused kernels leave none, so they are recorded in a pass of their own."""
    own_cache.configure(
        formats=("F16", "Q4_K_M"),
        tables=GPU,
        profile='models = ["olmoe-mini"]\ndevices = ["cpu", "gpu"]\ntexts = ["evaluation"]\n'
        "n_ctx = 256\nchunks = 4\nlooks = [4]",
    )
    own_cache.matrix("-k", "test_cell and Q4_K_M", "--quant-report=report.json").assert_outcomes(
        passed=2
    )
    found = cells_of(own_cache)
    shares = {}
    for device in ("cpu", "gpu"):
        routing = found[f"olmoe-mini-Q4_K_M-{device}"]["measured"]["routing"]
        assert (routing["obstacle"], routing["tokens"]) == (None, 4 * 127)
        routes = routing["tokens"] * len(routing["layers"])
        shares[device] = sum(routing["chunk_same_experts"]) / routes
    assert shares["gpu"] == pytest.approx(shares["cpu"], abs=0.03)


def test_the_memory_of_a_gpu_is_measured(own_cache: Project) -> None:
    """The weights are where the layers are: all of them there, or one there and the rest here."""
    own_cache.configure(
        formats=("F16",),
        tables=GPU,
        profile='models = ["olmoe-mini"]\ndevices = ["gpu", "part"]\ntexts = ["evaluation"]\n'
        "memory = true",
    )
    own_cache.matrix("-k", "test_memory", "--quant-report=report.json").assert_outcomes(passed=2)
    weights = {}
    for name in ("gpu", "part"):
        memory = cells_of(own_cache)[f"olmoe-mini-F16-{name}"]["measured"]["memory"]
        (device,) = memory["devices"]
        weights[name] = sum(
            item["n_bytes"]
            for item in memory["buffers"]
            if (item["kind"], item["where"]) == ("model", "CUDA0")
        )
        assert device["device"] == "CUDA0"
        assert 0 < weights[name] <= device["used_bytes"] < device["total_bytes"]
        assert "NVIDIA" in memory["fingerprint"]["device"]
        assert memory["fingerprint"]["driver"]
    assert weights["part"] < weights["gpu"] / 2


@pytest.fixture
def two_gpus(tmp_path: Path) -> tuple[EngineDevice, ...]:
    """Return the engine's devices; skip on a host with fewer GPUs."""
    engine = LlamaCppPython(python=None, log=tmp_path / "log", stall_s=120)
    try:
        devices = list_devices(engine)
    finally:
        engine.close()
    names = [device.name for device in devices]
    if "CUDA1" not in names:
        pytest.skip(f"needs CUDA0 and CUDA1; there are: {', '.join(names)}")
    return devices


SPLIT = """
[tool.quantgate.devices.layers]
backend = "CUDA0,CUDA1"
[tool.quantgate.devices.shares]
backend = "CUDA0,CUDA1"
tensor_split = [3, 1]
[tool.quantgate.devices.rows]
backend = "CUDA0,CUDA1"
split_mode = "row"
"""


@pytest.mark.parametrize("model", ["tiny", "olmoe-mini"])
def test_two_gpus_compute_what_the_processor_computes(
    own_cache: Project, model: str, two_gpus: tuple[EngineDevice, ...]
) -> None:
    """Whole layers on each, in equal and other shares; rows of each tensor on both, if it can."""
    ways = ["layers", "shares"]
    if all(device.splits_rows for device in two_gpus if device.name.startswith("CUDA")):
        ways.append("rows")
    own_cache.configure(
        formats=("F16", "Q4_K_M"),
        tables=SPLIT,
        profile=f'models = ["{model}"]\ndevices = {json.dumps(["cpu", *ways])}\n'
        "compare_devices = true",
    )
    own_cache.matrix("-k", "test_devices and not cpu").assert_outcomes(passed=2 * len(ways))


@pytest.mark.usefixtures("two_gpus")
def test_two_gpus_share_the_weights(own_cache: Project) -> None:
    own_cache.configure(
        formats=("F16",),
        tables=SPLIT,
        profile='models = ["olmoe-mini"]\ndevices = ["layers", "shares"]\nmemory = true',
    )
    own_cache.matrix("-k", "test_memory", "--quant-report=report.json").assert_outcomes(passed=2)
    first = {}
    for name in ("layers", "shares"):
        memory = cells_of(own_cache)[f"olmoe-mini-F16-{name}"]["measured"]["memory"]
        assert [item["device"] for item in memory["devices"]] == ["CUDA0", "CUDA1"]
        held = {
            item["where"]: item["n_bytes"] for item in memory["buffers"] if item["kind"] == "model"
        }
        assert min(held["CUDA0"], held["CUDA1"]) > 0
        first[name] = held["CUDA0"] / (held["CUDA0"] + held["CUDA1"])
        assert memory["fingerprint"]["device"].startswith("2 × NVIDIA")
    assert first["shares"] > first["layers"]
