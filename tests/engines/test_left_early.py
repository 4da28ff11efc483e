"""A cell whose measurement was interrupted leaves nothing behind that another one could take."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Project

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="no timers on this platform"
)

CONFIGURATION = """
[tool.quantgate]
profile = "p"
[tool.quantgate.profiles.p]
models = ["olmoe-mini"]
formats = ["F16", "Q4_K_M", "Q5_0"]
chunks = 1
n_ctx = 512
n_batch = 1
routing = false
"""

# The alarm goes off a moment after the reference's chunk was asked for, as pytest-timeout's does.
CONFTEST = """
import signal
import pytest
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Score

ask, is_armed = LlamaCppPython.ask, True

def late(_signal, _frame):
    pytest.fail("too late")

signal.signal(signal.SIGALRM, late)

def ask_and_be_late(self, request, on_reply=None):
    global is_armed
    if is_armed and isinstance(request, Score):
        is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.25)
    return ask(self, request, on_reply)

LlamaCppPython.ask = ask_and_be_late
"""

TEST = """
from pathlib import Path

def test_perplexity(quant_cell):
    perplexity = quant_cell.perplexity
    with Path("figures.txt").open("a") as stream:
        stream.write(f"{quant_cell.format.name} {perplexity:.3f}\\n")
"""


def test_an_interrupted_cells_figures_are_no_other_cells(own_cache: Project) -> None:
    own_cache.pytester.makepyprojecttoml(CONFIGURATION)
    own_cache.pytester.makeconftest(CONFTEST)
    own_cache.pytester.makepyfile(TEST)
    interrupted = own_cache.pytester.runpytest_subprocess(
        f"--quant-cache={own_cache.cache}", "-p", "no:cacheprovider"
    )
    interrupted.assert_outcomes(passed=2, failed=1)
    interrupted.stdout.fnmatch_lines(["*too late*"])
    figures = (own_cache.root / "figures.txt").read_text().splitlines()
    assert figures == ["Q4_K_M 67.671", "Q5_0 65.844"]  # and 65.646 is that of F16
