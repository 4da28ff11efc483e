"""Runs a property over Hypothesis examples, at the budget of a profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings

from pytest_quantgate.codecs.properties import PROPERTIES, Property

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.codecs.violation import Case


@dataclass(frozen=True, kw_only=True)
class CodecProfile:
    """How many examples a property gets, by type name, and whether they repeat from run to run."""

    name: str
    examples: int
    examples_by_type: dict[str, int]
    derandomize: bool

    def examples_of(self, type_name: str) -> int:
        """Return the number of examples of one property for one type."""
        return self.examples_by_type.get(type_name, self.examples)


PROFILES: dict[str, CodecProfile] = {
    profile.name: profile
    for profile in (
        CodecProfile(name="quick", examples=25, examples_by_type={}, derandomize=True),
        CodecProfile(
            name="deep",
            examples=2_000,
            examples_by_type={"MXFP4": 10_000, "Q4_K": 10_000},
            derandomize=False,
        ),
    )
}
"""``quick`` repeats exactly, for a gate; ``deep`` draws new examples each time."""


def run_property(found: Property, codec: Codec, profile: CodecProfile) -> None:
    """Check a property of a codec; raises :class:`Violation` with the simplest failing case."""

    @settings(
        max_examples=profile.examples_of(codec.spec.name),
        derandomize=profile.derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(found.cases(codec.spec))
    def check(case: Case) -> None:
        found.check(codec, case)

    check()


def properties_of(codec: Codec) -> list[Property]:
    """Return the properties that a codec's format promises."""
    return [found for found in PROPERTIES.values() if found.applies(codec.spec)]
