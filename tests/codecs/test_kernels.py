"""Dot products and matrix products against float64 on the decoded values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.kernels import matmul_limit, vec_dot_limit
from pytest_quantgate.codecs.native import TYPE_IDS
from pytest_quantgate.codecs.native_kernels import F32, NativeKernels, decode_activations
from pytest_quantgate.codecs.strategies import KINDS

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]

K, M, N = 1024, 16, 5


@pytest.fixture(scope="module")
def kernels() -> NativeKernels:
    return NativeKernels()


def problem(
    kernels: NativeKernels, name: str, kind: str, seed: int = 0
) -> tuple[Uint8Array, Float32Array, Float32Array]:
    """Return stored weights (M, bytes), the same decoded (M, K), and activations (N, K)."""
    rng = np.random.default_rng(seed)
    weights = np.stack([KINDS[kind](rng, K) for _ in range(M)]).astype(np.float32) * np.float32(
        0.05
    )
    activations = rng.standard_normal((N, K)).astype(np.float32)
    activations[:, rng.integers(K)] *= 30
    codec = NativeCodec(kernels.codecs, name)
    data = codec.quantize(weights)
    return data, codec.dequantize(data), activations


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", TYPE_IDS)
def test_vec_dot_sums_what_it_decodes(name: str, kind: str, kernels: NativeKernels) -> None:
    data, weights, activations = problem(kernels, name, kind)
    products, seen = kernels.vec_dot(name, data, activations[0])
    exact = weights.astype(np.float64) @ seen.astype(np.float64)
    assert (np.abs(products - exact) <= vec_dot_limit(name, weights, seen)).all()


@pytest.mark.parametrize("repack", [False, True], ids=["plain", "repacked"])
@pytest.mark.parametrize("name", TYPE_IDS)
def test_matmul_on_the_cpu(name: str, repack: bool, kernels: NativeKernels) -> None:
    data, weights, activations = problem(kernels, name, "normal")
    found = kernels.matmul(name, data, activations, repack=repack)
    if found is None:
        assert repack, f"the CPU backend takes no {name}"
        pytest.skip(f"{name} has no repacked layout on this CPU")
    exact = activations.astype(np.float64) @ weights.astype(np.float64).T
    assert (np.abs(found - exact) <= matmul_limit(weights, activations)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, N, 64])
@pytest.mark.parametrize("name", TYPE_IDS)
def test_matmul_on_the_gpu(name: str, rows: int, kernels: NativeKernels) -> None:
    """One row takes the matrix-vector kernels, 64 the tiled ones."""
    devices = [device for device in kernels.devices() if device.startswith("CUDA")]
    if not devices:
        pytest.skip("this engine has no CUDA device")
    data, weights, activations = problem(kernels, name, "normal")
    activations = np.resize(activations, (rows, K))
    found = kernels.matmul(name, data, activations, device=devices[0])
    if found is None:
        pytest.skip(f"{devices[0]} takes no {name}")
    exact = activations.astype(np.float64) @ weights.astype(np.float64).T
    assert (np.abs(found - exact) <= matmul_limit(weights, activations)).all()


@pytest.mark.parametrize("name", ["MXFP4", "Q4_K"])
def test_swapped_nibbles_exceed_the_limits(name: str, kernels: NativeKernels) -> None:
    """The limits are small enough to see a kernel that pairs codes with the wrong activations."""
    data, weights, activations = problem(kernels, name, "normal")
    wrong = data.copy()
    blocks = wrong.reshape(-1, kernels.codecs.type(name).block_bytes)
    head = blocks.shape[1] - kernels.codecs.type(name).block_elements // 2
    blocks[:, head:] = (blocks[:, head:] >> 4) | (blocks[:, head:] << 4)
    products, seen = kernels.vec_dot(name, wrong, activations[0])
    exact = weights.astype(np.float64) @ seen.astype(np.float64)
    assert (np.abs(products - exact) > vec_dot_limit(name, weights, seen)).all()
    found = kernels.matmul(name, wrong, activations)
    assert found is not None
    exact = activations.astype(np.float64) @ weights.astype(np.float64).T
    assert (np.abs(found - exact) > matmul_limit(weights, activations)).mean() > 0.5


def test_unknown_device_is_named(kernels: NativeKernels) -> None:
    data, _, activations = problem(kernels, "Q8_0", "normal")
    with pytest.raises(ValueError, match=r"no device 'TPU0'; it has .*CPU"):
        kernels.matmul("Q8_0", data, activations, device="TPU0")


def test_activations_of_the_wrong_length_are_refused(kernels: NativeKernels) -> None:
    data, _, activations = problem(kernels, "Q8_0", "normal")
    with pytest.raises(ValueError, match="512 activations don't fit Q8_0 rows of"):
        kernels.vec_dot("Q8_0", data, activations[0, :512])


def test_activations_of_an_unknown_type_are_refused() -> None:
    with pytest.raises(ValueError, match="ggml type 999 are not known"):
        decode_activations(999, np.zeros(64, dtype=np.uint8), 32)
    stored = np.arange(8, dtype=np.float32).view(np.uint8)
    np.testing.assert_array_equal(decode_activations(F32, stored, 8), np.arange(8))
