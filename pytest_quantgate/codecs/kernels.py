"""How far a kernel's product may lie from float64 on the decoded values (docs: "Kernels")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Uint8Array = npt.NDArray[np.uint8]


class KernelBackend(Protocol):
    """``NativeKernels`` in this process, or a worker's stand-in for it."""

    def vec_dot(
        self, name: str, data: Uint8Array, activations: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Return the products of rows with one vector, and the vector as the kernel saw it."""
        ...

    def matmul(
        self,
        name: str,
        data: Uint8Array,
        activations: Float32Array,
        *,
        device: str = "CPU",
        repack: bool = False,
    ) -> Float32Array | None:
        """Return (n, m) products, None where the device doesn't take the type."""
        ...


SUM_ROUNDING = 2.0**-18
"""Relative to Σ |w a|: float32 accumulation of k/32 partial sums, 64 at most here."""

HALF_SUM_ROUNDING = 2.0**-10
"""Q4_1 and Q5_1 multiply their minimum with a block's activation sum in half precision."""


def vec_dot_limit(name: str, weights: Float32Array, activations: Float32Array) -> Float64Array:
    """Return the largest error of Σ w a: decoded ``weights`` (m, k), the kernel's own a (k,)."""
    w, a = np.abs(weights.astype(np.float64)), np.abs(activations.astype(np.float64))
    rounding = HALF_SUM_ROUNDING if name in {"Q4_1", "Q5_1"} else SUM_ROUNDING
    largest = w.reshape(w.shape[0], -1, 32).max(axis=2) if rounding > SUM_ROUNDING else None
    limit = SUM_ROUNDING * (w @ a)
    if largest is not None:
        limit = limit + rounding * (largest @ a.reshape(-1, 32).sum(axis=1))
    return np.asarray(limit)


def matmul_limit(weights: Float32Array, activations: Float32Array) -> Float64Array:
    """Return the largest error of w aᵀ for decoded (m, k) and float32 activations (n, k): (n, m).

    A backend may round activations to eight bits over blocks of up to 256 (half a step:
    amax/254, and the scale's own rounding), and weights or activations to half precision.
    """
    w = np.abs(weights.astype(np.float64))
    a = np.abs(activations.astype(np.float64))
    amax = np.repeat(a.reshape(a.shape[0], -1, 256).max(axis=2), 256, axis=1)
    return np.asarray((amax / 254 * 1.1 + a * (2.0**-9)) @ w.T + HALF_SUM_ROUNDING * (a @ w.T))
