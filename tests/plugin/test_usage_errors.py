"""What cannot be used is one line and exit code 4, before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from tests.conftest import Project
from tests.tiny_model import finish

Change = Callable[[Project], tuple[str, ...]]


def _source(project: Project, path: Path) -> None:
    project.configure(tables="")
    config = project.root / "pyproject.toml"
    config.write_text(config.read_text().replace(str(project.model), str(path)))


def _bytes(data: bytes) -> Change:
    def change(project: Project) -> tuple[str, ...]:
        path = project.root / "bad.gguf"
        path.write_bytes(data)
        _source(project, path)
        return ()

    return change


def _truncated(project: Project) -> tuple[str, ...]:
    data = project.model.read_bytes()
    return _bytes(data[: len(data) // 2])(project)


def _kind(architecture: str, kind: str | None) -> Change:
    def change(project: Project) -> tuple[str, ...]:
        path = project.root / "other.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        if kind is not None:
            writer.add_type(kind)
        finish(writer)
        _source(project, path)
        return ()

    return change


def _profile(line: str) -> Change:
    def change(project: Project) -> tuple[str, ...]:
        project.configure(profile=line)
        return ()

    return change


def _short_text(project: Project) -> tuple[str, ...]:
    (project.root / "short.txt").write_text("word " * 20)
    return ("--quant-text=short.txt",)


def _empty_text(project: Project) -> tuple[str, ...]:
    (project.root / "empty.txt").write_text("")
    return ("--quant-text=empty.txt",)


def _missing_model(project: Project) -> tuple[str, ...]:
    _source(project, project.root / "nothing.gguf")
    return ()


def _missing_text(project: Project) -> tuple[str, ...]:
    config = project.root / "pyproject.toml"
    config.write_text(config.read_text().replace(str(project.text), "no.txt"))
    return ()


def _mistyped_text(project: Project) -> tuple[str, ...]:
    (project.root / "held-out.txt").write_text("word " * 20)
    return ("--quant-text=held-uot.txt",)


def _options(*arguments: str) -> Change:
    return lambda project: arguments  # noqa: ARG005 # a change that changes nothing


ERRORS: dict[str, tuple[Change, str]] = {
    "wrong key": (_profile("n_ctxx = 3"), "*unknown key 'n_ctxx' (did you mean 'n_ctx'?)*valid:*"),
    "unknown format": (_options("--quant-formats=Q4_9"), "*unknown format 'Q4_9'*valid: F32, F16*"),
    "unknown model": (
        _options("--quant-model=x"),
        "*unknown model 'x'; valid: lfm2-8b-a1b, *, smollm2-135m, tiny*",
    ),
    "unknown profile": (_options("--quant-profile=x"), "*unknown profile 'x'; valid: default*"),
    "unknown text": (
        _options("--quant-text=x"),
        "*unknown text 'x'; valid: calibration, evaluation, story*",
    ),
    "unknown device": (_options("--quant-devices=x"), "*unknown device 'x'; valid: cpu*"),
    "unknown engine": (_options("--quant-engine=x"), "*unknown engine 'x'; valid: default*"),
    "unknown report": (_options("--quant-report=x.pdf"), "*'x.pdf'*valid: .json, .md*"),
    "one report of two": (
        _options("--quant-report=x.md", "--quant-report=y.txt"),
        "*'y.txt'*valid: .json, .md*",
    ),
    "shard 0": (_options("--quant-shard=0/4"), "--quant-shard '0/4' is no shard*as 2/4*"),
    "shard beyond": (_options("--quant-shard=5/4"), "--quant-shard '5/4' is no shard*as 2/4*"),
    "no shard": (_options("--quant-shard=x"), "--quant-shard 'x' is no shard*as 2/4*"),
    "missing model": (_missing_model, "*model 'tiny': the file */nothing.gguf does not exist;*"),
    "missing text": (_missing_text, "*text 'story': the file */no.txt cannot be read*"),
    "no such model": (
        _options("--quant-model=nix.gguf"),
        "*--quant-model 'nix.gguf': there is no file */nix.gguf; check the path",
    ),
    "no such folder": (
        _options("--quant-model=models/nix.gguf"),
        "*--quant-model 'models/nix.gguf': there is no file */models/nix.gguf; check the path",
    ),
    "mistyped text": (
        _mistyped_text,
        "*--quant-text 'held-uot.txt': there is no file *(did you mean 'held-out.txt'[?])",
    ),
    "no such matrix": (
        _options("--quant-imatrix=none,x.gguf"),
        "*--quant-imatrix 'x.gguf': there is no file */x.gguf; check the path",
    ),
    "text too short": (_short_text, "*text 'short' is too short: 100 of 128 tokens that two*"),
    "empty text": (_empty_text, "*text 'empty' is too short: 0 bytes instead of 128 tokens*"),
    "no GGUF": (_bytes(b"PK\3\4 a zip"), "*bad.gguf is no GGUF file: it begins with*"),
    "empty file": (_bytes(b""), "*bad.gguf is no GGUF file: it begins with b''*"),
    "truncated": (
        _truncated,
        "*bad.gguf is truncated: 1,055,504 bytes of 2,111,008; get it again*",
    ),
    "mmproj": (_kind("clip", "mmproj"), "*is no language model: general.type is 'mmproj'*"),
    "imatrix": (_kind("llama", "imatrix"), "*is no language model: general.type is 'imatrix'*"),
    "encoder": (_kind("bert", None), "*is no language model: its architecture 'bert' predicts*"),
}


@pytest.mark.parametrize(("change", "line"), ERRORS.values(), ids=ERRORS.keys())
def test_a_usage_error(project: Project, change: Change, line: str) -> None:
    arguments = change(project)
    _check(project, line, arguments)


@pytest.mark.parametrize("name", ["wrong key", "unknown format", "truncated", "text too short"])
def test_a_usage_error_under_xdist(project: Project, name: str) -> None:
    """It is found in the controller, before workers start."""
    change, line = ERRORS[name]
    _check(project, line, (*change(project), "-n2"))


def _check(project: Project, line: str, arguments: tuple[str, ...]) -> None:
    result = project.matrix(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    told = [text for text in result.stderr.lines if text.strip()]
    assert len(told) == 1, "one line"
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*quantization gate*")


def test_a_plan_of_what_cannot_be_used_is_a_usage_error(project: Project) -> None:
    result = project.run("--quant-plan", "--quant-formats=Q4_9")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *unknown format 'Q4_9'*"])


MARKERS = {
    "unknown keyword": (
        "quant_ppl(max_vs_referense='+5%')",
        "*@quant_ppl has the unknown keyword 'max_vs_referense'; valid: max, max_vs_reference,*",
    ),
    "NaN": ("quant_ppl(max=float('nan'))", "*@quant_ppl(max=nan): nan is no finite number*"),
    "negative": (
        "quant_size(max_vs_baseline=-0.1)",
        "*@quant_size(max_vs_baseline=-0.1): -0.1 is negative; an allowed increase is zero or*",
    ),
    "positional": (
        "quant_ppl('+5%')",
        "*@quant_ppl takes no positional argument '+5%'; use max, max_vs_reference,*",
    ),
    "text": (
        "quant_ppl(max_vs_reference='much')",
        "*@quant_ppl(max_vs_reference='much'): 'much' is no relative change; write for example*",
    ),
    "None": ("quant_ppl(max=None)", "*@quant_ppl(max=None) sets no limit; leave it out*"),
    "no phase": (
        "quant_speed(min_vs_reference=1.2)",
        "*@quant_speed needs phase='prefill' or phase='decode' to say what its limits are of*",
    ),
    "unknown phase": (
        "quant_speed(phase='gen', min_vs_reference=1.2)",
        "*@quant_speed(phase='gen') is unknown; use phase='prefill' or phase='decode'*",
    ),
    "phase alone": (
        "quant_speed(phase='decode')",
        "*@quant_speed(phase='decode') sets no limit; add one of min_vs_reference, *",
    ),
    "speed keyword": (
        "quant_speed(phase='decode', max_vs_reference=1.2)",
        "*@quant_speed has the unknown keyword 'max_vs_reference'; valid: phase, min_vs_ref*",
    ),
    "increase": (
        "quant_speed(phase='decode', min_vs_baseline='+10%')",
        "*min_vs_baseline='+10%'): 0.1 is no allowed decrease; write for example \"-10%\" or -0.1*",
    ),
    "all of it": (
        "quant_speed(phase='decode', min_vs_baseline=-1)",
        "*min_vs_baseline=-1): -1.0 is no allowed decrease*",
    ),
    "speed NaN": (
        "quant_speed(phase='decode', min_vs_reference=float('nan'))",
        "*@quant_speed(min_vs_reference=nan): nan is no finite number*",
    ),
    "negative floor": (
        "quant_speed(phase='decode', min_tokens_per_s=-3)",
        "*@quant_speed(min_tokens_per_s=-3): -3 is not above zero*",
    ),
    "memory": (
        "quant_memory(max_vs_baseline='-5%')",
        "*@quant_memory(max_vs_baseline='-5%'): -0.05 is negative*",
    ),
    "zero": ("quant_size(max_bytes=0)", "*@quant_size(max_bytes=0): 0 is not above zero*"),
}


def _write_marked(project: Project, marker: str, argument: str = "quant_cell") -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(
        test_marked=f"""
        import pytest

        @pytest.mark.{marker}
        def test_marked({argument}):
            raise AssertionError("it must not run")
        """,
        test_other="def test_other(): pass",
    )


@pytest.mark.parametrize(("marker", "line"), MARKERS.values(), ids=MARKERS.keys())
def test_a_bad_marker_is_a_collection_error(project: Project, marker: str, line: str) -> None:
    _write_marked(project, marker)
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize("marker", ["quant_ppl(max=20)", "quant_size"])
def test_a_marker_on_a_test_without_a_cell(project: Project, marker: str) -> None:
    _write_marked(project, marker, "")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    name = marker.partition("(")[0]
    result.stdout.fnmatch_lines(
        [f"*@{name} is on a test without a cell; add the argument quant_cell*"]
    )


def test_a_bad_marker_under_xdist(project: Project) -> None:
    marker, line = MARKERS["unknown keyword"]
    _write_marked(project, marker)
    result = project.run("-n2")
    assert result.ret != pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1, "errors": 1}  # the other file's test goes on
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_markers_are_documented(project: Project) -> None:
    result = project.run("--markers")
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.quant_ppl(max=None, max_vs_reference=None, *, max_vs_anchor=None, *): *",
            "@pytest.mark.quant_size(max_bits_per_weight=None, *): limits on the cell's file*",
            "@pytest.mark.quant_speed(phase=None, min_vs_reference=None, *): limits on the speed*",
        ]
    )


def test_a_wrong_setting_without_the_matrix_is_a_collection_error(project: Project) -> None:
    project.configure(profile="n_ctxx = 3")
    project.pytester.makepyfile("def test_mine(quant_cell): pass")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*unknown key 'n_ctxx' (did you mean 'n_ctx'?)*"])


def test_a_limit_on_a_domain_that_no_text_has_is_a_usage_error(project: Project) -> None:
    """A misspelt one would be gated by nothing."""
    project.configure(profile='limits = { "*" = { domains = { cod = "+1%" } } }')
    result = project.matrix()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*domains names 'cod', which no text of the profile has; valid: *"]
    )
