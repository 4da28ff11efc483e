"""A promise of some types, and what is said where a codec breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.violation import Case, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from hypothesis import strategies as st

    from pytest_quantgate.codecs.codec import Codec, CodecSpec, Float32Array, Uint8Array

    Mask = npt.NDArray[np.bool_]
    Values = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check compared, of as many elements as ``decoded`` has.

    ``data`` decodes to ``decoded``; ``wrong`` has an entry an element or one a block. ``values``
    are those that were quantized, ``expected`` what they should decode to where it is not within
    ``bound`` of themselves. The example is cut down to the wrong block unless it ``needs_all``.
    """

    what: str
    wrong: Mask
    data: Uint8Array
    decoded: Float32Array
    values: Float32Array | None = None
    expected: Values | None = None
    bound: Values | None = None
    needs_all: bool = False


@dataclass(frozen=True, kw_only=True)
class Property:
    """A promise of the types that it ``applies`` to, to be checked on ``cases``."""

    name: str
    applies: Callable[[CodecSpec], bool]
    cases: Callable[[CodecSpec], st.SearchStrategy[Case]]
    compare: Callable[[Codec, Case], Outcome]

    def check(self, codec: Codec, case: Case) -> None:
        """Check the promise on a case; raises :class:`Violation` where the codec breaks it."""
        outcome = self.compare(codec, case)
        if outcome.wrong.any():
            raise self._violation(codec, case, outcome)

    def _violation(self, codec: Codec, case: Case, outcome: Outcome) -> Violation:
        """Describe the first wrong element; of a wrong block the first that is not as expected."""
        n = codec.spec.block_elements
        wrong = outcome.wrong.ravel()
        if wrong.size != outcome.decoded.size:
            wrong = np.repeat(wrong, n)
            if outcome.expected is not None:
                differs = wrong & (outcome.decoded != outcome.expected).ravel()
                wrong = differs if differs.any() else wrong
        block, element = divmod(int(wrong.argmax()), n)

        def at(array: Values | None) -> float | None:
            return None if array is None else float(array.reshape(-1, n)[block, element])

        value, expected, decoded = at(outcome.values), at(outcome.expected), at(outcome.decoded)
        target = value if expected is None else expected
        stored = outcome.data.reshape(-1, codec.spec.block_bytes)[block]
        row = None if outcome.values is None else outcome.values.reshape(-1, n)[block]
        if outcome.needs_all:
            example = case
        elif case.data is not None:
            example = Case(data=case.data[block : block + 1])
        else:
            example = replace(case, rows=None if row is None else row[None, :].copy())
        return Violation(
            property_name=self.name,
            codec=codec,
            what=outcome.what,
            case=example,
            block=block if outcome.needs_all else 0,
            element=element,
            value=value,
            expected=expected,
            decoded=decoded,
            error=None if target is None or decoded is None else abs(decoded - target),
            bound=at(outcome.bound),
            block_hex=stored.tobytes().hex(),
            values=[] if row is None else [float(item) for item in row],
        )
