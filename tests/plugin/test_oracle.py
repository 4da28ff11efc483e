"""An embedded model's reference is judged by its oracle, whatever its baseline says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_quantgate.artifacts import models
from pytest_quantgate.gguf.embedded import EMBEDDED
from tests.conftest import Project
from tests.edited_model import edit_model

WRONG = "*lfm2moe-mini-F16-cpu: REGRESSED: mean KLD from the oracle at 16 stored tokens*"


@pytest.fixture
def miniature(project: Project) -> Project:
    """A project with the smaller of the embedded models, one chunk a cell."""
    project.configure(
        formats=("F16", "Q8_0"),
        profile='models = ["lfm2moe-mini"]\ntexts = ["story"]\nn_ctx = 64\nchunks = 1',
    )
    return project


@pytest.fixture
def wrong_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let llama.cpp gate the experts by softmax, as an engine with a wrong router would."""
    right = EMBEDDED
    edit_model(
        right / "lfm2moe-mini.gguf",
        tmp_path / "lfm2moe-mini.gguf",
        metadata={"lfm2moe.expert_gating_func": 1},
    )
    shutil.copy(right / "lfm2moe-mini.oracle.npz", tmp_path)
    monkeypatch.setattr(models, "EMBEDDED", tmp_path)


def test_the_reference_carries_its_distance_from_the_oracle(miniature: Project) -> None:
    """Only the reference: the other formats are compared with it."""
    result = miniature.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    cells = json.loads((miniature.root / "report.json").read_text())["cells"]
    reference, quantized = cells
    assert reference["measured"]["oracle"]["tokens"] == 2040
    assert {item["verdict"] for item in reference["judgements"] if item["metric"] == "oracle"} == {
        "PASS"
    }
    assert "oracle" not in quantized["measured"]


@pytest.mark.usefixtures("wrong_engine")
def test_what_was_wrong_before_too_is_no_pass(miniature: Project) -> None:
    """Of a wrong engine no baseline of the reference is accepted, and it stays red."""
    refused = miniature.accept()
    refused.assert_outcomes(passed=1, failed=1)
    refused.stdout.fnmatch_lines(["*F16-cpu: not accepted as a baseline: REGRESSED: *oracle*"])
    assert [path.name for path in miniature.baselines] == ["Q8_0-cpu-story-c64.json"]
    result = miniature.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [WRONG, "cause: the engine does not compute what transformers does in float32*"]
    )


@pytest.mark.usefixtures("wrong_engine")
def test_a_marker_sets_another_limit(miniature: Project) -> None:
    miniature.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_oracle(max_mean_kld=1.0)
        def test_loose(quant_cell):
            pass

        @pytest.mark.quant_oracle(max_mean_kld=0.001)
        def test_tight(quant_cell):
            pass
        """
    )
    result = miniature.run("--quant-formats=F16")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*above 0.001 nats*"])


def test_a_cache_that_rounds_is_not_held_to_float32(miniature: Project) -> None:
    """Keys and values as Q8_0 are what the profile asks for, not a fault of the engine."""
    miniature.configure(
        formats=("F16",),
        profile='models = ["lfm2moe-mini"]\ntexts = ["story"]\nn_ctx = 64\nchunks = 1\n'
        'type_k = "Q8_0"\ntype_v = "Q8_0"',
    )
    result = miniature.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    (cell,) = json.loads((miniature.root / "report.json").read_text())["cells"]
    assert "oracle" not in cell["measured"]
