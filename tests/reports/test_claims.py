"""Published claims: every figure is in the file, and each is judged by what was measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.claims.evidence import Evidence, read_help_texts
from pytest_quantgate.reports.claims.judging import Finding, Outcome, judge_claims
from pytest_quantgate.reports.claims.schema import Claim, ClaimsFile, published_folder, read_claims
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.baseline_store import file_name, shipped_folder
from pytest_quantgate.results.hardware import Fingerprint, HostState
from pytest_quantgate.results.measurements.speed import ProcessSpeed, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord
from tests.reports.test_report import cell, record

NAME = "mxfp4-vs-q4_k_m"
FILE = read_claims(NAME)

# The article's two tables: model, format, GB, PPL, tokens/s on an RTX 4090; then other hardware.
MODELS = (
    ("lfm2-8b-a1b", "F16", 15.1, 6.21, 42.3),
    ("lfm2-8b-a1b", "MXFP4_MOE", 4.8, 7.89, 68.5),
    ("lfm2-8b-a1b", "Q4_K_M", 4.9, 7.12, 61.2),
    ("olmoe-1b-7b", "F16", 13.8, 8.34, 51.7),
    ("olmoe-1b-7b", "MXFP4_MOE", 4.4, 10.21, 83.4),
    ("olmoe-1b-7b", "Q4_K_M", 4.5, 9.45, 74.8),
)
HARDWARE = (
    ("RTX 4090", 68.5, 61.2, 12),
    ("Tesla P40", 24.3, 18.7, 30),
    ("Ryzen 9 7950X", 5.8, 4.9, 18),
)


def only(**wanted: object) -> Claim:
    """Return the one claim with these fields."""
    (found,) = (
        claim
        for claim in FILE.claims
        if all(getattr(claim, name) == value for name, value in wanted.items())
    )
    return found


def test_every_published_figure_is_a_claim() -> None:
    for model, name, gigabytes, ppl, rate in MODELS:
        assert only(kind="size", model=model, format=name).low == gigabytes
        assert only(kind="perplexity", model=model, format=name).low == ppl
        assert only(kind="speed", model=model, format=name, device="RTX 4090").low == rate
    for device, mxfp4, q4_k_m, faster in HARDWARE:
        for name, rate in (("MXFP4_MOE", mxfp4), ("Q4_K_M", q4_k_m)):
            speed = only(kind="speed", model="lfm2-8b-a1b", format=name, device=device)
            assert speed.low == rate
        assert only(kind="speed_ratio", device=device).low == faster
    for model, experts, used in (("lfm2-8b-a1b", 8, 2), ("olmoe-1b-7b", 7, 2)):
        assert only(kind="experts", model=model).low == experts
        assert only(kind="active_experts", model=model).low == used
    for name, after in (("MXFP4_MOE", 8.7), ("Q4_K_M", 6.1)):
        rise = only(kind="domain_ppl", format=name).low
        assert rise == pytest.approx(100 * (after / 5.2 - 1), abs=0.05)
    gains = {
        claim.format: (claim.low, claim.high)
        for claim in FILE.claims
        if claim.kind == "imatrix_gain"
    }
    assert gains == {"Q4_K_M": (8, 12), "MXFP4_MOE": (4, 6)}
    assert only(kind="imatrix_domain").low == 20
    assert {claim.kind for claim in FILE.claims} >= {"ppl_order", "speed_order", "practice"}


def test_ids_are_unique_and_a_ratio_fits_its_speeds() -> None:
    ids = [claim.id for claim in FILE.claims]
    assert len(set(ids)) == len(ids) == 42
    for device, mxfp4, q4_k_m, faster in HARDWARE:
        assert only(kind="speed_ratio", device=device).holds(100 * (mxfp4 / q4_k_m - 1)), device
        assert faster == round(100 * (mxfp4 / q4_k_m - 1))


def judged(*cells: CellRecord) -> dict[str, Finding]:
    """Return what is said of each claim, with the cells as one run's record."""
    evidence = Evidence(records=[record(*cells)] if cells else [])
    return {finding.claim.id: finding for finding in judge_claims(FILE, evidence)}


def test_what_ships_here_judges_sizes_and_architectures() -> None:
    found = judged()
    assert len(found) == len(FILE.claims)
    for model, used in (("lfm2-8b-a1b", 4), ("olmoe-1b-7b", 8)):
        assert found[f"experts-{model}"].outcome is Outcome.CONTRADICTED
        assert found[f"active-{model}"].measured == str(used)
    assert found["experts-lfm2-8b-a1b"].measured == "32"
    assert found["experts-olmoe-1b-7b"].measured == "64"
    outcomes = {model + name: found[f"size-{model}-{name}"].outcome for model, name, *_ in MODELS}
    reproduced = {"olmoe-1b-7bF16", "lfm2-8b-a1bMXFP4_MOE"}
    assert {key for key, outcome in outcomes.items() if outcome is Outcome.REPRODUCED} == reproduced
    assert set(outcomes.values()) == {Outcome.REPRODUCED, Outcome.CONTRADICTED}
    assert found["size-olmoe-1b-7b-MXFP4_MOE"].why == "published figure off by +11.8 %"
    assert found["format-mixed"].outcome is Outcome.CONTRADICTED
    missing = found["speed-rtx4090-lfm2-8b-a1b-F16"]
    assert missing.outcome is Outcome.NOT_MEASURABLE
    assert missing.why == "no such hardware: needs an RTX 4090"
    assert all(finding.why for finding in found.values())


def test_a_records_size_stands_before_the_stored_one() -> None:
    found = judged(cell("Q4_K_M", 9, 4500, model="olmoe-1b-7b"))
    assert found["size-olmoe-1b-7b-Q4_K_M"].outcome is Outcome.REPRODUCED
    assert found["size-olmoe-1b-7b-Q4_K_M"].measured == "4,500,000,000 bytes"


def test_a_perplexity_needs_the_model_and_wikitext() -> None:
    claim = "ppl-olmoe-1b-7b-Q4_K_M"
    other = cell("Q4_K_M", 9.45, 4212, model="olmoe-1b-7b", text="evaluation")
    assert judged(other)[claim].outcome is Outcome.NOT_MEASURABLE
    near = replace(other, text="wikitext2", ppl=9.5)
    assert judged(near)[claim].outcome is Outcome.REPRODUCED
    assert judged(replace(near, ppl=7.9))[claim].outcome is Outcome.CONTRADICTED


def pair(name: str, before: float, after: float, **changes: object) -> tuple[CellRecord, ...]:
    """Return a cell without an importance matrix and one with it."""
    plain = cell(name, before, 5, **changes)
    return plain, replace(plain, imatrix="notes", ppl=after, tensor_data_sha256="other")


def test_a_matrix_that_changes_no_byte_changes_no_perplexity() -> None:
    plain, weighted = pair("MXFP4_MOE", 30, 30, is_miniature=True)
    same = judged(plain, replace(weighted, tensor_data_sha256=plain.tensor_data_sha256))
    assert same["imatrix-MXFP4_MOE"].outcome is Outcome.CONTRADICTED
    assert "byte for byte" in same["imatrix-MXFP4_MOE"].why
    assert judged(plain, weighted)["imatrix-MXFP4_MOE"].outcome is Outcome.NOT_MEASURABLE


def test_a_matrixs_gain_counts_for_real_models_only() -> None:
    claim = "imatrix-Q4_K_M"
    assert judged(*pair("Q4_K_M", 10, 9.0))[claim].outcome is Outcome.REPRODUCED
    small = judged(*pair("Q4_K_M", 10, 9.9))[claim]
    assert (small.outcome, small.measured) == (Outcome.CONTRADICTED, "1.00 % (m)")
    mini = judged(*pair("Q4_K_M", 10, 9.0, is_miniature=True))[claim]
    assert (mini.outcome, mini.measured) == (
        Outcome.NOT_MEASURABLE,
        "10.00 % (m, matrix notes)",
    )


def test_a_domains_rise_is_told_and_judged_for_real_models() -> None:
    reference = cell("F16", 10, 20, ppl_by_domain={"mathematics": 5.2})
    now = cell("MXFP4_MOE", 12, 5, ppl_by_domain={"mathematics": 8.7})
    claim = "mathematics-expert-MXFP4_MOE"
    assert judged(reference, now)[claim].outcome is Outcome.REPRODUCED
    mini = judged(replace(reference, is_miniature=True), replace(now, is_miniature=True))[claim]
    assert mini.outcome is Outcome.NOT_MEASURABLE
    assert mini.measured == "+67.3 % (m, a miniature or requantized)"
    assert "an expert has no perplexity of its own" in mini.why


def test_advice_on_quality_is_an_order() -> None:
    claim = "advice-quality"
    better = judged(cell("Q4_K_M", 9, 5), cell("MXFP4_MOE", 10, 5))[claim]
    assert better.outcome is Outcome.REPRODUCED
    assert judged(cell("Q4_K_M", 11, 5), cell("MXFP4_MOE", 10, 5))[claim].outcome is (
        Outcome.CONTRADICTED
    )


def test_a_claim_holds_within_its_tolerance() -> None:
    claim = Claim(id="a", kind="size", says="", unit="GB", low=4, high=6, tolerance=0.5)
    assert [claim.holds(value) for value in (3.4, 3.5, 5, 6.5, 6.6)] == [
        *(False, True, True, True, False),
    ]
    assert not claim.holds(float("nan"))
    assert claim.figure == "4 to 6 GB"


def test_published_claims_are_no_models_baselines() -> None:
    """All other files beside them are found by their cell's key, and they by none."""
    assert (published_folder() / f"{NAME}.json").is_file()
    for path in shipped_folder().glob("*/*.json"):
        text = path.read_text(encoding="utf-8")
        if path.parent == published_folder():
            with pytest.raises(ConfigError):
                parse(text, path.name)
        else:
            key = parse(text, path.name).key
            assert shipped_folder() / file_name(key) == path


def test_speeds_are_compared_on_the_hardware_that_is_meant() -> None:
    def timed(name: str, milliseconds: float, cpu: str, **changes: object) -> CellRecord:
        process = ProcessSpeed(
            load_s=1,
            prefill_ns=(1,),
            decode_ns=(int(milliseconds * 1e6),),
            prefill_warmup_ns=(),
            decode_warmup_ns=(),
            prefill_is_warm=True,
            decode_is_warm=True,
        )
        state = HostState(
            clock_mhz=None,
            governor=None,
            load_average=None,
            temperature_c=None,
            on_battery=None,
        )
        speed = SpeedMeasurement(
            prefill_tokens=8,
            decode_tokens=10,
            depth=0,
            n_batch=8,
            n_ubatch=8,
            cell=(process,),
            reference=(),
            looks=(1,),
            fingerprint=Fingerprint(cpu=cpu, build="", n_threads=1, device="cpu", driver=""),
            host_before=state,
            host_after=state,
            outside_cores=None,
            seconds_s=1,
        )
        made = cell(name, 9, 5, model="lfm2-8b-a1b", **changes)
        return replace(made, measured={"speed": speed})

    ryzen = "AMD Ryzen 9 7950X 16-Core Processor"
    found = judged(timed("MXFP4_MOE", 1700, ryzen), timed("Q4_K_M", 2040, ryzen))
    assert found["speed-ryzen97950x-lfm2-8b-a1b-MXFP4_MOE"].measured == "5.9 tokens/s"
    assert found["speed-ryzen97950x-lfm2-8b-a1b-Q4_K_M"].outcome is Outcome.REPRODUCED
    assert found["ratio-ryzen97950x"].outcome is Outcome.REPRODUCED
    assert found["ratio-everywhere"].outcome is Outcome.CONTRADICTED
    assert found["ratio-teslap40"].outcome is Outcome.NOT_MEASURABLE
    assert "+20.0 %" in found["ratio-teslap40"].measured
    mini = [timed(name, 9, ryzen, is_miniature=True) for name in ("MXFP4_MOE", "Q4_K_M")]
    assert judged(*mini)["ratio-everywhere"].outcome is Outcome.NOT_MEASURABLE


def test_the_command_prints_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", NAME]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].startswith("42 claims: ")
    assert "contradicted: OLMoE-1B-7B has 7 experts" in text
    assert main(["claims", str(published_folder() / f"{NAME}.json"), "--markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 42 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"version": 2, "title": "", "claims": []}', "damaged: version"),
        ('{"version": 1, "title": "", "claims": [{"id": "a"}]}', "damaged: claims.0"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "claims.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_claims(str(path))
    assert message in str(caught.value)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match=f"no claims 'x'.*{NAME}"):
        read_claims("x")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in programs are shell scripts")
def test_an_option_is_looked_for_in_the_programs_help(tmp_path: Path) -> None:
    for name, text in (("llama-quantize", "--pure"), ("llama-imatrix", "--chunks N")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{text}"\n')
        program.chmod(0o755)
    (tmp_path / "llama-notes").mkdir()
    texts = read_help_texts(tmp_path)
    assert texts == {"llama-imatrix": "--chunks N\n", "llama-quantize": "--pure\n"}
    found = {
        finding.claim.id: finding
        for finding in judge_claims(FILE, Evidence(help_texts=texts))
        if finding.claim.kind == "option"
    }
    absent = found["option-moe-param"]
    assert absent.outcome is Outcome.CONTRADICTED
    assert absent.measured == "llama-imatrix, llama-quantize"
    assert found["option-imatrix-data-file"].why.startswith("needs llama-cli")
    there = replace_option(only(id="option-moe-param"), "--pure")
    claims = ClaimsFile(version=1, title="", claims=(there,))
    (named,) = judge_claims(claims, Evidence(help_texts=texts))
    assert (named.outcome, named.measured) == (Outcome.REPRODUCED, "llama-quantize")
    with pytest.raises(ConfigError, match="has none of llama.cpp's programs"):
        read_help_texts(tmp_path / "llama-notes")


def replace_option(claim: Claim, option: str) -> Claim:
    return claim.model_copy(update={"option": option})


def test_every_kind_is_judged() -> None:
    kinds = {claim.kind for claim in FILE.claims}
    made = [
        Claim(id=kind, kind=kind, says="", unit="", format="Q4_K_M", other_format="Q8_0")
        for kind in kinds
    ]
    findings = judge_claims(ClaimsFile(version=1, title="", claims=tuple(made)), Evidence())
    assert len(findings) == len(made)
