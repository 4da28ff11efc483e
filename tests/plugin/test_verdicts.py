"""Every verdict of the design is reached, and the red ones are red in the exit code.

The engine is a fake that fails on demand; none of these tests is about a figure.
"""

from __future__ import annotations

import json

import pytest

from pytest_quantgate.reports.write import run_markdown
from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project
from tests.edited_model import edit_model


def verdicts(project: Project) -> dict[str, str]:
    """Return each format's verdict from the run's record."""
    record = json.loads((project.root / "report.json").read_text())
    return {cell["format"]: cell["verdict"] for cell in record["cells"]}


def run(project: Project, *arguments: str) -> pytest.RunResult:
    """Run the matrix with a report."""
    return project.matrix("--quant-report=report.json", *arguments)


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project with the fake engine and no faults; what faults leave in a cache is its own."""
    own_cache.use_fake_engine()
    return own_cache


@pytest.fixture
def accepted(fake: Project) -> Project:
    """A project whose baselines are stored."""
    assert fake.accept().ret == pytest.ExitCode.OK
    assert len(fake.baselines) == 3
    return fake


@pytest.mark.parametrize(
    ("fault", "verdict", "line"),
    [
        ("crash", "CRASHED", "*tiny-Q4_0-cpu: CRASHED: the worker died: killed by SIGABRT*"),
        ("hang", "TIMEOUT", "*tiny-Q4_0-cpu: TIMEOUT: no sign of life for 300 s*"),
        ("nan", "INVALID", "*tiny-Q4_0-cpu: INVALID: *not finite*"),
        ("refuse", "UNSUPPORTED", "*tiny-Q4_0-cpu: UNSUPPORTED: *not for this engine*"),
    ],
)
def test_a_fault_is_red_even_without_baselines(
    fake: Project, fault: str, verdict: str, line: str
) -> None:
    """And every other cell goes on."""
    fake.set_faults(Q4_0=fault)
    result = run(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([line])
    assert verdicts(fake) == {"F16": "MEASURED", "Q8_0": "MEASURED", "Q4_0": verdict}


def test_faults_are_red_under_xdist_too(fake: Project) -> None:
    fake.configure(formats=("F16", "Q8_0", "Q6_K", "Q5_0", "Q4_0"))
    fake.set_faults(Q8_0="crash", Q6_K="hang", Q5_0="nan", Q4_0="refuse")
    result = run(fake, "-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=4)
    assert list(verdicts(fake).values()) == [
        "MEASURED",
        "CRASHED",
        "TIMEOUT",
        "INVALID",
        "UNSUPPORTED",
    ]


@pytest.mark.parametrize("fault", ["crash", "hang", "nan"])
def test_a_fault_is_red_against_baselines_too(accepted: Project, fault: str) -> None:
    accepted.set_faults(Q4_0=fault)
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)


def test_a_reference_that_is_not_finite_never_passes_another_cell(fake: Project) -> None:
    """A limit against a reference of NaN is INVALID, not PASS."""
    fake.configure(profile='limits = { "*" = { ppl_vs_reference = "+5%" } }')
    fake.set_faults(F16="nan")
    result = run(fake)
    result.assert_outcomes(failed=3)
    assert set(verdicts(fake).values()) == {"INVALID"}


def test_an_optional_format_that_is_unsupported_is_skipped(fake: Project) -> None:
    fake.configure(profile='optional = ["Q4_0"]')
    fake.set_faults(Q4_0="refuse")
    result = run(fake)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2, skipped=1)
    assert verdicts(fake)["Q4_0"] == "UNSUPPORTED"
    record = read_record(fake.root / "report.json")
    assert [cell.format for cell in record.cells if cell.is_skipped] == ["Q4_0"]
    assert not record.is_red
    title = run_markdown(record).splitlines()[0]
    assert title == "# Quantization gate: nothing was gated (3 cells without a comparison)"


def test_an_optional_format_that_has_a_baseline_is_red(accepted: Project) -> None:
    """An engine could once; that one cannot any more is what the gate is for."""
    accepted.configure(profile='optional = ["Q4_0"]')
    accepted.set_faults(Q4_0="refuse", quantizer="another")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    assert verdicts(accepted)["Q4_0"] == "UNSUPPORTED"


def test_an_optional_format_that_crashes_is_red(fake: Project) -> None:
    fake.configure(profile='optional = ["Q4_0"]')
    fake.set_faults(Q4_0="crash")
    assert run(fake).ret == pytest.ExitCode.TESTS_FAILED


def test_equal_values_pass(accepted: Project) -> None:
    result = run(accepted)
    assert result.ret == pytest.ExitCode.OK
    assert set(verdicts(accepted).values()) == {"PASS"}
    result.stdout.fnmatch_lines(["*PPL identical to the baseline's on*tokens*"])


def test_a_worse_format_is_regressed(accepted: Project) -> None:
    """With the change, the limit and the cause: nothing but the runtime differs."""
    accepted.set_faults(Q4_0="worse", library="another build")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    assert verdicts(accepted) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": "REGRESSED"}
    result.stdout.fnmatch_lines(
        [
            "*tiny-Q4_0-cpu: REGRESSED: PPL rose by * against the baseline*limit is +0.25 %*",
            "cause: runtime kernels (tokenization same; all 21 tensors same; PPL +*; 496 of 496"
            " tokens changed,*; the libraries changed*",
        ]
    )


def test_a_better_format_is_improved(accepted: Project) -> None:
    accepted.set_faults(Q4_0="better")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(accepted)["Q4_0"] == "IMPROVED"


def test_an_equal_file_that_became_far_better_is_suspicious_until_accepted(
    accepted: Project,
) -> None:
    """As where future tokens leak: better by 5 %, where the limit is 0.25 %."""
    accepted.set_faults(Q4_0="too good", library="another build")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": "SUSPICIOUS"}
    result.stdout.fnmatch_lines(
        [
            "*tiny-Q4_0-cpu: SUSPICIOUS: PPL fell by * against the baseline*an equal file cannot"
            " become better by more than 4 limits*",
            "cause: runtime kernels*",
        ]
    )
    record = read_record(accepted.root / "report.json")
    assert record.is_red
    assert "accept it: `pytest" in run_markdown(record)
    assert accepted.accept().ret == pytest.ExitCode.OK
    assert run(accepted).ret == pytest.ExitCode.OK


def test_noise_is_inconclusive_and_says_how_many_more_chunks(accepted: Project) -> None:
    accepted.set_faults(Q4_0="noisy")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted)["Q4_0"] == "INCONCLUSIVE"
    result.stdout.fnmatch_lines(
        ["*tiny-Q4_0-cpu: INCONCLUSIVE: PPL *cannot tell: 16 chunks fix the change to ±*"]
    )


def test_a_missing_baseline_is_red_once_one_is_stored(accepted: Project) -> None:
    next(path for path in accepted.baselines if "Q4_0" in path.name).unlink()
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": "NO_BASELINE"}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("{", "is no JSON"),
        ('{"version": 0}', "has version 0; this release reads 1"),
        ('{"version": 1}', "is damaged: "),
        ("[]", "is damaged: "),
        ("", "is no JSON"),
    ],
)
def test_a_damaged_baseline_is_not_a_missing_one(
    accepted: Project, damage: str, problem: str
) -> None:
    next(path for path in accepted.baselines if "Q4_0" in path.name).write_text(damage)
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted)["Q4_0"] == "NO_BASELINE"
    result.stdout.fnmatch_lines([f"*tiny-Q4_0-cpu: NO_BASELINE: *{problem}*store it anew*"])


def test_a_text_with_other_line_ends_is_not_comparable(accepted: Project) -> None:
    """Not a silent shift; the message names CRLF."""
    other = accepted.root / "story.txt"
    other.write_bytes(accepted.text.read_bytes().replace(b"\n", b"\r\n"))
    config = accepted.root / "pyproject.toml"
    config.write_text(config.read_text().replace(str(accepted.text), str(other)))
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=3)
    assert set(verdicts(accepted).values()) == {"NOT_COMPARABLE"}
    result.stdout.fnmatch_lines(["*it has CRLF line ends where the baseline's text had LF*"])


def test_other_token_ids_of_the_same_text_are_the_tokenizers_regression(accepted: Project) -> None:
    accepted.set_faults(Q4_0="other ids")
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted)["Q4_0"] == "REGRESSED"
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: the same text has other token ids in 16 of 16 chunks*",
            "cause: tokenizer (the same text has other token ids in 16 of 16 chunks;*",
        ]
    )


def test_another_model_file_under_the_same_name_is_not_comparable(accepted: Project) -> None:
    other = accepted.root / "other.gguf"
    data = accepted.model.read_bytes()
    other.write_bytes(data[:-4] + b"\x01\x02\x03\x04")
    config = accepted.root / "pyproject.toml"
    config.write_text(config.read_text().replace(str(accepted.model), str(other)))
    result = run(accepted)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(verdicts(accepted).values()) == {"NOT_COMPARABLE"}
    result.stdout.fnmatch_lines(["*the model's source is another file than the baseline's*"])


def test_a_pinned_hash_that_does_not_match_is_unavailable(fake: Project) -> None:
    pinned = f'[tool.quantgate.models.pinned]\nsource = "{fake.model}"\nsha256 = "{"0" * 64}"'
    fake.configure(profile='models = ["pinned", "tiny"]', tables=pinned)
    result = run(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["*pinned-Q4_0-cpu: UNAVAILABLE: *not the pinned 0000*"])


def test_a_device_that_the_engine_lacks_is_unavailable(fake: Project) -> None:
    fake.configure(
        profile='devices = ["cpu", "gpu"]', tables='[tool.quantgate.devices.gpu]\nbackend="CUDA0"'
    )
    result = run(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        ["*tiny-Q4_0-gpu: UNAVAILABLE: device 'gpu': the engine has no 'CUDA0'; there are: cpu*"]
    )


def test_a_crash_of_the_reference_is_told_by_the_cells_that_need_it(fake: Project) -> None:
    """A cell without its reference is red, but not lost."""
    fake.set_faults(F16="crash")
    result = run(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(fake)["F16"] == "CRASHED"
    assert "PASS" not in verdicts(fake).values()


def test_more_context_than_the_model_was_trained_for_is_noted(fake: Project) -> None:
    assert "was trained for" not in " ".join(read_notes(fake))
    edit_model(fake.model, fake.root / "short.gguf", metadata={"llama.context_length": 32})
    fake.configure(
        profile='models = ["short"]', tables='[tool.quantgate.models.short]\nsource = "short.gguf"'
    )
    assert "n_ctx = 64 is more than the 32 tokens that the model was trained for" in " ".join(
        read_notes(fake)
    )


def read_notes(fake: Project) -> tuple[str, ...]:
    """Return the notes of the first cell of a run."""
    run(fake)
    return read_record(fake.root / "report.json").cells[0].notes
