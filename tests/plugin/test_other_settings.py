"""An edit of a setting that is part of a baseline's key does not end the gate."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Project

OTHER_TEXT = 'texts = ["tale"]'


def tale(project: Project) -> str:
    """Return the table of a text of other bytes under a name of its own."""
    path = project.root / "tale.txt"
    path.write_bytes(b"Once more: " + project.text.read_bytes())
    return f'[tool.quantgate.texts.tale]\nsource = "{path.as_posix()}"'


def verdicts(project: Project) -> dict[str, str]:
    """Return each format's verdict from the run's record."""
    record = json.loads((project.root / "report.json").read_text())
    return {cell["format"]: cell["verdict"] for cell in record["cells"]}


@pytest.fixture
def accepted(own_cache: Project) -> Project:
    """A project of the fake engine whose baselines are stored; its profile sets no gate."""
    own_cache.use_fake_engine()
    own_cache.configure()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    return own_cache


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ("n_ctx = 128", "n_ctx 128 (was 64)"),
        ("flash_attention = false", "flash_attention false (was true)"),
        ('type_k = "Q8_0"', "type_k Q8_0 (was F16)"),
        ('type_v = "Q8_0"', "type_v Q8_0 (was F16)"),
        (OTHER_TEXT, "text tale (was story)"),
        ('n_ctx = 128\ntype_k = "Q8_0"', "n_ctx 128 (was 64); type_k Q8_0 (was F16)"),
    ],
)
def test_an_edited_setting_is_red_and_named(accepted: Project, profile: str, named: str) -> None:
    accepted.configure(profile=profile, tables=tale(accepted))
    result = accepted.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(verdicts(accepted).values()) == {"NOT_COMPARABLE"}
    reason = f"the stored baseline is of other settings: {named}; set them back, or store one of"
    assert reason in result.stdout.str()
    result.stdout.fnmatch_lines(['*-k "tiny-Q4_0-cpu" --snapshot-update --quant-reason "WHY"*'])
    stored = len(accepted.baselines)
    assert accepted.accept().ret == pytest.ExitCode.OK
    assert len(accepted.baselines) == 2 * stored
    assert accepted.matrix().ret == pytest.ExitCode.OK


def test_a_loss_beside_an_edited_setting_is_told_and_not_forgotten(accepted: Project) -> None:
    """Chunks of equal tokens are held against the first accepted values, before and after."""
    accepted.configure(profile='type_k = "Q8_0"')
    accepted.set_faults(Q4_0="worse")
    accepted.matrix("--quant-report=report.json")
    assert verdicts(accepted)["Q4_0"] == "REGRESSED"
    assert verdicts(accepted)["Q8_0"] == "NOT_COMPARABLE"
    result = accepted.accept()
    result.stdout.fnmatch_lines(
        [
            "accepted tiny-Q4_0-cpu: PPL * (new), other settings: drift is judged from the first"
            " values of 16 equal chunks"
        ]
    )
    result = accepted.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(accepted) == {"F16": "PASS", "Q4_0": "REGRESSED", "Q8_0": "PASS"}
    result.stdout.fnmatch_lines(["*Q4_0-cpu: REGRESSED: PPL rose by * against the anchor over *"])


def test_a_drift_that_an_edited_setting_loses_is_told(accepted: Project) -> None:
    accepted.configure(profile="n_ctx = 128")
    accepted.matrix().stdout.fnmatch_lines(
        ["*NOT_COMPARABLE: *; no scored chunk is among the first accepted ones: *"]
    )
    accepted.accept().stdout.fnmatch_lines(
        ["accepted tiny-Q4_0-cpu: *, other settings: *, what had drifted before is lost"]
    )


def test_the_nearest_stored_setting_is_named(accepted: Project) -> None:
    accepted.configure(profile="n_ctx = 128\nflash_attention = false")
    assert accepted.accept().ret == pytest.ExitCode.OK
    accepted.configure(profile='n_ctx = 128\ntype_k = "Q8_0"\nflash_attention = false')
    accepted.matrix().stdout.fnmatch_lines(["*of other settings: type_k Q8_0 (was F16); set*"])


def test_a_text_on_the_command_line_is_such_an_edit(accepted: Project) -> None:
    accepted.configure(tables=tale(accepted))
    result = accepted.matrix("--quant-text=tale")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*NOT_COMPARABLE: *of other settings: text tale (was story)*"])


def test_baselines_of_another_profile_leave_a_profile_without_any_ungated(
    accepted: Project,
) -> None:
    """That one measures until its own first baseline, whatever another profile has stored."""
    accepted.configure(
        tables=tale(accepted)
        + '\n[tool.quantgate.profiles.longer]\nmodels = ["tiny"]\ntexts = ["tale"]\n'
        'formats = ["F16", "Q4_0"]\nn_ctx = 128\nchunks = 16'
    )
    result = accepted.matrix("--quant-profile=longer", "--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(accepted) == {"F16": "MEASURED", "Q4_0": "MEASURED"}
    assert accepted.matrix().ret == pytest.ExitCode.OK


def test_baselines_of_other_models_and_formats_do_not_count(accepted: Project) -> None:
    accepted.configure(formats=("Q5_0",), profile="n_ctx = 128")
    result = accepted.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(accepted) == {"Q5_0": "MEASURED"}


def test_a_second_text_has_no_baseline_yet(accepted: Project) -> None:
    """The first text's is still looked up: it is no baseline under settings of before."""
    accepted.configure(profile='texts = ["story", "tale"]', tables=tale(accepted))
    result = accepted.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["*tiny-Q4_0-cpu-tale: NO_BASELINE: no baseline is stored*"])
    result.stdout.no_fnmatch_line("*NOT_COMPARABLE*")


def test_shipped_baselines_of_other_settings_gate_nobody(own_cache: Project) -> None:
    """Who tries the built-in profile on a text of their own has stored nothing."""
    own_cache.use_fake_engine()
    (own_cache.root / "pyproject.toml").unlink()
    result = own_cache.matrix(f"--quant-text={own_cache.text}", "--quant-formats=F16")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["F16 *MEASURED*"])
