"""Limits on the size of code, which ruff does not know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest_quantgate

PACKAGE = Path(pytest_quantgate.__file__).parent
MAX_LINES_OF_MODULE = 400
MAX_LINES_OF_FUNCTION = 40


def test_no_module_is_two_things() -> None:
    counts = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert len(counts) > 100
    assert {name: n for name, n in counts.items() if n > MAX_LINES_OF_MODULE} == {}


def test_every_function_of_the_gate_can_be_read_at_a_glance() -> None:
    lengths = {
        f"{path.relative_to(PACKAGE)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in (PACKAGE / "gate").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lengths) > 100
    assert {name: n for name, n in lengths.items() if n > MAX_LINES_OF_FUNCTION} == {}
