"""The table of commands: a half-added command fails here."""

from __future__ import annotations

import argparse
import pkgutil

import pytest

from pytest_quantgate.cli import commands
from pytest_quantgate.cli.commands import COMMANDS
from pytest_quantgate.cli.main import main


def test_every_module_is_in_the_table_under_its_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_declares_itself_alone(name: str) -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    COMMANDS[name].add_parser(subparsers)
    assert list(subparsers.choices) == [name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"quantgate {name}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == [name] and len(line.split()) > 1 for line in listed)
