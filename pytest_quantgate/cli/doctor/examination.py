"""All sections of an examination, in order, each as soon as it is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_quantgate.cli.doctor.engines import NAME as ENGINES
from pytest_quantgate.cli.doctor.engines import Answer, examine_engines
from pytest_quantgate.cli.doctor.findings import Section, error
from pytest_quantgate.cli.doctor.inputs import NAME as INPUTS
from pytest_quantgate.cli.doctor.inputs import Models, examine_inputs
from pytest_quantgate.cli.doctor.installed import NAME as INSTALLED
from pytest_quantgate.cli.doctor.installed import examine_installed
from pytest_quantgate.cli.doctor.quietness import NAME as SPEED
from pytest_quantgate.cli.doctor.quietness import examine_quietness
from pytest_quantgate.cli.doctor.storage import NAME as CACHE
from pytest_quantgate.cli.doctor.storage import examine_storage
from pytest_quantgate.cli.doctor.stored import NAME as BASELINES
from pytest_quantgate.cli.doctor.stored import examine_stored
from pytest_quantgate.config.settings import Overrides, Settings, load_settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.storage.cache import Cache

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
    yield _guarded(INSTALLED, examine_installed)
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
            yield _guarded(ENGINES, lambda: examine_engines(defaults, {}))
            yield _guarded(CACHE, lambda: examine_storage(defaults))
        return
    yield _configuration(settings)
    answers: dict[str, Answer] = {}
    models = Models(Cache(settings.cache_dir, settings.cache_max_bytes))
    yield _guarded(ENGINES, lambda: examine_engines(settings, answers))
    yield _guarded(INPUTS, lambda: examine_inputs(settings, models, answers, is_online=is_online))
    yield _guarded(CACHE, lambda: examine_storage(settings))
    yield _guarded(BASELINES, lambda: examine_stored(settings, models))
    if with_speed:
        yield _guarded(SPEED, lambda: examine_quietness(settings, answers))


def _guarded(name: str, examine_part: Callable[[], Section]) -> Section:
    """Return a section; what nobody thought of ends its own section alone."""
    try:
        return examine_part()
    except Exception as problem:  # noqa: BLE001 # the other sections are still worth having
        what = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        finding = error(f"{name} could not be examined ({what}); this is a fault of the doctor's")
        return Section(name=name, lines=("could not be examined",), findings=(finding,))


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
        **({"against": (profile.against,)} if profile.against is not None else {}),
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
