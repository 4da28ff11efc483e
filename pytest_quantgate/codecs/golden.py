"""The RMS error of every type on one fixed normal sample, and what must not grow along a family.

The sample is 64 rows of 4096 standard normal float32 values from numpy's PCG64 with a fixed seed.
numpy does not promise the same stream for ever, so its hash is checked as well. The figures were
measured with llama-cpp-python
0.3.36 (llama.cpp 0c1e57098) on x86-64.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.codecs.codec import Codec, Float32Array

SAMPLE_SEED = 20250222
SAMPLE_SHAPE = (64, 4096)
SAMPLE_SHA256 = "299dd616b7582bbfa030de5cd7b1ece1c37bf8d31706ecb5219dfab48e180b7a"

GOLDEN_RMS: dict[str, float] = {
    "MXFP4": 0.114943,
    "NVFP4": 0.0948776,
    "Q8_0": 0.00533597,
    "Q4_0": 0.0856186,
    "Q4_1": 0.077902,
    "Q5_0": 0.042546,
    "Q5_1": 0.0377595,
    "Q2_K": 0.295628,
    "Q3_K": 0.150133,
    "Q4_K": 0.0710931,
    "Q5_K": 0.0359823,
    "Q6_K": 0.0176854,
    "IQ4_NL": 0.0759276,
    "IQ4_XS": 0.0765029,
    "IQ3_S": 0.165749,
    "IQ3_XXS": 0.211785,
    "IQ2_S": 0.263921,
    "IQ2_XS": 0.298588,
    "IQ2_XXS": 0.342396,
    "IQ1_M": 0.581979,
    "IQ1_S": 0.483956,
    "TQ1_0": 0.806721,
    "TQ2_0": 0.806721,
    "Q1_0": 0.599191,
    "Q2_0": 0.714833,
}
"""RMS error in units of the weights' standard deviation, without an importance matrix (IQ2_XXS,
IQ2_XS and IQ1_S, which demand one: a matrix of ones)."""

RMS_TOLERANCE = 1e-3
"""Relative: a compiler's fused multiply-adds move the searches' choices by less."""

LADDERS: tuple[tuple[str, ...], ...] = (
    ("Q4_0", "Q5_0", "Q8_0"),
    ("Q4_1", "Q5_1"),
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    ("MXFP4", "NVFP4"),
    ("TQ1_0", "TQ2_0"),
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
)
"""Families in order of bits per weight: the RMS error never rises along one. The IQ family is
compared with a matrix of ones: without one IQ1_M is worse than IQ1_S (docs: "Deviations")."""


@cache
def normal_sample() -> Float32Array:
    """Return the sample, float32 ``SAMPLE_SHAPE``.

    Raises ``RuntimeError`` if numpy draws another.
    """
    rng = np.random.Generator(np.random.PCG64(SAMPLE_SEED))
    sample = rng.standard_normal(SAMPLE_SHAPE, dtype=np.float32)
    digest = hashlib.sha256(sample.astype("<f4").tobytes()).hexdigest()
    if digest != SAMPLE_SHA256:
        raise RuntimeError(
            f"numpy {np.__version__} draws another normal sample (sha256 {digest}, not "
            f"{SAMPLE_SHA256}): the golden RMS figures don't apply to it"
        )
    sample.setflags(write=False)
    return sample


def rms_error(codec: Codec, *, ones: bool = False) -> float:
    """Return the RMS error on the sample; ``ones``: with an importance matrix of ones."""
    sample = normal_sample()
    matrix = np.ones(sample.shape[1], dtype=np.float32) if ones else None
    decoded = codec.dequantize(codec.quantize(sample, matrix))
    return float(np.sqrt(np.mean((sample.astype(np.float64) - decoded) ** 2)))


def check_golden(codec: Codec) -> float:
    """Return the RMS error; raises :class:`Violation` if it is above the golden figure.

    A lower one passes: a better quantizer is no regression (this project's own tests hold the
    installed engine to the figure from both sides).
    """
    error, golden = rms_error(codec), GOLDEN_RMS[codec.spec.name]
    bound = golden * (1 + RMS_TOLERANCE)
    if not error <= bound:
        raise Violation(
            property_name="golden-rms",
            codec=codec,
            what=f"the RMS error of the fixed normal sample is above the golden {golden:.6g}",
            error=error,
            bound=bound,
        )
    return error


def check_ladder(codecs: Callable[[str], Codec], ladder: tuple[str, ...]) -> dict[str, float]:
    """Return the RMS errors along a family; raises :class:`Violation` where more bits are worse."""
    ones = ladder[0].startswith("IQ")
    errors = {name: rms_error(codecs(name), ones=ones) for name in ladder}
    for fewer, more in pairwise(ladder):
        bound = errors[fewer] * (1 + 1e-6)
        if not errors[more] <= bound:
            raise Violation(
                property_name="ladder",
                codec=codecs(more),
                what=f"the RMS error of the fixed normal sample is above that of {fewer}, which has"
                " fewer bits",
                error=errors[more],
                bound=bound,
                options=("--fewer", fewer),
            )
    return errors
