"""Figures that hold on one kind of hardware: found in a baseline, or why they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from pytest_quantgate.results.hardware import Fingerprint
from pytest_quantgate.results.verdicts import VerdictKind

STORE = "store it with --snapshot-update"


class OfHardware(Protocol):
    """A part of a baseline that says on which hardware it was measured."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The hardware."""


StoredT = TypeVar("StoredT", bound=OfHardware)


def of_other_settings(
    what: str, measured: object, stored: object, settings: Sequence[str]
) -> tuple[VerdictKind, str] | None:
    """Return the verdict and the reason where a stored figure is of other settings, or None."""
    differing = [
        f"{name} {getattr(measured, name)} (was {getattr(stored, name)})"
        for name in settings
        if getattr(measured, name) != getattr(stored, name)
    ]
    if not differing:
        return None
    reason = f"the stored {what} is of other settings: {'; '.join(differing)}; {STORE}"
    return VerdictKind.NOT_COMPARABLE, reason


def of_this_hardware(
    what: str, stored: Mapping[str, StoredT], fingerprint: Fingerprint
) -> StoredT | tuple[VerdictKind, str]:
    """Return what is stored of this hardware, or the verdict and the reason that there is none.

    Of several other machines the one that differs least is named.
    """
    found = stored.get(fingerprint.digest)
    if found is not None:
        return found
    if not stored:
        return VerdictKind.NO_BASELINE, f"the stored baseline has no {what}; {STORE}"
    nearest = min((fingerprint.differences(item.fingerprint) for item in stored.values()), key=len)
    reason = f"no stored {what} is of this hardware: {'; '.join(nearest)}; {STORE}"
    return VerdictKind.NOT_COMPARABLE, reason
