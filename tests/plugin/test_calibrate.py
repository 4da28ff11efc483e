"""``--quant-calibrate``: what a person types, what is shown, and what makes it red."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Project

WRONG_KERNELS = '''
import numpy as np

from pytest_quantgate.engines.worker import scoring
from pytest_quantgate.engines.worker.llama import Model
from pytest_quantgate.engines.worker.serve import serve


class WrongRepacked(Model):
    """Computes a quantized file wrongly with repacked weights."""

    def __init__(self, request, **more):
        super().__init__(request, **more)
        self._is_wrong = request.repack and not request.model.endswith("tiny.gguf")

    def decode(self, tokens, first_output):
        logits = super().decode(tokens, first_output)
        if self._is_wrong:
            logits = logits + 3 * np.cos(np.arange(logits.shape[1], dtype=np.float32))
        return logits


scoring.Model = WrongRepacked
'''

CONFTEST = f"""
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython

SOURCE = {WRONG_KERNELS!r}


def pytest_quantgate_make_engine(name, settings, log):
    return LlamaCppPython(
        python=None,
        log=log,
        stall_s=60,
        entry="wrong_kernels:serve",
        extra_sources=[("wrong_kernels", (False, SOURCE))],
    )
"""


@pytest.fixture
def small(project: Project) -> Project:
    """A project of three formats with two chunks a cell."""
    project.configure(profile="chunks = 2")
    return project


def test_a_calibration_replaces_the_gate_and_shows_the_noise(small: Project) -> None:
    result = small.run("--quant-calibrate", "--quant-report=report.json", "-v")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        [
            "quant-calibrate::test_settings[[]tiny-Q8_0-cpu[]] PASSED*",
            "Settings noise: tiny on cpu, text story, 2 chunks, 62 tokens",
            "format *setting *PPL *KLD *tokens changed *RMS nats",
            "F16 *the profile's own *",
            "*2 threads*identical*",
            "*largest shift *%*",
            "Q4_0 *the profile's own *",
            "Sweep of conditions, each against the reference condition",
            "tiny-Q4_0-cpu * 0.03 * 55 *0",
        ]
    )
    assert "No baseline is stored" not in result.stdout.str()
    assert small.baselines == []
    cells = json.loads((small.root / "report.json").read_text())["cells"]
    assert [cell["verdict"] for cell in cells] == ["PASS"] * 3
    noise = cells[2]["measured"]["noise"]
    names = [item["name"] for item in noise["settings"]]
    assert names[0] == "the profile's own"
    assert names[1:] == ["2 threads", "n_ubatch 32", "n_ubatch 8", "n_batch 32", "not repacked"]
    assert all(item["problem"] is None for item in noise["settings"])
    assert noise["settings"][1]["tokens_changed"] == 0, "threads move no bit"


def test_markdown_is_made_of_the_record_alone(small: Project) -> None:
    result = small.run("--quant-calibrate", "-k", "Q4_0", "--quant-report=report.md", "-n2")
    result.assert_outcomes(passed=2)
    text = (small.root / "report.md").read_text()
    assert "## Settings noise: tiny on cpu, text story, 2 chunks, 62 tokens" in text
    assert "| Q4_0 | the profile's own |" in text


def test_a_wrong_repacked_kernel_is_an_outlier_and_red(small: Project) -> None:
    small.pytester.makeconftest(CONFTEST)
    result = small.run(
        "--quant-calibrate", "-k", "settings and not Q8_0", f"--quant-cache={small.root / 'c'}"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tiny-Q4_0-cpu: REGRESSED: a fault of the engine: 'not repacked' is an outlier among*"
            " nats: the others are probably wrong",
            "*not repacked *OUTLIER",
        ]
    )


def test_a_limit_below_the_noise_is_warned_about(small: Project) -> None:
    """A batch of another size moves a random model's sums, so a limit of nothing is below that."""
    small.configure(
        formats=("Q4_0",),
        profile='chunks = 2\n[tool.quantgate.profiles.default.limits."*"]\nppl_vs_baseline = 0.0',
    )
    result = small.run("--quant-calibrate")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["warning: Q4_0: the limit ppl_vs_baseline of +0.00 % is below *3 times the largest*"]
    )


def test_a_limit_between_conditions_below_what_sound_kernels_differ_by_is_warned_about(
    small: Project,
) -> None:
    """What a limit may be is measured by the sweep, and not the batches' alone."""
    limits = "batch_kld_max = 1e-9\nsweep_kld_max = 1.0"
    small.configure(
        formats=("Q4_0",),
        profile=f'chunks = 2\n[tool.quantgate.profiles.default.limits."*"]\n{limits}',
    )
    result = small.run("--quant-calibrate", "-k", "sweep")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["warning: *: the limit batch_kld_max of 1e-09 nats is below *3 times the largest*"]
    )
    assert "sweep_kld_max of" not in result.stdout.str()


def test_a_gated_profile_needs_no_baseline_for_it(small: Project) -> None:
    small.configure(formats=("F16",), profile="chunks = 2\ngate = true")
    result = small.run("--quant-calibrate")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


def test_settings_that_move_no_bit_are_one_row(small: Project) -> None:
    small.use_fake_engine()
    result = small.run("--quant-calibrate", "-k", "settings and Q8_0")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*2 threads, n_ubatch 32, n_ubatch 8, n_batch 32, not repacked*"])


def test_no_baselines_are_stored_by_a_calibration(small: Project) -> None:
    result = small.run("--quant-calibrate", "--snapshot-update", "--quant-reason=why")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --quant-calibrate stores no baselines; store them with*"])
