"""What this host is, as far as it chooses kernels."""

from __future__ import annotations

import pytest

from pytest_quantgate.engines.worker import host
from pytest_quantgate.engines.worker.host import hash_surroundings


@pytest.mark.parametrize(
    "variable",
    ["GGML_CPU_TILED_MM", "LLAMA_GRAPH_REUSE_DISABLE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"],
)
def test_a_variable_that_may_choose_a_kernel_makes_other_surroundings(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    without = hash_surroundings()
    monkeypatch.setenv(variable, "0")
    of_zero = hash_surroundings()
    monkeypatch.setenv(variable, "1")
    assert len({without, of_zero, hash_surroundings()}) == 3


@pytest.mark.parametrize("variable", ["GGML_NO_BACKTRACE", "LLAMA_CPP_LIB_PATH", "EDITOR"])
def test_other_variables_do_not(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable, raising=False)
    before = hash_surroundings()
    monkeypatch.setenv(variable, "1")
    assert hash_surroundings() == before


def test_gpus_and_their_driver_are_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "nvidia_driver", lambda: "")
    before = {hash_surroundings(), hash_surroundings(["CUDA0 H100"])}
    assert len(before) == 2
    monkeypatch.setattr(host, "nvidia_driver", lambda: "NVRM 580")
    assert hash_surroundings() not in before
