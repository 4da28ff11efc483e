"""Two runs compared by their records, with the real engine."""

from __future__ import annotations

import json

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.gguf.reader import read_gguf
from tests.conftest import Project


def compare(project: Project, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Compare the record a.json with b.json."""
    capsys.readouterr()
    paths = [str(project.root / name) for name in ("a.json", "b.json")]
    status = main(["compare", *paths, *options])
    return status, capsys.readouterr().out


def run(project: Project, name: str, profile: str = "", tables: str = "") -> None:
    """Measure the project's cells into a record."""
    project.configure(profile=profile, tables=tables)
    assert project.matrix(f"--quant-report={name}").ret == pytest.ExitCode.OK


def test_what_moves_no_figure_is_no_change(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget of the second run is smaller: the common chunks are compared."""
    run(project, "a.json", "memory = true")
    run(project, "b.json", "memory = true\nchunks = 12")
    status, said = compare(project, capsys, "--markdown")
    assert status == 0
    assert "**No change: bit-identical on 3 cells, 1,116 tokens.**" in said
    assert "text story: F16, Q8_0, Q4_0: same file, bit-identical on 12 chunks\n" in said
    assert "- settings that differ: chunks 12 (was 16)\n" in said
    assert "| cell | peak MB |" in said


def test_another_attention_is_not_compared(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, "a.json")
    run(project, "b.json", "flash_attention = false")
    status, said = compare(project, capsys)
    assert status == 1
    assert "3 of 3 cells are red" in said
    assert "other settings: flash_attention false (was true)" in said


def test_another_file_of_a_format_is_told_with_its_tensors(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Existing files have no source to be told by: what is in them is compared."""
    run(project, "whole.json")
    made = project.cache.glob("artifacts/*.gguf")
    files = {read_gguf(path).main_type(): str(path) for path in made}
    for record, q4_0 in (("a.json", files["Q4_0"]), ("b.json", files["Q8_0"])):
        paths = {"F16": str(project.model), "Q4_0": q4_0}
        table = ", ".join(f"{name} = {json.dumps(path)}" for name, path in paths.items())
        run(
            project,
            record,
            'models = ["mine"]',
            tables=f"[tool.quantgate.models.mine]\nfiles = {{ {table} }}",
        )
    status, said = compare(project, capsys, "--markdown")
    assert status == 1
    assert "| `mine-Q4_0-cpu` | **REGRESSED** |" in said, "its size"
    assert "- **quantizer** (`mine-Q4_0-cpu`): " in said
    assert "tensors changed type" in said
    assert "Q4_0 → Q8_0 in blk.0-1" in said
