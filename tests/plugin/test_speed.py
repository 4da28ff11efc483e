"""Speed and memory in whole runs: markers, limits, baselines by hardware, reports.

The engine is a fake that is slow on demand; none of these tests is about a figure of a machine.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from pytest_quantgate.results.verdicts import CauseKind
from tests.conftest import TESTS, Project
from tests.plugin.test_shapes import SHAPE

PROFILE = "speed = true\nspeed_processes = 5\nspeed_repetitions = 1\n"


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project with the fake engine that measures speed."""
    own_cache.use_fake_engine()
    own_cache.configure(formats=("F16", "Q4_0"), profile=PROFILE)
    return own_cache


@pytest.fixture
def accepted(fake: Project) -> Project:
    """A project whose baselines are stored, with the speed on this hardware."""
    assert fake.accept().ret == pytest.ExitCode.OK
    return fake


def marked(project: Project, *markers: str) -> None:
    """Write one test with markers."""
    lines = [f"@pytest.mark.{marker}" for marker in markers]
    project.pytester.makepyfile(
        test_marked="\n".join(["import pytest", *lines, "def test_marked(quant_cell): pass"])
    )


def cells(project: Project) -> dict[str, Any]:
    """Return the record's cells by format."""
    record = json.loads((project.root / "report.json").read_text())
    return {cell["format"]: cell for cell in record["cells"]}


def run(project: Project, *arguments: str) -> dict[str, str]:
    """Run the matrix and return each format's verdict."""
    project.matrix("--quant-report=report.json", *arguments)
    return {name: str(cell["verdict"]) for name, cell in cells(project).items()}


def stored(project: Project, name: str) -> dict[str, Any]:
    """Return a stored baseline."""
    path = next(path for path in project.baselines if name in path.name)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_processes_are_interleaved(fake: Project) -> None:
    """Reference, cell, cell, reference and so on."""
    run(fake, "-k", "test_speed and Q4_0")
    sides = (fake.root / "speeds.txt").read_text().split()
    assert sides == ["F16", "Q4_0", "Q4_0", "F16", "F16", "Q4_0", "Q4_0", "F16", "F16", "Q4_0"]


def test_equal_bytes_are_timed_once_and_say_so(fake: Project) -> None:
    """As MXFP4_MOE and Q8_0 of a dense model."""
    fake.configure(
        formats=("F16", "Q4_0", "same"),
        tables='[tool.quantgate.formats.same]\nbase = "Q4_0"',
        profile=PROFILE,
    )
    result = fake.matrix("--quant-report=report.json", "-k", "test_speed")
    timed = (fake.root / "speeds.txt").read_text().split()
    assert (timed.count("Q4_0"), timed.count("F16")) == (5, 10)
    one, other = (cells(fake)[name]["measured"]["speed"] for name in ("Q4_0", "same"))
    assert one["cell"] == other["cell"]
    assert {one["timed_as"], other["timed_as"]} == {"", "tiny-Q4_0-cpu"}
    result.stdout.fnmatch_lines(["same *= *", "*is the speed of tiny-Q4_0-cpu: equal bytes are*"])


def test_a_processor_with_options_is_still_one_processor(fake: Project) -> None:
    """It is held once: waiting for itself would never end."""
    fake.configure(
        formats=("F16", "Q4_0"),
        tables="[tool.quantgate.devices.plain]\nrepack = false",
        profile=PROFILE + 'devices = ["plain"]',
    )
    assert run(fake, "-k", "test_speed and Q4_0") == {"Q4_0": "MEASURED"}


def test_noise_brings_more_processes_until_the_budget_ends(fake: Project) -> None:
    fake.configure(formats=("F16", "Q4_0"), profile=PROFILE.replace("= 5", "= 10"))
    fake.set_faults(Q4_0="noisy")
    run(fake, "-k", "test_speed and Q4_0")
    assert len(cells(fake)["Q4_0"]["measured"]["speed"]["cell"]) == 10
    fake.configure(
        formats=("F16", "Q4_0"), profile=PROFILE.replace("= 5", "= 10") + "speed_seconds = 0.001"
    )
    run(fake, "-k", "test_speed and Q4_0")
    assert len(cells(fake)["Q4_0"]["measured"]["speed"]["cell"]) == 5


ALONE = """
import time

import pytest_quantgate.engines.messages as messages

COMPUTING = (messages.MeasureSpeed, messages.Score, messages.Quantize)

class Slow(FakeEngine):
    def ask(self, request, on_reply=None):
        if not isinstance(request, COMPUTING):
            return super().ask(request, on_reply)
        began = time.monotonic()
        time.sleep(0.02)
        reply = super().ask(request, on_reply)
        with Path("times.txt").open("a") as stream:
            stream.write(json.dumps([type(request).__name__, began, time.monotonic()]) + "\\n")
        return reply

def pytest_quantgate_make_engine(name, settings, log):
    return Slow()
"""


def test_nothing_computes_while_a_speed_is_measured(fake: Project) -> None:
    """Neither scoring nor quantizing nor another speed, in two processes of pytest-xdist."""
    # As a text: the processes of pytest-xdist cannot import this repository's tests.
    fake.pytester.makeconftest((TESTS / "fake_engine.py").read_text(encoding="utf-8") + ALONE)
    result = fake.matrix("-n2")
    assert result.parseoutcomes()["passed"] == 4
    lines = [json.loads(line) for line in (fake.root / "times.txt").read_text().splitlines()]
    assert {kind for kind, _, _ in lines} == {"MeasureSpeed", "Score", "Quantize"}
    lines.sort(key=lambda line: float(line[1]))
    for (_, _, ended), (_, began, _) in pairwise(lines):
        assert ended <= began


def test_a_plan_counts_the_speed(fake: Project) -> None:
    def seconds() -> float:
        lines = fake.run("--quant-plan").stdout.lines
        return sum(
            float(found[1]) for line in lines if (found := re.search(r"to +([0-9.]+) s  ", line))
        )

    with_speed = seconds()
    fake.configure(formats=("F16", "Q4_0"))
    assert with_speed > seconds() > 0


def test_the_record_has_the_settings_and_every_run(fake: Project) -> None:
    run(fake, "-k", "test_speed and Q4_0")
    record = json.loads((fake.root / "report.json").read_text())
    assert record["settings"]["speed_decode_tokens"] == 128
    measured = record["cells"][0]["measured"]["speed"]
    for side in ("cell", "reference"):
        assert all(len(process["decode_ns"]) == 1 for process in measured[side])
    assert set(measured["host_before"]) == {
        "clock_mhz",
        "governor",
        "load_average",
        "temperature_c",
        "on_battery",
        "turbo",
        "throttled",
    }


def test_a_ratio_to_the_reference_is_judged_by_its_interval(fake: Project) -> None:
    """The fake's formats are equally fast, within 1 % of scatter."""
    marked(fake, 'quant_speed(phase="decode", min_vs_reference=0.9)')
    result = fake.run("-k", "Q4_0")
    result.assert_outcomes(passed=1)
    marked(fake, 'quant_speed(phase="decode", min_vs_reference=1.2)')
    result = fake.run("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*REGRESSED: decode *× the reference [[]*×, *×] over 5 pairs of processes*at least 1.2×*"]
    )


def test_a_slowdown_of_decoding_alone_is_not_prefills(fake: Project) -> None:
    fake.set_faults(Q4_0="slow decode")
    marked(fake, 'quant_speed(phase="decode", min_vs_reference=0.9)')
    fake.run("-k", "Q4_0").assert_outcomes(failed=1)
    marked(fake, 'quant_speed(phase="prefill", min_vs_reference=0.9)')
    fake.run("-k", "Q4_0").assert_outcomes(passed=1)


def test_noise_is_inconclusive(fake: Project) -> None:
    fake.set_faults(Q4_0="noisy")
    marked(fake, 'quant_speed(phase="decode", min_vs_reference=0.9)')
    result = fake.run("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INCONCLUSIVE: decode *raise speed_processes or*"])


def test_a_speed_without_a_baseline_is_measured(fake: Project) -> None:
    assert run(fake) == {"F16": "MEASURED", "Q4_0": "MEASURED"}
    result = fake.matrix("-k", "Q4_0")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["format *pp* t/s (× ref. [[]95 %[]])*tg* t/s (× ref. [[]95 %[]])*"]
    )
    result.stdout.fnmatch_lines(["Q4_0 *MEASURED*"])


def test_the_baseline_keeps_the_speed_of_this_hardware(accepted: Project) -> None:
    (part,) = stored(accepted, "Q4_0")["speed"].values()
    assert part["fingerprint"]["cpu"] == "a processor"
    assert len(part["decode_rates"]) == len(part["prefill_rates"]) == 5
    assert part["decode_rates"][0] == pytest.approx(100, rel=0.1)
    assert run(accepted) == {"F16": "PASS", "Q4_0": "PASS"}


def test_a_slower_engine_is_regressed_on_the_same_hardware(accepted: Project) -> None:
    accepted.set_faults(Q4_0="slow decode", library="newer")
    assert run(accepted) == {"F16": "PASS", "Q4_0": "REGRESSED"}
    assert cells(accepted)["Q4_0"]["reason"].startswith("decode −")
    assert cells(accepted)["Q4_0"]["cause"]["kind"] == CauseKind.RUNTIME.value


def test_the_same_engine_that_is_slower_is_the_machines(accepted: Project) -> None:
    accepted.set_faults(Q4_0="slow decode")
    assert run(accepted)["Q4_0"] == "REGRESSED"
    assert cells(accepted)["Q4_0"]["cause"]["kind"] == CauseKind.MACHINE.value


def n_processes(project: Project) -> int:
    return len(cells(project)["Q4_0"]["measured"]["speed"]["cell"])


def test_a_speed_ends_where_its_limits_are_decided(accepted: Project) -> None:
    """Not where the ratio to the reference is narrow, which it is not after 5 here."""
    accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE.replace("= 5", "= 10"))
    accepted.set_faults(Q4_0="noisy")
    assert run(accepted, "-k", "test_speed and Q4_0")["Q4_0"] == "INCONCLUSIVE"
    assert n_processes(accepted) == 10
    wide = "speed_margin = 0.001\n"
    accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE.replace("= 5", "= 10") + wide)
    accepted.set_faults()
    assert run(accepted, "-k", "test_speed and Q4_0")["Q4_0"] == "PASS"
    assert n_processes(accepted) == 5


def test_sessions_that_scatter_are_known_from_the_fifth_on(accepted: Project) -> None:
    """They are kept beside the cache's other files, ten at most, and widen the interval."""

    def scatters() -> Any:
        run(accepted, "-k", "test_speed and Q4_0")
        return cells(accepted)["Q4_0"]["measured"]["speed"]["between_sessions"]

    assert scatters() == {}, "one session is known: that which stored the baseline"
    for path in accepted.cache.glob("speeds/*.json"):
        kept = json.loads(path.read_text())
        assert len(kept) <= 2
        path.write_text(json.dumps(kept * 2 + kept[:1]))
    assert {scatter["degrees_of_freedom"] for scatter in scatters().values()} == {4}
    assert "sessions of this machine scatter by 0" in cells(accepted)["Q4_0"]["reason"]
    for path in accepted.cache.glob("speeds/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) * 10))
    scatters()
    lengths = {len(json.loads(path.read_text())) for path in accepted.cache.glob("speeds/*.json")}
    assert min(lengths) == 10, "the reference, which was not measured again, has more"


def test_a_busy_machine_is_no_regression(accepted: Project) -> None:
    accepted.set_faults(Q4_0="slow and busy")
    assert run(accepted)["Q4_0"] == "INCONCLUSIVE"
    assert "other processes used" in cells(accepted)["Q4_0"]["reason"]


def test_another_build_on_the_same_machine_is_compared_and_named(accepted: Project) -> None:
    """As a wheel that lost AVX2."""
    accepted.set_faults(build="FAKE = 1 | SLOW = 1", Q4_0="slow decode")
    assert run(accepted, "-k", "test_speed and Q4_0") == {"Q4_0": "REGRESSED"}
    reason = cells(accepted)["Q4_0"]["reason"]
    assert "likely because of the build: instruction sets and build options SLOW = 1" in reason
    assert accepted.accept("-k", "test_speed and Q4_0").ret == pytest.ExitCode.OK
    speeds = stored(accepted, "Q4_0")["speed"].values()
    assert [speed["anchor"] is None for speed in speeds].count(False) == 1, "the first is kept"


def test_other_hardware_is_only_measured_by_default(accepted: Project) -> None:
    accepted.set_faults(cpu="another processor", Q4_0="slow decode")
    verdicts = run(accepted, "-k", "test_speed")
    assert verdicts == {"F16": "MEASURED", "Q4_0": "MEASURED"}
    assert "CPU another processor (was a processor)" in cells(accepted)["Q4_0"]["reason"]


@pytest.mark.parametrize("limit", ['min_vs_baseline="-10%"', "min_tokens_per_s=50"])
def test_other_hardware_is_not_comparable_where_a_limit_asks(accepted: Project, limit: str) -> None:
    marked(accepted, f'quant_speed(phase="decode", {limit})')
    accepted.run("-k", "Q4_0").assert_outcomes(passed=1)
    accepted.set_faults(cpu="another processor")
    result = accepted.run("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*NOT_COMPARABLE: decode: no stored speed is of this hardware: CPU another*store it*"]
    )


def test_other_settings_are_not_comparable(accepted: Project) -> None:
    accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE + "speed_decode_tokens = 7")
    marked(accepted, 'quant_speed(phase="decode", min_vs_baseline="-10%")')
    result = accepted.run("-k", "Q4_0")
    result.stdout.fnmatch_lines(["*NOT_COMPARABLE: *decode_tokens 7 (was 128)*"])


def test_a_floor_is_judged_by_its_interval(accepted: Project) -> None:
    marked(accepted, 'quant_speed(phase="decode", min_tokens_per_s=120)')
    result = accepted.run("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED: decode * tokens/s [[]*[]] over 5 processes*120*"])


def test_an_update_on_other_hardware_keeps_both(accepted: Project) -> None:
    first = stored(accepted, "Q4_0")
    accepted.set_faults(cpu="another processor")
    result = accepted.accept("-k", "test_speed")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["accepted tiny-Q4_0-cpu: PPL *, decode * t/s (new)"])
    second = stored(accepted, "Q4_0")
    assert len(second["speed"]) == 2
    assert first["speed"].items() < second["speed"].items()
    assert second["perplexity"] == first["perplexity"]
    accepted.set_faults()
    assert run(accepted) == {"F16": "PASS", "Q4_0": "PASS"}


def test_an_update_of_the_quality_keeps_the_speed(accepted: Project) -> None:
    before = stored(accepted, "Q4_0")
    accepted.set_faults(Q4_0="worse")
    assert accepted.accept("-k", "test_cell").ret == pytest.ExitCode.OK
    after = stored(accepted, "Q4_0")
    assert after["perplexity"]["ppl"] > before["perplexity"]["ppl"]
    assert after["speed"] == before["speed"]


@pytest.mark.parametrize("fault", ["noisy", "worse"])
def test_an_update_of_the_speed_keeps_the_quality(accepted: Project, fault: str) -> None:
    """What a test of the quality would refuse does not come in with a speed."""
    before = stored(accepted, "Q4_0")
    accepted.set_faults(cpu="another processor", Q4_0=fault)
    assert accepted.accept("-k", "test_speed").ret == pytest.ExitCode.OK
    after = stored(accepted, "Q4_0")
    assert len(after["speed"]) == 2
    for part in ("perplexity", "size", "anchor", "made_by"):
        assert after[part] == before[part]


def test_a_first_speed_stores_no_quality_that_is_undecided(fake: Project) -> None:
    """The first update stores a whole baseline, so the whole is judged."""
    fake.configure(
        formats=("F16", "Q4_0"),
        profile=PROFILE + 'limits = { "*" = { ppl_vs_reference = "+5%" } }',
    )
    fake.set_faults(Q4_0="noisy")
    result = fake.accept("-k", "test_speed and Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tiny-Q4_0-cpu: not accepted as a baseline: INCONCLUSIVE: PPL*"])
    assert not fake.baselines


def test_baselines_under_xdist_have_quality_and_speed(fake: Project) -> None:
    """Two tests of one cell may end in two processes at once."""
    assert fake.accept("-n2").ret == pytest.ExitCode.OK
    for name in ("F16", "Q4_0"):
        assert stored(fake, name)["perplexity"]["ppl"] > 0
        assert len(stored(fake, name)["speed"]) == 1


def test_a_crash_while_timing_is_the_cells(fake: Project) -> None:
    fake.set_faults(Q4_0="crash")
    verdicts = run(fake, "-k", "test_speed")
    assert verdicts["Q4_0"] == "CRASHED"


def test_what_a_test_reads(fake: Project) -> None:
    fake.pytester.makepyfile(
        """
        def test_mine(quant_cell):
            speed = quant_cell.speed
            assert 95 < speed.tokens_per_s("decode") < 105
            assert 950 < speed.tokens_per_s("prefill") < 1050
            assert (speed.vs_reference("decode") is None) == quant_cell.is_reference
            assert quant_cell.memory.buffer_bytes("KV") == 100_000
            assert quant_cell.memory.buffer_bytes("RS") is None
        """
    )
    fake.run().assert_outcomes(passed=2)


def test_reports_carry_the_figures(fake: Project) -> None:
    fake.configure(formats=("F16", "Q4_0"), profile=PROFILE + "memory = true")
    result = fake.matrix("--quant-report=report.md", "--junitxml=junit.xml", "-o", "xfail_strict=0")
    assert result.ret == pytest.ExitCode.OK
    text = (fake.root / "report.md").read_text()
    assert re.search(r"\| pp\d+ t/s \(.*\) \| tg\d+ t/s \(.*\) \| peak MB \| verdict \|", text)
    assert "× [" in text
    xml = (fake.root / "junit.xml").read_text()
    for name in (
        "quant_prefill_tokens_per_s",
        "quant_decode_vs_reference",
        "quant_peak_resident_bytes",
        "quant_load_s",
    ):
        assert f'name="{name}"' in xml


def test_a_shape_has_speed_and_memory_from_the_real_engine(own_cache: Project) -> None:
    """From its file to its baseline; the figures are this machine's and not held."""
    own_cache.configure(
        formats=("F16", "Q4_0"),
        tables=SHAPE,
        profile='models = ["small"]\nmemory = true\n'
        + PROFILE
        + "speed_prefill_tokens = 16\nspeed_decode_tokens = 4",
    )
    result = own_cache.accept("--quant-report=report.json", "-k", "Q4_0")
    assert result.ret == pytest.ExitCode.OK
    kept = stored(own_cache, "Q4_0")
    (speed,), (peak,) = kept["speed"].values(), kept["memory"].values()
    assert min(*speed["prefill_rates"], *speed["decode_rates"]) > 0
    assert len(speed["decode_rates"]) == 5
    assert peak["peak_resident_bytes"] > kept["size"]["file_bytes"]
    assert peak["fingerprint"] == speed["fingerprint"]
    measured = cells(own_cache)["Q4_0"]["measured"]
    assert len(measured["speed"]["reference"]) == 5
    assert {buffer["kind"] for buffer in measured["memory"]["buffers"]} >= {"model", "KV"}


def test_slow_steps_that_were_accepted_add_up(accepted: Project) -> None:
    """The first accepted rates stay, for each machine apart; each step alone would be allowed."""
    limits = 'limits = { "*" = { speed_vs_same_hardware = "-30%", speed_vs_anchor = "-10%" } }'
    first = stored(accepted, "Q4_0")["speed"]
    accepted.set_faults(Q4_0="slow decode", cpu="another processor")
    assert accepted.accept("-k", "test_speed").ret == pytest.ExitCode.OK
    accepted.set_faults(Q4_0="slow decode")
    assert accepted.accept("-k", "test_speed").ret == pytest.ExitCode.OK
    (digest,) = first
    assert set(stored(accepted, "Q4_0")["speed"]) > {digest}
    for machine, speed in stored(accepted, "Q4_0")["speed"].items():
        was = first[machine]["decode_rates"] if machine == digest else None
        assert (speed["anchor"] and speed["anchor"]["decode_rates"]) == was
    accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE + limits)
    result = accepted.matrix("-k", "test_speed and Q4_0")
    result.stdout.fnmatch_lines(
        [
            "*tiny-Q4_0-cpu: REGRESSED: decode −*against the anchor *limit −10.00 %",
            "cause: the sum of the changes that were accepted one by one; *",
        ]
    )
    assert "prefill" not in result.stdout.str().partition("REGRESSED")[2].splitlines()[0]
    accepted.set_faults(Q4_0="slow decode", cpu="another processor")
    assert accepted.matrix("-k", "test_speed and Q4_0").ret == pytest.ExitCode.OK


def test_other_lengths_begin_a_new_anchor(accepted: Project) -> None:
    accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE + "speed_decode_tokens = 7")
    marked(accepted, 'quant_speed(phase="decode", min_vs_baseline="-10%")')
    accepted.run("-k", "Q4_0", "--snapshot-update", "--quant-reason=shorter")
    (speed,) = stored(accepted, "Q4_0")["speed"].values()
    assert speed["decode_tokens"] == 7
    assert speed["anchor"] is None


def test_a_drift_is_judged_without_an_accepted_step_only_where_its_limit_is_tighter(
    accepted: Project,
) -> None:
    """Else the limit against the baseline says the same."""
    accepted.set_faults(Q4_0="slow decode")
    for limits, told in (("-10%", ["baseline"]), ("-50%", ["baseline", "anchor"])):
        table = f'limits = {{ "*" = {{ speed_vs_same_hardware = "{limits}" }} }}'
        accepted.configure(formats=("F16", "Q4_0"), profile=PROFILE + table)
        run(accepted, "-k", "test_speed and Q4_0")
        judged = [item["against"] for item in cells(accepted)["Q4_0"]["judgements"]]
        assert judged == told * 2
