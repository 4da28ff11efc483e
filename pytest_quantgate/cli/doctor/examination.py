"""All sections of an examination, in order, each as soon as it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Concatenate, ParamSpec

from pytest_quantgate.cli.doctor.engines import examine_engines
from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.hosts import examine_hosts
from pytest_quantgate.cli.doctor.inputs import examine_inputs
from pytest_quantgate.cli.doctor.installed import examine_installed
from pytest_quantgate.cli.doctor.project import Project, project_of
from pytest_quantgate.cli.doctor.quietness import examine_quietness
from pytest_quantgate.cli.doctor.storage import examine_storage
from pytest_quantgate.cli.doctor.stored import examine_stored
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.errors import ConfigError, EnvironmentProblem
from pytest_quantgate.gguf.embedded import EMBEDDED

P = ParamSpec("P")

SPEED = "Speed"
CHECKS: Mapping[str, Callable[[Section, Project], None]] = {
    "Engines": examine_engines,
    "Hosts": examine_hosts,
    "Devices, models and texts of the profile": examine_inputs,
    "Cache": examine_storage,
    "Baselines": examine_stored,
    SPEED: examine_quietness,
}
"""What is examined of a project, in this order."""

WITH_DEFAULTS = ("Engines", "Cache")
"""What is examined of the defaults where a configuration cannot be used."""


def examine(
    root: Path, profile: str | None, *, is_online: bool = False, with_speed: bool = True
) -> Iterator[Section]:
    """Yield the sections.

    A configuration that cannot be used is a finding; what does not need it is examined all the
    same, with the defaults.

    Args:
        root: the project's folder.
        profile: a profile's name, None for the configured one.
        is_online: whether a hub may be asked.
        with_speed: whether the machine's quietness is measured, which takes most of the time.

    """
    yield _examined("Installed", examine_installed)
    configuration = Section(name="Configuration")
    names = [name for name in CHECKS if with_speed or name != SPEED]
    project = None
    try:
        settings = load_settings(root, Overrides(profile=profile))
        project = project_of(settings, is_online=is_online)
    except (ConfigError, EnvironmentProblem, OSError) as problem:
        configuration.error(problem)
        configuration.facts["is_valid"] = False
        names = []
        with contextlib.suppress(EnvironmentProblem, OSError):
            project = project_of(load_settings(EMBEDDED))  # a folder without a configuration
            configuration.say("cannot be used; what follows is with the defaults")
            names = [*WITH_DEFAULTS]
    else:
        _describe(configuration, project)
    yield configuration
    for name in names:
        assert project is not None
        yield _examined(name, CHECKS[name], project)


def _examined(
    name: str,
    check: Callable[Concatenate[Section, P], None],
    *arguments: P.args,
    **options: P.kwargs,
) -> Section:
    """Return a section; what nobody thought of ends its own section alone.

    What the system refuses, such as a disk that is full, is no fault of the doctor's.
    """
    section = Section(name=name)
    try:
        check(section, *arguments, **options)
    except Exception as problem:  # noqa: BLE001 # the other sections are still worth having
        what = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        blame = (
            ""
            if isinstance(problem, OSError | EnvironmentProblem)
            else "; this is a fault of the doctor's"
        )
        section.say("could not be examined")
        section.error(f"{name} could not be examined ({what}){blame}")
    return section


def _describe(section: Section, project: Project) -> None:
    settings, profile = project.settings, project.settings.profile
    path = settings.root / "pyproject.toml"
    built_in = " (built in)" if settings.uses_built_in_profile else ""
    named = {
        "models": profile.models,
        "formats": profile.formats,
        "importance matrices": profile.imatrices,
        "devices": profile.devices,
        "texts": profile.texts,
        "engine": (profile.engine,),
        **({"against": (profile.against,)} if profile.against is not None else {}),
    }
    section.say(
        str(path) if path.is_file() else "no pyproject.toml here or above: the defaults",
        f"profile {settings.profile_name}{built_in}",
        *(f"  {kind}: {', '.join(names)}" for kind, names in named.items()),
    )
    section.facts |= {"is_valid": True, "profile": settings.profile_name}
    section.facts |= {kind.replace(" ", "_"): list(names) for kind, names in named.items()}
