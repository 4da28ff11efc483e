"""All sections of an examination, in order, each as soon as it is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_quantgate.config import Overrides, Settings, load_settings
from pytest_quantgate.doctor.engines import examine_engines
from pytest_quantgate.doctor.findings import Section, error
from pytest_quantgate.doctor.inputs import Models, examine_inputs
from pytest_quantgate.doctor.installed import examine_installed
from pytest_quantgate.doctor.quietness import examine_quietness
from pytest_quantgate.doctor.storage import examine_storage
from pytest_quantgate.doctor.stored import examine_stored
from pytest_quantgate.errors import ConfigError

CONFIGURATION = "Configuration"


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
    yield examine_installed()
    try:
        settings = load_settings(root, Overrides(profile=profile))
    except ConfigError as problem:
        yield Section(
            name=CONFIGURATION,
            lines=("cannot be used; what follows is with the defaults",),
            findings=(error(str(problem)),),
            facts={"is_valid": False},
        )
        with tempfile.TemporaryDirectory() as empty:
            defaults = load_settings(Path(empty))
            engines, _ = examine_engines(defaults)
            yield engines
            yield examine_storage(defaults)
        return
    yield _configuration(settings)
    engines, answers = examine_engines(settings)
    yield engines
    models = Models()
    yield examine_inputs(settings, models, answers, is_online=is_online)
    yield examine_storage(settings)
    yield examine_stored(settings, models)
    if with_speed:
        yield examine_quietness(settings, answers)


def _configuration(settings: Settings) -> Section:
    path = settings.root / "pyproject.toml"
    profile = settings.profile
    built_in = " (built in)" if settings.uses_built_in_profile else ""
    where = str(path) if path.is_file() else "no pyproject.toml here or above: the defaults"
    named = {
        "models": profile.models,
        "formats": profile.formats,
        "importance matrices": profile.imatrices,
        "devices": profile.devices,
        "texts": profile.texts,
        "engine": (profile.engine,),
    }
    return Section(
        name=CONFIGURATION,
        lines=(
            where,
            f"profile {settings.profile_name}{built_in}",
            *(f"  {kind}: {', '.join(names)}" for kind, names in named.items()),
        ),
        facts={
            "is_valid": True,
            "profile": settings.profile_name,
            **{kind.replace(" ", "_"): list(names) for kind, names in named.items()},
        },
    )
