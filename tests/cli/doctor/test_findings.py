"""What an examination says, and when it is well."""

from __future__ import annotations

import json

from pytest_quantgate.cli.doctor.findings import (
    Finding,
    Section,
    finding_lines,
    is_well,
    to_json,
)
from pytest_quantgate.errors import ConfigError


def error(what: str | Exception, mend: str = "") -> Finding:
    section = Section(name="A")
    section.error(what, mend)
    return section.findings[0]


def section_of(name: str, line: str, *, warning: str = "", error: str = "") -> Section:
    section = Section(name=name)
    section.say(line)
    if warning:
        section.warn(warning, "wait")
    if error:
        section.error(error)
    return section


def test_a_message_gives_its_own_command() -> None:
    problem = ConfigError("model 'm' is not here\nand more", command="hf download o/r f.gguf")
    finding = error(problem)
    assert finding.what == "model 'm' is not here"
    assert finding.mend == "hf download o/r f.gguf"
    assert str(problem).endswith("; type: hf download o/r f.gguf")
    assert error("no command").mend == ""
    assert error(ConfigError("no command")).mend == ""
    assert error(problem, "other").mend == "other"


def test_errors_come_first_and_all_are_numbered() -> None:
    sections = [
        section_of("A", "a", warning="slow"),
        section_of("B", "b", error="gone"),
    ]
    assert finding_lines(sections) == ["1. error: gone", "2. warning: slow", "   wait"]
    assert sections[0].printed() == ["A", "  a", ""]
    assert not is_well(sections)
    assert is_well(sections[:1]), "a warning is no error"
    assert finding_lines([Section(name="C")]) == ["nothing is wrong"]


def test_json_has_all_of_it() -> None:
    section = section_of("A", "a", warning="slow")
    section.facts["n"] = 1
    plain = json.loads(json.dumps(to_json([section])))
    assert plain == {
        "version": 1,
        "is_well": True,
        "sections": [
            {
                "name": "A",
                "lines": ["a"],
                "facts": {"n": 1},
                "findings": [{"severity": "warning", "what": "slow", "mend": "wait"}],
            }
        ],
    }
