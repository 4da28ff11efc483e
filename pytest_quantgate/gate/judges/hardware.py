"""Figures that hold on one kind of hardware: those of a baseline, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pytest_quantgate.gate.reasons.comparability import (
    NotStored,
    OtherBuild,
    OtherHardware,
    OtherSettings,
    Plain,
)
from pytest_quantgate.results.hardware import Fingerprint, OfHardware, StoredT, of_same_machine
from pytest_quantgate.results.verdicts import Fact, Judgement, VerdictKind


class OnHardware(Protocol):
    """A measurement that holds on one kind of hardware."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The hardware."""
        ...


def find_stored(
    what: str, stored: Mapping[str, StoredT], measured: OnHardware, settings: Sequence[str]
) -> StoredT | Fact:
    """Return what is stored of this hardware and these settings, or why there is nothing.

    Another build on the same machine counts: whether it is slower is the question. Of several
    other machines the one that differs least is named.
    """
    if not stored:
        return NotStored(what=what)
    fingerprint = measured.fingerprint
    same = of_same_machine(stored, fingerprint)
    if same is None:
        differences = [fingerprint.differences(item.fingerprint) for item in stored.values()]
        nearest = min(differences, key=len)
        return OtherHardware(what=what, differing=tuple(nearest))
    differing = tuple(
        f"{name} {getattr(measured, name)} (was {getattr(same, name)})"
        for name in settings
        if getattr(measured, name) != getattr(same, name)
    )
    return OtherSettings(what=what, differing=differing) if differing else same


def verdict_of_missing(fact: Fact) -> VerdictKind:
    """Return the verdict where a figure has nothing to be compared with."""
    is_none = isinstance(fact, NotStored) or fact is Plain.NO_HARDWARE_OF_FLOOR
    return VerdictKind.NO_BASELINE if is_none else VerdictKind.NOT_COMPARABLE


def with_build(judgement: Judgement, fingerprint: Fingerprint, stored: OfHardware) -> Judgement:
    """Name the build as the likely cause, where the stored figure is of another one."""
    differing = fingerprint.differences(stored.fingerprint)
    if not differing:
        return judgement
    return replace(judgement, reason=judgement.reason.also(OtherBuild(differing=tuple(differing))))
