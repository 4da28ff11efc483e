"""One engine against another in one run: what moved, which of their parts moved it, what is new."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from pytest_quantgate.reports.write import run_markdown
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project

ENGINES = "[tool.quantgate.engines.old]"
SAME_BUILD = f"{ENGINES}\npython = {json.dumps(sys.executable)}"


def compare(project: Project, *arguments: str) -> tuple[pytest.RunResult, RunRecord]:
    """Hold the default engine against the one named old."""
    result = project.matrix("--quant-against=old", "--quant-report=record.json", *arguments)
    return result, read_record(project.root / "record.json")


def verdicts(record: RunRecord) -> dict[str, str]:
    """Return each format's verdict."""
    return {cell.format: cell.verdict for cell in record.cells}


@pytest.fixture
def fake(own_cache: Project) -> Project:
    """A project with two fake engines and no faults."""
    own_cache.configure(tables=ENGINES)
    own_cache.use_fake_engine()
    return own_cache


# Real engines. The old one is the same build in another process; a wrapper makes it another.

WRAPPED = """
from pathlib import Path
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines import messages

class Other:
    '''An old engine with another quantizer, which may write {other} for Q4_0.'''
    def __init__(self, engine):
        self._engine = engine
    def identity(self):
        return messages_replace(self._engine.identity(), quantizer_sha256="0" * 64)
    def ask(self, request, on_reply=None):
        kinds = (messages.Quantize, messages.PlanQuantization)
        if isinstance(request, kinds) and request.file_type == 2:
            request = messages_replace(request, file_type={number})
        return self._engine.ask(request, on_reply)
    def close(self):
        self._engine.close()

class Counting:
    def __init__(self, engine):
        self._engine = engine
    def identity(self):
        return self._engine.identity()
    def ask(self, request, on_reply=None):
        # Which formats there are is tried too, in a temporary folder.
        is_tried = isinstance(request, messages.Quantize) and not Path(
            request.destination
        ).is_relative_to(Path.cwd())
        if not is_tried:
            with Path("asked.txt").open("a") as stream:
                stream.write(type(request).__name__ + "\\n")
        return self._engine.ask(request, on_reply)
    def close(self):
        self._engine.close()

from dataclasses import replace as messages_replace

def pytest_quantgate_make_engine(name, settings, log):
    made = make_engine(
        settings.engines[name], root=settings.root, log=log, stall_s=60, sha256_of=lambda path: ""
    )
    return Other(made) if name == "old" else Counting(made)
"""
Q4_0, Q4_1 = 2, 3


def test_the_same_build_is_no_change(project: Project) -> None:
    """The old engine is measured in its own process, and every value comes out equal."""
    project.configure(tables=SAME_BUILD)
    result, record = compare(project)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(record) == dict.fromkeys(("F16", "Q8_0", "Q4_0"), "PASS")
    assert record.against is not None
    assert record.against["library_sha256"] == record.engine["library_sha256"]
    assert {other.id for other in record.others} == {f"{c.id}@old" for c in record.cells}
    for cell in record.cells:
        assert "identical to the old engine's" in cell.reason
        other = next(item for item in record.others if item.format == cell.format)
        assert other.chunks.nll_sum_nats == cell.chunks.nll_sum_nats
        assert (other.engine, cell.engine) == ("old", "default")
    assert not project.baselines
    result.stdout.fnmatch_lines(["No change: bit-identical on 3 cells, * tokens."])


def test_the_old_engine_may_be_an_interpreter_on_the_command_line(project: Project) -> None:
    result = project.matrix(
        "-k", "F16", f"--quant-against=python={sys.executable}", "--quant-report=record.json"
    )
    assert result.ret == pytest.ExitCode.OK
    record = read_record(project.root / "record.json")
    assert [other.id for other in record.others] == ["tiny-F16-cpu@old"]
    assert f"--quant-against python={sys.executable}" in record.command


def test_each_engine_makes_its_own_files(own_cache: Project) -> None:
    own_cache.configure(tables=SAME_BUILD, formats=("F16", "Q8_0"))
    own_cache.pytester.makeconftest(WRAPPED.format(other="itself", number=Q4_0))
    result, record = compare(own_cache)
    assert result.ret == pytest.ExitCode.OK
    assert (own_cache.root / "asked.txt").read_text().split().count("Quantize") == 1
    assert len(list(own_cache.cache.glob("artifacts/*.gguf"))) == 2
    assert len({cell.file_sha256 for cell in (*record.cells, *record.others)}) == 2


def test_another_quantizer_is_told_from_the_runtime(own_cache: Project) -> None:
    """The crossed cells are measured; all of the change is the file's, none the runtime's."""
    own_cache.configure(tables=SAME_BUILD, formats=("F16", "Q4_0"))
    own_cache.pytester.makeconftest(WRAPPED.format(other="Q4_1", number=Q4_1))
    result, record = compare(own_cache)
    result.stdout.fnmatch_lines(
        [
            "cause: quantizer (*Q4_1 → Q4_0*; measured apart: quantizer alone: PPL *;"
            " runtime kernels alone: identical"
        ]
    )
    assert verdicts(record)["F16"] == "PASS"
    cell = next(c for c in record.cells if c.format == "Q4_0")
    sides = {(c.quantizer, c.engine): c for c in record.others if c.format == "Q4_0"}
    assert set(sides) == {("old", "old"), ("default", "old"), ("old", "default")}
    old, new = sides["old", "old"], cell
    assert sides["old", "default"].chunks.nll_sum_nats == old.chunks.nll_sum_nats
    assert sides["default", "old"].chunks.nll_sum_nats == new.chunks.nll_sum_nats
    assert old.chunks.nll_sum_nats != new.chunks.nll_sum_nats
    assert old.file_bytes != new.file_bytes
    text = run_markdown(record)
    assert "- **quantizer** (`tiny-Q4_0-cpu`): " in text
    assert "tensors changed type" in text
    after = text[text.index("## Which half of the engine") :]
    row = next(line for line in after.splitlines() if line.startswith("| `tiny-Q4_0-cpu` | "))
    _, _, quantizer, runtime, together, left_over, _ = (part.strip() for part in row.split("|"))
    assert (runtime, left_over, quantizer) == ("identical", "identical", together)


def test_files_that_exist_need_no_reference(project: Project, tiny_model: Path) -> None:
    """One file of a user's, as it is, through both runtimes."""
    project.configure(
        tables=f"{SAME_BUILD}\n[tool.quantgate.models.mine]\n"
        f"files = {{ F16 = {json.dumps(str(tiny_model))} }}",
        profile='models = ["mine"]',
    )
    result, record = compare(project)
    assert result.ret == pytest.ExitCode.OK
    assert [(c.id, c.verdict, c.quantizer) for c in record.cells] == [("mine-F16-cpu", "PASS", "")]
    assert [(c.id, c.engine) for c in record.others] == [("mine-F16-cpu@old", "old")]


# Faults, with a fake.


def test_a_worse_runtime_is_red_with_its_cause(fake: Project) -> None:
    fake.set_faults(**{"default:Q4_0": "worse", "default:library": "another"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(record) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": "REGRESSED"}
    cell = record.cells[-1]
    assert "against the old engine" in cell.reason
    assert str(cell.cause).startswith("cause: runtime kernels (")


def test_other_token_ids_are_the_tokenizers(fake: Project) -> None:
    fake.set_faults(**{"default:*": "other ids"})
    _, record = compare(fake)
    assert set(verdicts(record).values()) == {"REGRESSED"}
    assert all(str(cell.cause).startswith("cause: tokenizer") for cell in record.cells)


@pytest.mark.parametrize("engine", ["default", "old"])
def test_a_tokenizer_that_splits_more_is_red_on_the_chunks_of_both(
    fake: Project, engine: str
) -> None:
    """The side with more tokens has chunks that the other has not."""
    faults = {f"{engine}:tokenizer": "splits more", f"{engine}:library": "another"}
    fake.set_faults(**faults)
    _, record = compare(fake)
    assert set(verdicts(record).values()) == {"REGRESSED"}
    assert all(str(cell.cause).startswith("cause: tokenizer") for cell in record.cells)


@pytest.mark.parametrize(
    ("fault", "verdict", "old_verdict"),
    [
        ("crash", "NOT_COMPARABLE", "CRASHED"),
        ("hang", "NOT_COMPARABLE", "TIMEOUT"),
        ("refuse", "MEASURED", "UNSUPPORTED"),
    ],
)
def test_what_only_the_new_engine_can_is_never_an_improvement(
    fake: Project, fault: str, verdict: str, old_verdict: str
) -> None:
    """A format that the old engine refuses is new; one that crashed or hung compared nothing."""
    fake.set_faults(**{"old:Q4_0": fault, "old:quantizer": "an older one"})
    result, record = compare(fake)
    is_red = verdict == "NOT_COMPARABLE"
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if is_red else pytest.ExitCode.OK)
    assert verdicts(record) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": verdict}
    reason = record.cells[-1].reason
    assert reason.startswith(f"not compared: the old engine could not ({old_verdict}: ")
    old = next(other for other in record.others if other.id == "tiny-Q4_0-cpu@old")
    assert old.verdict == old_verdict
    text = run_markdown(record)
    assert f"- `tiny-Q4_0-cpu`: only the new engine can; the old one gave {old_verdict}" in text


@pytest.mark.parametrize(
    ("fault", "verdict"), [("crash", "CRASHED"), ("hang", "TIMEOUT"), ("refuse", "UNSUPPORTED")]
)
def test_what_only_the_old_engine_can_is_red(fake: Project, fault: str, verdict: str) -> None:
    fake.set_faults(**{"default:Q4_0": fault, "old:quantizer": "an older one"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    assert verdicts(record) == {"F16": "PASS", "Q8_0": "PASS", "Q4_0": verdict}
    assert record.cells[-1].reason.endswith("; the old engine can")
    assert {other.id for other in record.others} == {f"{c.id}@old" for c in record.cells}


def test_what_neither_can_is_skipped(fake: Project) -> None:
    """An upgrade is no fault of what never worked."""
    fake.set_faults(Q4_0="refuse")
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2, skipped=1)
    assert verdicts(record)["Q4_0"] == "UNSUPPORTED"
    assert "nor can the old engine" in record.cells[-1].reason
    assert "- `tiny-Q4_0-cpu`: neither engine can; the new one gave" in run_markdown(record)


def test_a_model_that_only_the_old_engine_reads_is_red(fake: Project) -> None:
    """The new one cannot even cut the text; that is not "nor can the old engine"."""
    lost = {f"default:{name}": "refuse" for name in ("tokenizer", "Q8_0", "Q4_0")}
    fake.set_faults(**lost, **{"old:quantizer": "an older one", "default:F16": "crash"})
    result, record = compare(fake)
    result.assert_outcomes(failed=3)
    assert verdicts(record) == {"F16": "CRASHED", "Q8_0": "UNSUPPORTED", "Q4_0": "UNSUPPORTED"}
    assert all(cell.reason.endswith("; the old engine can") for cell in record.cells)


def test_a_refusal_beside_a_crash_of_the_old_engine_is_red(fake: Project) -> None:
    """Only what the old engine refused too is no fault of the new one."""
    fake.set_faults(
        **{"default:Q4_0": "refuse", "old:Q4_0": "crash", "old:quantizer": "an older one"}
    )
    result, record = compare(fake)
    result.assert_outcomes(passed=2, failed=1)
    assert "nor can the old engine: the worker died" in record.cells[-1].reason


def test_a_crash_of_both_stays_red(fake: Project) -> None:
    fake.set_faults(Q4_0="crash")
    result, _ = compare(fake)
    result.assert_outcomes(passed=2, failed=1)


def test_an_old_engine_that_is_not_there_is_unavailable(project: Project) -> None:
    project.configure(tables=f'{ENGINES}\npython = "nowhere/bin/python"')
    result, record = compare(project)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(verdicts(record).values()) == {"UNAVAILABLE"}
    result.stdout.fnmatch_lines(["*UNAVAILABLE: the old engine: *nowhere/bin/python*"])
    assert "**3 of 3 cells are red: " in run_markdown(record)


def test_both_speeds_are_measured_between_each_other(fake: Project) -> None:
    """Decoding became slower and the prompt did not; nothing stored is needed."""
    fake.configure(
        tables=ENGINES, formats=("Q8_0",), profile="speed = true\nspeed_prefill_tokens = 32"
    )
    fake.set_faults(**{"default:Q8_0": "slow decode"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    kinds = {
        str(j.reason).split()[0]: j.verdict.value
        for j in record.cells[0].judgements
        if j.metric == "speed"
    }
    assert kinds == {"prefill": "PASS", "decode": "REGRESSED"}
    speed = record.cells[0].measured["speed"]
    assert len(speed.against) == len(speed.cell) >= 5
    assert not speed.reference
    text = run_markdown(record)
    assert "| cell | prefill [95 %] | decode [95 %] |\n" in text
    assert "pairs of fresh processes, run in turn" in text
    assert "- memory was not measured" in text


def test_a_floor_is_of_the_stored_hardware_beside_an_old_engine_too(fake: Project) -> None:
    """It must not go unjudged because another engine stands for the baseline."""
    profile = "speed = true\nspeed_processes = 5\nspeed_repetitions = 1\n"
    floor = 'limits = { "*" = { decode_tokens_per_s_min = 90 } }'
    fake.configure(tables=ENGINES, formats=("Q8_0",), profile=profile + floor)

    def floors() -> list[tuple[str, str]]:
        _, record = compare(fake, "-k", "test_speed")
        found = (j for j in record.cells[0].judgements if j.against in {"limit", "nothing"})
        return [(item.verdict.value, str(item.reason)) for item in found]

    ((kind, reason),) = floors()
    assert kind == "NO_BASELINE"
    assert reason.startswith("decode: no speed is stored that says of which hardware")
    assert fake.accept().ret == pytest.ExitCode.OK
    ((kind, reason),) = floors()
    assert kind == "PASS"
    fake.set_faults(Q8_0="slow decode")
    ((kind, reason),) = floors()
    assert kind == "REGRESSED"
    assert "at least 90" in reason
    fake.set_faults(cpu="another processor")
    ((kind, reason),) = floors()
    assert kind == "NOT_COMPARABLE"
    assert "no stored speed is of this hardware: CPU another" in reason


def test_both_memories_are_measured(fake: Project) -> None:
    fake.configure(tables=ENGINES, formats=("Q8_0",), profile="memory = true")
    fake.set_faults(**{"default:Q8_0": "large", "default:library": "another"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    memory = next(j for j in record.cells[0].judgements if j.metric == "memory")
    assert memory.verdict.value == "REGRESSED"
    assert "peak memory +10.00 % against the old engine" in str(memory.reason)
    assert "(+10.0 %) |\n" in run_markdown(record)


def test_a_figure_that_the_old_engine_lacks_leaves_the_rest(fake: Project) -> None:
    """Its memory is not known; perplexity is compared all the same, and nothing is "new"."""
    fake.configure(tables=ENGINES, formats=("Q8_0",), profile="memory = true")
    fake.set_faults(**{"old:Q8_0": "no such figure"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(record) == {"Q8_0": "PASS"}
    assert "the old engine gives no memory" in " ".join(record.cells[0].notes)
    assert [(c.id, c.ppl is not None) for c in record.others] == [("tiny-Q8_0-cpu@old", True)]


def test_a_speed_that_the_old_engine_lacks_is_not_the_new_ones_fault(fake: Project) -> None:
    """And a ratio to the reference is said not to be judged beside an old engine."""
    profile = "speed = true\nspeed_processes = 5"
    fake.configure(tables=ENGINES, formats=("F16", "Q8_0"), profile=profile)
    fake.set_faults(**{"old:Q8_0": "crash"})
    _, record = compare(fake, "-k", "test_speed and Q8_0")
    cell = record.cells[0]
    assert cell.verdict in {"PASS", "MEASURED", "IMPROVED"}
    assert "the old engine gives no speed" in " ".join(cell.notes)
    assert not cell.measured["speed"].against
    fake.configure(
        tables=f"{ENGINES}\n[tool.quantgate.profiles.default.limits.Q8_0]\n"
        "decode_vs_reference = 1.2\n",
        formats=("F16", "Q8_0"),
        profile=profile,
    )
    fake.set_faults()
    result, record = compare(fake, "-k", "test_speed and Q8_0")
    assert result.ret == pytest.ExitCode.OK
    assert record.cells[0].verdict == "MEASURED"
    assert "at least 1.2× the reference is not judged" in record.cells[0].reason


@pytest.mark.parametrize("way", [(), ("-n2",)], ids=["plain", "n2"])
def test_stored_baselines_are_left_alone(fake: Project, way: tuple[str, ...]) -> None:
    assert fake.accept().ret == pytest.ExitCode.OK
    stored = [path.read_bytes() for path in fake.baselines]
    fake.set_faults(**{"*": "worse"})
    result, record = compare(fake, *way)
    assert result.ret == pytest.ExitCode.OK, "both engines give the same"
    assert set(verdicts(record).values()) == {"PASS"}
    assert [path.read_bytes() for path in fake.baselines] == stored
    assert len(record.others) == 3


def test_a_plan_counts_both_engines(project: Project) -> None:
    def seconds(*options: str) -> float:
        output = project.run("--quant-plan", *options).stdout.str()
        found = re.search(r"up to about ([0-9.]+) s", output)
        assert found is not None
        return float(found[1])

    project.configure(tables=SAME_BUILD, profile="chunks = 20\nn_ctx = 256")
    assert seconds("--quant-against=old") > 1.5 * seconds() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quant-against=older"], "*unknown engine 'older'*valid: default, old*"),
        (["--quant-against=default"], "*'default' is the engine that is measured; valid: old*"),
        (
            ["--quant-against=old", "--snapshot-update", "--quant-reason=x"],
            "*--quant-against 'old' compares two engines in one run: it stores no baselines*",
        ),
        (["--quant-against=old", "--quant-calibrate"], "*--quant-against 'old' compares*"),
    ],
)
def test_what_makes_no_sense_is_told(fake: Project, arguments: list[str], message: str) -> None:
    result = fake.matrix(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize("side", ["old:Q8_0", "old:F16"])
def test_an_old_engine_whose_figures_are_not_finite_is_no_baseline(
    fake: Project, side: str
) -> None:
    fake.configure(tables=ENGINES, formats=("F16", "Q8_0"))
    fake.set_faults(**{side: "nan"})
    result, record = compare(fake)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    cell = next(cell for cell in record.cells if cell.format == "Q8_0")
    assert cell.verdict == "NOT_COMPARABLE"
    assert "not finite" in cell.reason
