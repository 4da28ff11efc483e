"""Figures that hold on one kind of hardware: found in a baseline, or why they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_quantgate.results.hardware import Fingerprint, OfHardware, StoredT, of_same_machine
from pytest_quantgate.results.verdicts import Judgement, VerdictKind

STORE = "store it with --snapshot-update"


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

    Another build on the same machine counts: whether it is slower is the question. Of several
    other machines the one that differs least is named.
    """
    found = of_same_machine(stored, fingerprint)
    if found is not None:
        return found
    if not stored:
        return VerdictKind.NO_BASELINE, f"the stored baseline has no {what}; {STORE}"
    nearest = min((fingerprint.differences(item.fingerprint) for item in stored.values()), key=len)
    reason = f"no stored {what} is of this hardware: {'; '.join(nearest)}; {STORE}"
    return VerdictKind.NOT_COMPARABLE, reason


def with_build(judgement: Judgement, fingerprint: Fingerprint, stored: OfHardware) -> Judgement:
    """Name the build as the likely cause, where the stored figure is of another one."""
    differences = fingerprint.differences(stored.fingerprint)
    if not differences:
        return judgement
    reason = f"{judgement.reason}; likely because of the build: {'; '.join(differences)}"
    return replace(judgement, reason=reason)
