"""Dot products and matrix products against float64 on the decoded values."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.kernels import (
    ACTIVATION_ROWS,
    check_matmul,
    make_problem,
    matmul_limit,
    vec_dot_limit,
)
from pytest_quantgate.codecs.replay import main
from pytest_quantgate.codecs.violation import Violation
from pytest_quantgate.engines.worker.native import TYPE_IDS
from pytest_quantgate.engines.worker.native_kernels import F32, NativeKernels, decode_activations

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]


@pytest.mark.gpu
@pytest.mark.parametrize("n_activations", ACTIVATION_ROWS)
@pytest.mark.parametrize("name", TYPE_IDS)
def test_matmul_on_the_gpu(name: str, n_activations: int, quant_kernels: NativeKernels) -> None:
    devices = [device for device in quant_kernels.devices() if device.startswith("CUDA")]
    if not devices:
        pytest.skip("this engine has no CUDA device")
    codec = NativeCodec(quant_kernels.codecs, name)
    taken = check_matmul(
        codec, quant_kernels, device=devices[0], repack=False, n_activations=n_activations
    )
    if not taken:
        pytest.skip(f"{devices[0]} takes no {name}")


class WrongKernels(NativeKernels):
    """The engine's kernels with one product off by more than rounding."""

    def matmul(
        self,
        name: str,
        data: Uint8Array,
        activations: Float32Array,
        *,
        device: str = "CPU",
        repack: bool = False,
    ) -> Float32Array | None:
        products = super().matmul(name, data, activations, device=device, repack=repack)
        if products is not None:
            products[-1, 3] += 0.05 * np.abs(activations[-1]).sum()
        return products


def test_a_wrong_product_is_a_violation_that_names_it_and_can_be_replayed() -> None:
    wrong = WrongKernels()
    codec = NativeCodec(wrong.codecs, "Q4_K")
    with pytest.raises(Violation) as caught:
        check_matmul(codec, wrong, device="CPU", repack=False, n_activations=5)
    assert "activations' row 4, weights' row 3" in caught.value.what
    command = shlex.split(caught.value.replay)
    assert command[:3] == ["python", "-m", "pytest_quantgate.codecs.replay"]
    assert main(command[3:]) == 1
    without = command[3 : command.index("--kernels")]
    assert main(without) == 0, "the engine itself is not wrong"


@pytest.mark.parametrize("name", ["MXFP4", "Q4_K"])
def test_swapped_nibbles_exceed_the_limits(name: str, quant_kernels: NativeKernels) -> None:
    """The limits are small enough to see a kernel that pairs codes with the wrong activations."""
    data, weights, activations = make_problem(NativeCodec(quant_kernels.codecs, name), "normal", 5)
    wrong = data.copy()
    blocks = wrong.reshape(-1, quant_kernels.codecs.type(name).block_bytes)
    head = blocks.shape[1] - quant_kernels.codecs.type(name).block_elements // 2
    blocks[:, head:] = (blocks[:, head:] >> 4) | (blocks[:, head:] << 4)
    products, rounded = quant_kernels.vec_dot(name, wrong, activations[0])
    exact = weights.astype(np.float64) @ rounded.astype(np.float64)
    assert (np.abs(products - exact) > vec_dot_limit(name, weights, rounded)).all()
    product = quant_kernels.matmul(name, wrong, activations)
    assert product is not None
    exact = activations.astype(np.float64) @ weights.astype(np.float64).T
    assert (np.abs(product - exact) > matmul_limit(weights, activations)).mean() > 0.5


def test_unknown_device_is_named(quant_kernels: NativeKernels) -> None:
    data, _, activations = make_problem(NativeCodec(quant_kernels.codecs, "Q8_0"), "normal", 5)
    with pytest.raises(ValueError, match=r"no device 'TPU0'; it has .*CPU"):
        quant_kernels.matmul("Q8_0", data, activations, device="TPU0")


def test_activations_of_the_wrong_length_are_refused(quant_kernels: NativeKernels) -> None:
    data, _, activations = make_problem(NativeCodec(quant_kernels.codecs, "Q8_0"), "normal", 5)
    with pytest.raises(ValueError, match="512 activations don't fit Q8_0 rows of"):
        quant_kernels.vec_dot("Q8_0", data, activations[0, :512])


def test_activations_of_an_unknown_type_are_refused() -> None:
    with pytest.raises(ValueError, match="ggml type 999 are not known"):
        decode_activations(999, np.zeros(64, dtype=np.uint8), 32)
    stored = np.arange(8, dtype=np.float32).view(np.uint8)
    np.testing.assert_array_equal(decode_activations(F32, stored, 8), np.arange(8))
