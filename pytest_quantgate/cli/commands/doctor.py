"""``quantgate doctor``: say what is wrong here, and how to fix it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.cli.doctor.examination import examine
from pytest_quantgate.cli.doctor.findings import finding_lines, is_well, to_json
from pytest_quantgate.config.project import project_folder
from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="examine engines, models, cache, baselines and this machine, and say what is wrong",
    )
    parser.add_argument("--profile", metavar="NAME", help="the profile, if not the configured one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick", action="store_true", help="do not measure how quiet this machine is"
    )
    parser.add_argument(
        "--online", action="store_true", help="ask the hub for models that are not here"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the sections as they come, then the findings; 1 where one of them is an error.

    Raises:
        ConfigError: there is no present folder.

    """
    try:
        root = project_folder(Path.cwd())
    except FileNotFoundError as error:
        raise ConfigError(
            "the present folder is gone", command="cd a folder that exists"
        ) from error
    sections = []
    for section in examine(
        root,
        arguments.profile,
        is_online=arguments.online,
        with_speed=not arguments.quick,
    ):
        sections.append(section)
        if not arguments.json:
            print("\n".join(section.printed()), flush=True)
    if arguments.json:
        print(json.dumps(to_json(sections), indent=1, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(finding_lines(sections)))
    return 0 if is_well(sections) else 1
