"""What it takes to add a metric, a format and an engine: a file and a registration each."""

from __future__ import annotations

import json
import sys

import pytest

from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project

METRIC = '''
import math
from collections import Counter
from dataclasses import dataclass

from pytest_quantgate.config.limit import Limit, Value
from pytest_quantgate.config.metrics import Figure, Metric, register

register(
    Metric(
        name="entropy",
        marker="quant_entropy",
        help="limit on how much of each byte of the file is information",
        measure="entropy:measure_entropy",
        measurement="entropy:EntropyMeasurement",
        judge="entropy:judge_entropy",
        limits=(
            Limit("entropy_max", "max_bits", "entropy", Value.POSITIVE, unit="bits", default=8.0),
        ),
        figures=(Figure(name="bits_per_byte", heading="bits/byte", text=".3f"),),
        asked_by="test_cell",
        is_compared=True,
        needs_baseline=False,
    )
)


@dataclass(frozen=True, kw_only=True)
class EntropyMeasurement:
    """The Shannon entropy of a file's bytes."""

    bits_per_byte: float


def measure_entropy(session, cell):
    content = session.artifacts.file(cell).path.read_bytes()
    shares = [count / len(content) for count in Counter(content).values()]
    return EntropyMeasurement(bits_per_byte=-sum(p * math.log2(p) for p in shares))


def judge_entropy(seen, limits, baseline, look):
    from pytest_quantgate.gate.judges.bounds import at_most

    bits = seen.find(EntropyMeasurement).bits_per_byte
    return [at_most("entropy", "entropy", bits, limits.entropy_max, " bits per byte")]
'''


@pytest.fixture
def with_metric(project: Project) -> Project:
    """A project with a metric of its own."""
    project.pytester.makepyfile(entropy=METRIC)
    project.pytester.makeconftest("import entropy")
    project.pytester.syspathinsert()
    return project


def test_a_metric_is_a_file_and_a_registration(with_metric: Project) -> None:
    """It appears in configuration, table, record, Markdown, HTML and upgrade report."""
    with_metric.configure(
        formats=("F16", "Q4_0"),
        profile='limits."*".entropy_max = 7.5',
        tables=f"[tool.quantgate.engines.old]\npython = {json.dumps(sys.executable)}",
    )
    reports = [f"--quant-report=record.{ending}" for ending in ("json", "md", "html")]
    result = with_metric.pytester.runpytest_subprocess(
        f"--quant-cache={with_metric.cache}", "--quant-matrix", "--quant-against=old", *reports
    )
    record = json.loads((with_metric.root / "record.json").read_text(encoding="utf-8"))
    cells = {cell["format"]: cell for cell in record["cells"]}
    bits = {name: cell["measured"]["entropy"]["bits_per_byte"] for name, cell in cells.items()}
    assert 1 < bits["F16"] < 7.5 < bits["Q4_0"] < 8
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert cells["Q4_0"]["reason"].startswith("entropy 7.6")
    assert cells["F16"]["verdict"] == "PASS"
    markdown = (with_metric.root / "record.md").read_text(encoding="utf-8")
    page = (with_metric.root / "record.html").read_text(encoding="utf-8")
    for text in (markdown, page):
        assert "bits/byte" in text
        assert f"{bits['Q4_0']:.3f} → {bits['Q4_0']:.3f}" in text


def test_a_metric_has_its_marker_and_its_column(with_metric: Project) -> None:
    with_metric.configure(formats=("F16", "Q4_0"))
    with_metric.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_entropy(max_bits=1)
        def test_entropy(quant_cell):
            assert quant_cell.file_bytes > 0
        """
    )
    result = with_metric.pytester.runpytest_subprocess(
        f"--quant-cache={with_metric.cache}", "--strict-markers", "--quant-report=record.md"
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*REGRESSED: entropy * bits per byte is above 1 bits per byte*"])
    markdown = (with_metric.root / "record.md").read_text(encoding="utf-8")
    assert "bits/byte" in markdown
    help_text = with_metric.pytester.runpytest_subprocess("--markers").stdout.str()
    assert "@pytest.mark.quant_entropy(max_bits=None): limit on how much" in help_text


def test_a_metric_that_comes_too_late_says_where_it_belongs(project: Project) -> None:
    project.pytester.makepyfile(entropy=METRIC)
    project.pytester.makepyfile(test_late="import entropy")
    project.pytester.syspathinsert()
    result = project.pytester.runpytest_subprocess("--quant-codecs", "test_late.py")
    result.stdout.fnmatch_lines(["*ValueError: metric 'entropy' comes after the settings*"])


def test_a_format_is_a_row(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_quantgate.gguf import formats

    row = formats.FileType(name="Q4_X", number=2, main_type="Q4_0")
    monkeypatch.setattr(formats, "FILE_TYPES", {**formats.FILE_TYPES, row.name: row})
    project.configure(formats=("F16", "Q4_0", "Q4_X"))
    result = project.matrix("--quant-report=record.json", "--quant-report=record.md")
    assert result.ret == pytest.ExitCode.OK
    cells = {cell.format: cell for cell in read_record(project.root / "record.json").cells}
    assert cells["Q4_X"].ppl == cells["Q4_0"].ppl is not None
    assert "Q4_X" in (project.root / "record.md").read_text(encoding="utf-8")


def test_an_engine_is_a_class_and_a_line(project: Project) -> None:
    project.configure(formats=("F16",), tables="[tool.quantgate.engines.own]")
    project.pytester.makeconftest(
        """
        from pytest_quantgate.engines.factory import make_engine

        class Own:
            def __init__(self, engine):
                self._engine = engine
            def identity(self):
                from dataclasses import replace
                return replace(self._engine.identity(), version="of our own")
            def ask(self, request, on_reply=None):
                return self._engine.ask(request, on_reply)
            def close(self):
                self._engine.close()

        def pytest_quantgate_make_engine(name, settings, log):
            return Own(
                make_engine(
                    settings.engines[name],
                    root=settings.root, log=log, stall_s=60, sha256_of=lambda path: "",
                )
            )
        """
    )
    reports = "--quant-report=record.json", "--quant-report=record.md"
    result = project.matrix("--quant-engine=own", *reports)
    assert result.ret == pytest.ExitCode.OK
    record = read_record(project.root / "record.json")
    assert record.engine["version"] == "of our own"
    assert "of our own" in (project.root / "record.md").read_text(encoding="utf-8")
