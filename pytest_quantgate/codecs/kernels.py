"""Kernels: how far a product may lie from float64 on the decoded values (docs: "Kernels")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_quantgate.codecs.origin import kernel_options
from pytest_quantgate.codecs.strategies import KINDS
from pytest_quantgate.codecs.violation import Violation

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Codec, Float32Array, Float64Array, Uint8Array


class KernelBackend(Protocol):
    """``NativeKernels`` in this process, or a worker's stand-in for it."""

    def devices(self) -> list[str]:
        """Return the names of the engine's devices."""
        ...

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


N_COLUMNS, N_ROWS = 1024, 16
"""The weights of the checks: four blocks of 256, and as many rows as a repacked layout joins."""

WEIGHT_KINDS = ("normal", "positive")
ACTIVATION_ROWS = (1, 5, 64)
"""One row takes matrix-vector kernels, 64 the tiled ones, 5 is an odd remainder."""

SUM_ROUNDING = 2.0**-18
"""Relative to Σ |w a|: float32 accumulation of k/32 partial sums, 64 at most here."""

HALF_SUM_ROUNDING = 2.0**-10
"""Q4_1 and Q5_1 multiply their minimum with a block's activation sum in half precision."""


def vec_dot_limit(name: str, weights: Float32Array, activations: Float32Array) -> Float64Array:
    """Return the largest error of Σ w a: decoded ``weights`` (m, k), the kernel's own a (k,)."""
    w, a = np.abs(weights.astype(np.float64)), np.abs(activations.astype(np.float64))
    limit = SUM_ROUNDING * (w @ a)
    if name in {"Q4_1", "Q5_1"}:
        largest = w.reshape(w.shape[0], -1, 32).max(axis=2)
        limit = limit + HALF_SUM_ROUNDING * (largest @ a.reshape(-1, 32).sum(axis=1))
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


def make_problem(
    codec: Codec, kind: str, n_activations: int
) -> tuple[Uint8Array, Float32Array, Float32Array]:
    """Return stored weights (16, bytes), the same decoded (16, 1024), and activations (n, 1024).

    One activation column is thirty times the others, as in real models.
    """
    rng = np.random.default_rng(0)
    rows = [KINDS[kind](rng, N_COLUMNS) for _ in range(N_ROWS)]
    weights = np.stack(rows).astype(np.float32) * np.float32(0.05)
    activations = rng.standard_normal((n_activations, N_COLUMNS)).astype(np.float32)
    activations[:, rng.integers(N_COLUMNS)] *= 30
    data = codec.quantize(weights)
    return data, codec.dequantize(data), activations


def check_vec_dot(codec: Codec, kernels: KernelBackend, kind: str) -> None:
    """Check the CPU's dot product; raises :class:`Violation`."""
    data, weights, activations = make_problem(codec, kind, 1)
    products, rounded = kernels.vec_dot(codec.spec.name, data, activations[0])
    exact = weights.astype(np.float64) @ rounded.astype(np.float64)
    bound = vec_dot_limit(codec.spec.name, weights, rounded)
    options = ("--kind", kind)
    _compare(codec, kernels, "vec-dot", products[None], exact[None], bound[None], data, options)


def check_matmul(
    codec: Codec, kernels: KernelBackend, *, device: str, repack: bool, n_activations: int
) -> bool:
    """Check a matrix product through a backend; False where the device does not take the type.

    Raises:
        Violation: a product is further from float64 than its limit.

    """
    data, weights, activations = make_problem(codec, "normal", n_activations)
    products = kernels.matmul(codec.spec.name, data, activations, device=device, repack=repack)
    if products is None:
        return False
    exact = activations.astype(np.float64) @ weights.astype(np.float64).T
    bound = matmul_limit(weights, activations)
    options = ("--device", device, "--rows", str(n_activations), *(["--repack"] * repack))
    _compare(codec, kernels, "matmul", products, exact, bound, data, options)
    return True


def _compare(
    codec: Codec,
    kernels: KernelBackend,
    name: str,
    products: Float32Array,
    exact: Float64Array,
    bound: Float64Array,
    data: Uint8Array,
    options: tuple[str, ...],
) -> None:
    """Raise a :class:`Violation` for the product, (n, m), that is furthest beyond its bound."""
    error = np.abs(products - exact)
    excess = np.where(np.isfinite(error), error - bound, np.inf)
    if (excess <= 0).all():
        return
    n, m = np.unravel_index(int(excess.argmax()), excess.shape)
    raise Violation(
        property_name=name,
        codec=codec,
        what=f"a product beyond its bound ({' '.join(options)}), activations' row {n}, weights' row"
        f" {m}",
        expected=float(exact[n, m]),
        product=float(products[n, m]),
        error=float(error[n, m]),
        bound=float(bound[n, m]),
        block_hex=data[m].tobytes().hex(),
        options=(*options, *kernel_options(kernels)),
    )
