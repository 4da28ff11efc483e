"""Shapes in a matrix: their sizes are gated, their files are not made, quality is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Project

SHAPE = """
[tool.quantgate.models.small.shape]
architecture = "olmoe"
layers = 4
hidden = 256
feed_forward = 256
heads = 4
kv_heads = 4
vocabulary = 600
experts = 4
experts_used = 2
"""


@pytest.fixture
def shapes(own_cache: Project) -> Project:
    """A project with a small shape, two texts and an empty cache."""
    own_cache.configure(
        formats=("F16", "Q4_K_M", "MXFP4_MOE"),
        tables=SHAPE,
        profile='models = ["small"]\ntexts = ["story", "evaluation"]',
    )
    return own_cache


def artifacts(project: Project) -> list[Path]:
    """Return the files that were made."""
    return list((project.cache / "artifacts").glob("*.gguf"))


def change(path: Path, old: str, new: str) -> None:
    """Replace text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_sizes_are_measured_stored_and_gated_without_a_file(shapes: Project) -> None:
    """Once a format, whatever texts the profile has."""
    measured = shapes.matrix()
    measured.assert_outcomes(passed=3)
    measured.stdout.fnmatch_lines(
        ["small on cpu, size and speed only, reference F16", "*No baseline is stored*"]
    )
    accepted = shapes.accept()
    assert accepted.ret == pytest.ExitCode.OK
    accepted.stdout.fnmatch_lines(["accepted small-Q4_K_M-cpu: * bytes (new)"])
    stored = {path.name: json.loads(path.read_text()) for path in shapes.baselines}
    assert set(stored) == {"F16-cpu.json", "Q4_K_M-cpu.json", "MXFP4_MOE-cpu.json"}
    q4_k_m = stored["Q4_K_M-cpu.json"]
    assert q4_k_m["perplexity"] is None
    assert q4_k_m["anchor"]["file_bytes"] == q4_k_m["size"]["file_bytes"]
    down = q4_k_m["size"]["tensors"]["blk.*.ffn_down_exps.weight"]
    assert down == "0=Q4_K 1=Q4_K 2=Q6_K 3=Q6_K"
    again = shapes.matrix("--quant-report=report.json")
    again.assert_outcomes(passed=3)
    record = json.loads((shapes.root / "report.json").read_text())
    assert [cell["verdict"] for cell in record["cells"]] == ["PASS"] * 3
    assert artifacts(shapes) == []


def test_another_type_and_more_bytes_are_regressions_with_their_cause(shapes: Project) -> None:
    shapes.accept()
    path = next(path for path in shapes.baselines if path.name.startswith("Q4_K_M"))
    size = json.loads(path.read_text())["size"]["file_bytes"]
    change(path, "2=Q6_K 3=Q6_K", "2=Q4_K 3=Q6_K")
    change(path, f'"file_bytes": {size}', f'"file_bytes": {size - size // 100}')
    result = shapes.matrix("-k", "Q4_K_M")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: 2 of 51 tensors changed type (attn_v Q4_K → Q6_K in blk.2;"
            " ffn_down_exps Q4_K → Q6_K in blk.2);"
            " size +1.0* % against the baseline*",
            "cause: quantizer (*",
        ]
    )


def test_what_is_asked_of_its_quality_by_name_is_unsupported(shapes: Project) -> None:
    path = shapes.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_ppl(max=10)
        def test_quality(quant_cell):
            pass

        @pytest.mark.quant_ppl
        @pytest.mark.quant_size(max_bits_per_weight=5.6, max_vs_reference="+0%")
        def test_size(quant_cell):
            assert quant_cell.tensor_types["blk.0.ffn_norm.weight"] == "F32"

        def test_reading(quant_cell):
            assert quant_cell.perplexity
        """
    )
    result = shapes.run(path, "-k", "MXFP4_MOE")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*UNSUPPORTED: model 'small' is a shape: its weights are pseudo-random, so it has size"
            " and speed and no quality",
        ]
        * 2
    )
    assert artifacts(shapes) == []


def test_a_limit_against_the_reference_needs_no_text(shapes: Project) -> None:
    path = shapes.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_size(max_vs_reference=0)
        def test_size(quant_cell):
            pass
        """
    )
    shapes.configure(formats=("F16", "Q8_0"), tables=SHAPE, profile='models = ["small", "tiny"]')
    result = shapes.run(path, "--quant-report=report.json")
    result.assert_outcomes(passed=4)
    record = json.loads((shapes.root / "report.json").read_text())
    judged = {cell["id"]: [j["against"] for j in cell["judgements"]] for cell in record["cells"]}
    assert judged == {
        "small-F16-cpu": [],
        "small-Q8_0-cpu": ["reference"],
        "tiny-F16-cpu": [],
        "tiny-Q8_0-cpu": ["reference"],
    }
    assert all(cell["ppl"] is None for cell in record["cells"])


def test_the_file_is_made_where_a_test_asks_for_it(shapes: Project) -> None:
    path = shapes.pytester.makepyfile(
        """
        def test_file(quant_cell):
            assert quant_cell.path.stat().st_size == quant_cell.file_bytes
        """
    )
    result = shapes.run(path)
    result.assert_outcomes(passed=3)
    assert len(artifacts(shapes)) == 3


def test_a_format_that_needs_a_matrix_is_unsupported(shapes: Project) -> None:
    shapes.configure(
        formats=("IQ2_XXS", "Q8_0"),
        tables=SHAPE,
        profile='models = ["small"]\noptional = ["IQ2_XXS"]',
    )
    shapes.matrix("-rs").assert_outcomes(passed=1, skipped=1)


def test_an_unknown_shape_is_a_usage_error(shapes: Project) -> None:
    result = shapes.matrix("--quant-model=shape:olmo")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no shape 'olmo'; valid: smollm2-135m, *"])


def test_a_plan_of_sizes_takes_no_disk(shapes: Project) -> None:
    result = shapes.run("--quant-plan")
    result.stdout.fnmatch_lines(["small-Q4_K_M-cpu* disk *0 MB*no text", "in all: disk 0.00 GB*"])


def test_a_plan_of_speeds_counts_the_files(shapes: Project) -> None:
    shapes.configure(
        formats=("F16",), tables=SHAPE, profile='models = ["smollm2-135m"]\nspeed = true'
    )
    shapes.run("--quant-plan").stdout.fnmatch_lines(["smollm2-135m-F16-cpu* disk *269 MB*"])


def test_its_speed_and_memory_are_measured_on_its_file(shapes: Project) -> None:
    shapes.configure(
        formats=("F16",),
        tables=SHAPE,
        profile='models = ["small"]\nspeed = true\nmemory = true\nspeed_processes = 5\n'
        "speed_repetitions = 1\nspeed_prefill_tokens = 32\nspeed_decode_tokens = 4",
    )
    result = shapes.matrix("-k", "test_speed or test_memory", "--quant-report=report.json")
    result.assert_outcomes(passed=2)
    assert len(artifacts(shapes)) == 1
    record = json.loads((shapes.root / "report.json").read_text())
    measured = record["cells"][0]["measured"]
    assert set(measured) <= {"speed", "memory"}
    times = [ns for item in measured.get("speed", {}).get("cell", []) for ns in item["decode_ns"]]
    assert min(times) > 0


def test_a_baseline_without_a_perplexity_is_not_taken_for_a_texts(shapes: Project) -> None:
    shapes.accept()
    path = next(path for path in shapes.baselines if path.name.startswith("Q4_K_M"))
    change(path, '"text": ""', '"text": "story"')
    result = shapes.matrix("-k", "Q4_K_M")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NO_BASELINE: the baseline * is damaged*there together*"])
