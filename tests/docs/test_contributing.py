"""CONTRIBUTING's steps are in the code under the names that it gives."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
STEP = re.compile(r"^\| (\d+) \| .+ \| `([\w.]+)` \| `([\w.]+)` \|$", re.MULTILINE)


def find(name: str) -> Any:
    """Return what a dotted name below the package stands for."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(["pytest_quantgate", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_each_step_is_a_function_and_a_type() -> None:
    steps = STEP.findall(CONTRIBUTING.read_text(encoding="utf-8"))
    assert [int(number) for number, _, _ in steps] == list(range(1, 13))
    for _, function, kind in steps:
        assert callable(find(function)), function
        assert isinstance(find(kind), type), kind


def test_each_room_is_on_the_map() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    on_map = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    package = importlib.import_module("pytest_quantgate")
    assert isinstance(package, ModuleType)
    root = Path(package.__file__ or "").parent
    rooms = {path.name for path in root.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(on_map)
    assert len(rooms) <= 16
    loose = {path.name for path in root.glob("*.py")}
    assert loose == {"__init__.py", "errors.py"}
