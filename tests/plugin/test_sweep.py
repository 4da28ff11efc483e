"""``--quant-sweep``: what a person types, what is shown, and which planted faults are found."""

from __future__ import annotations

import pytest

from tests.conftest import Project

WRONG_CONDITION = '''
import numpy as np

from pytest_quantgate.engines.worker import sweeping
from pytest_quantgate.engines.worker.llama import Model
from pytest_quantgate.engines.worker.serve import serve


class WrongUnderOneCondition(Model):
    """Computes wrongly where the expression FAULT holds."""

    def open(self, request, **more):
        self._opened = request
        super().open(request, **more)

    def decode_batch(self, ids, start, first_output):
        logits = super().decode_batch(ids, start, first_output).copy()
        names = {"request": self._opened, "n": len(ids), "start": start}
        rows = eval(FAULT, {"np": np}, names | {"position": start + np.arange(len(ids))})
        logits[np.broadcast_to(rows, len(ids))] += 3 * np.cos(np.arange(logits.shape[1]))
        return logits


sweeping.Model = WrongUnderOneCondition
'''

CONFTEST = """
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython

SOURCE = {source!r}


def pytest_quantgate_make_engine(name, settings, log):
    return LlamaCppPython(
        python=None,
        log=log,
        stall_s=60,
        entry="wrong:serve",
        extra_sources=[("wrong", (False, SOURCE))],
    )
"""


@pytest.fixture
def small(own_cache: Project) -> Project:
    """A project of one format, with a cache: figures are not kept by the faults of these tests."""
    own_cache.configure(formats=("Q8_0",))
    return own_cache


def test_a_sweep_replaces_the_gate_and_is_green_on_a_sound_build(small: Project) -> None:
    (small.root / "short.txt").write_bytes(small.text.read_bytes()[:400])
    small.configure(
        profile='texts = ["short"]\ngate = true',
        tables='[tool.quantgate.texts.short]\nsource = "short.txt"',
        formats=("Q8_0",),
    )
    result = small.run("--quant-sweep", "-v")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["quant-matrix::test_sweep[[]tiny-Q8_0-cpu[]] PASSED*"])
    assert "test_cell" not in result.stdout.str()
    assert small.baselines == []


def test_a_profile_asks_for_it_beside_its_gate(small: Project) -> None:
    small.configure(profile="chunks = 2\nsweep = true", formats=("Q8_0",))
    result = small.matrix("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*test_cell*", "*test_sweep*"])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("n == 3", "'n_ubatch 3' is"),
        ("request.type_k == 2", "'type_k Q4_0' is"),
        ("not request.repack and n > 32", "'not repacked' is"),
        ("(position >= 1024) & (not request.flash_attention)", "'n_ctx 2048' is"),
        ("position >= 300", "'n_ctx 1024': tokens are"),
    ],
)
@pytest.mark.slow
def test_a_fault_of_one_condition_is_named_with_the_smallest(
    small: Project, fault: str, named: str
) -> None:
    source = f"FAULT = {fault!r}\n{WRONG_CONDITION}"
    small.pytester.makeconftest(CONFTEST.format(source=source))
    result = small.run("--quant-sweep")
    result.assert_outcomes(failed=1)
    assert named in result.stdout.str()
    if "1024" in fault:
        assert "from token 1248 on" in result.stdout.str()


@pytest.mark.slow
def test_nothing_fails_on_a_sound_build(pytester: pytest.Pytester) -> None:
    """56 conditions of both embedded models, in three formats."""
    pytester.makepyprojecttoml('[tool.quantgate]\ncache_dir = "cache"\n')
    result = pytester.runpytest_inprocess("--quant-sweep", "--quant-formats=F16,Q4_K_M,MXFP4_MOE")
    result.assert_outcomes(passed=6)
