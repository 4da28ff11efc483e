"""Baselines of a cell under settings that its profile no longer has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pytest_quantgate.config.machines import DeviceSettings
from pytest_quantgate.config.schema import ProfileSettings
from pytest_quantgate.results.baseline import Key

_OF_DEVICES = ("flash_attention", "type_k", "type_v")
"""Settings of a profile that a device may set otherwise."""


def with_device(profile: ProfileSettings, device: DeviceSettings) -> ProfileSettings:
    """Return a profile with what a device sets of its own."""
    own = {name: value for name in _OF_DEVICES if (value := getattr(device, name)) is not None}
    return profile.model_copy(update=own)


def orphaned(
    stored: Iterable[Key],
    current: Collection[Key],
    other_profiles: Iterable[ProfileSettings],
    devices: Mapping[str, DeviceSettings],
) -> tuple[Key, ...]:
    """Return the keys of baselines that no cell of this run and no other profile looks up.

    Args:
        stored: the keys of baselines.
        current: the keys of the run's cells.
        other_profiles: the configuration's profiles that are not run.
        devices: all devices, by name.

    """
    profiles = tuple(other_profiles)
    return tuple(
        key
        for key in stored
        if key not in current and not any(looks_up(profile, devices, key) for profile in profiles)
    )


def looks_up(profile: ProfileSettings, devices: Mapping[str, DeviceSettings], key: Key) -> bool:
    """Return whether a profile has a baseline's model and settings, whatever its formats."""
    if key.model not in profile.models:
        return False
    if key.text and (key.text not in profile.texts or key.n_ctx not in profile.n_ctx):
        return False
    settings = [with_device(profile, devices[name]) for name in profile.devices if name in devices]
    return any(all(getattr(item, n) == getattr(key, n) for n in _OF_DEVICES) for item in settings)
