"""ggml's dot products and matrix products on quantized weights, called through ctypes.

Runs inside a worker, as :mod:`~pytest_quantgate.engines.worker.native` does: on the
standard library and numpy.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.engines.worker.native import NativeCodecs, load_library

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]

F32, Q8_0, Q8_1, Q8_K = 0, 8, 9, 15
"""``enum ggml_type``: what activations are converted to."""

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU

_pointer = ctypes.c_void_p


class CpuTypeTraits(ctypes.Structure):
    """``struct ggml_type_traits_cpu`` of ggml-cpu.h."""

    _fields_ = (
        ("from_float", ctypes.CFUNCTYPE(None, _pointer, _pointer, ctypes.c_int64)),
        (
            "vec_dot",
            ctypes.CFUNCTYPE(
                None,
                ctypes.c_int,
                _pointer,
                ctypes.c_size_t,
                _pointer,
                ctypes.c_size_t,
                _pointer,
                ctypes.c_size_t,
                ctypes.c_int,
            ),
        ),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", _pointer),
        ("no_alloc", ctypes.c_bool),
    )


_BASE = {
    "ggml_init": (_pointer, [_InitParams]),
    "ggml_free": (None, [_pointer]),
    "ggml_new_tensor_2d": (_pointer, [_pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_pointer, [_pointer, _pointer, _pointer]),
    "ggml_new_graph": (_pointer, [_pointer]),
    "ggml_build_forward_expand": (None, [_pointer, _pointer]),
    "ggml_backend_alloc_ctx_tensors": (_pointer, [_pointer, _pointer]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_pointer, [_pointer, _pointer]),
    "ggml_backend_tensor_set": (
        None,
        [_pointer, _pointer, ctypes.c_size_t, ctypes.c_size_t],
    ),
    "ggml_backend_tensor_get": (
        None,
        [_pointer, _pointer, ctypes.c_size_t, ctypes.c_size_t],
    ),
    "ggml_backend_graph_compute": (ctypes.c_int, [_pointer, _pointer]),
    "ggml_backend_free": (None, [_pointer]),
    "ggml_backend_buffer_free": (None, [_pointer]),
    "ggml_backend_buft_name": (ctypes.c_char_p, [_pointer]),
    "ggml_backend_dev_name": (ctypes.c_char_p, [_pointer]),
    "ggml_backend_dev_type": (ctypes.c_int, [_pointer]),
    "ggml_backend_dev_init": (_pointer, [_pointer, ctypes.c_char_p]),
    "ggml_backend_dev_backend_reg": (_pointer, [_pointer]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_pointer, _pointer]),
    "ggml_backend_reg_get_proc_address": (_pointer, [_pointer, ctypes.c_char_p]),
}
_REGISTRY = {
    "ggml_backend_load_all": (None, []),
    "ggml_backend_dev_count": (ctypes.c_size_t, []),
    "ggml_backend_dev_get": (_pointer, [ctypes.c_size_t]),
}


def _declare(library: ctypes.CDLL, signatures: dict[str, tuple[object, list[object]]]) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


class NotOnDeviceError(Exception):
    """A device has no room for a product's tensors, or no kernel for it."""


class Product:
    """``activations · weightsᵀ`` on a device, again and again; free it with :meth:`close`.

    Args:
        base: the library ggml-base, with its functions declared.
        device: ggml's handle of the device.
        type_id: the weights' ggml type.
        data: the weights, of m rows of that type, in memory without gaps.
        n_columns: elements of a row.
        n_rows: rows of activations, as many in each call: kernels are chosen by their number.
        buffer_type: where the weights go; None is the device's own memory.

    Raises:
        NotOnDeviceError: the device does not take it.

    """

    def __init__(
        self,
        base: ctypes.CDLL,
        device: int,
        type_id: int,
        data: npt.NDArray[Any],
        *,
        n_columns: int,
        n_rows: int,
        buffer_type: int | None = None,
    ) -> None:
        self._base = base
        self._shape = n_rows, n_columns, data.shape[0]
        self._made: list[tuple[str, int]] = []
        try:
            self._backend = self._make(
                "ggml_backend_free", base.ggml_backend_dev_init(device, None)
            )
            weights, rest = (
                self._make("ggml_free", base.ggml_init(_InitParams(1 << 20, None, True)))
                for _ in range(2)
            )
            left = base.ggml_new_tensor_2d(weights, type_id, n_columns, data.shape[0])
            self._right = base.ggml_new_tensor_2d(rest, F32, n_columns, n_rows)
            self._product = base.ggml_mul_mat(rest, left, self._right)
            if buffer_type is None:
                buffer = base.ggml_backend_alloc_ctx_tensors(weights, self._backend)
            else:
                buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(weights, buffer_type)
            self._make("ggml_backend_buffer_free", buffer)
            if not base.ggml_backend_dev_supports_op(device, self._product):
                raise NotOnDeviceError
            buffer = base.ggml_backend_alloc_ctx_tensors(rest, self._backend)
            self._make("ggml_backend_buffer_free", buffer)
            base.ggml_backend_tensor_set(left, data.ctypes.data, 0, data.nbytes)
            self._graph = base.ggml_new_graph(rest)
            base.ggml_build_forward_expand(self._graph, self._product)
        except BaseException:
            self.close()
            raise

    def _make(self, release: str, made: int | None) -> int:
        if not made:
            raise NotOnDeviceError
        self._made.append((release, made))
        return made

    def __call__(
        self, activations: npt.NDArray[Any], out: Float32Array | None = None
    ) -> Float32Array:
        """Return the product, float32 of shape (n_rows, m), in ``out`` where that is given."""
        n_rows, n_columns, m = self._shape
        source = np.ascontiguousarray(activations, dtype=np.float32)
        if source.shape != (n_rows, n_columns):
            raise ValueError(f"activations of shape {source.shape}, not {(n_rows, n_columns)}")
        result = np.empty((n_rows, m), dtype=np.float32) if out is None else out
        self._base.ggml_backend_tensor_set(self._right, source.ctypes.data, 0, source.nbytes)
        status = self._base.ggml_backend_graph_compute(self._backend, self._graph)
        if status != 0:
            raise RuntimeError(f"a matrix product: the backend returned status {status}")
        self._base.ggml_backend_tensor_get(self._product, result.ctypes.data, 0, result.nbytes)
        return result

    def close(self) -> None:
        """Free the device's memory."""
        made, self._made = self._made, []
        for release, what in reversed(made):
            getattr(self._base, release)(what)


def load_base(folder: Path) -> ctypes.CDLL:
    """Load ggml-base of a folder, with what :class:`Product` calls declared."""
    base = load_library(folder, "ggml-base")
    _declare(base, _BASE)  # type: ignore[arg-type]  # ctypes types have no common name
    return base


class NativeKernels:
    """The kernels of the engine whose libraries are in ``folder`` (llama_cpp's if None)."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.codecs = NativeCodecs(folder)
        where = self.codecs.folder
        self._base = load_base(where)
        self._registry = load_library(where, "ggml")
        _declare(self._registry, _REGISTRY)  # type: ignore[arg-type]  # likewise
        self._registry.ggml_backend_load_all()
        self._cpu = load_library(where, "ggml-cpu")
        self._cpu.ggml_cpu_init()
        self._cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTypeTraits)
        self._cpu.ggml_get_type_traits_cpu.argtypes = [ctypes.c_int]

    def devices(self) -> list[str]:
        """Return the names of the engine's devices, such as ``CPU`` and ``CUDA0``."""
        return [self._base.ggml_backend_dev_name(device).decode() for device in self._devices()]

    def _devices(self) -> list[int]:
        count = self._registry.ggml_backend_dev_count()
        return [self._registry.ggml_backend_dev_get(index) for index in range(count)]

    def vec_dot(
        self, name: str, data: Uint8Array, activations: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Multiply each row with one vector on the CPU, without a graph.

        ``data`` uint8 (m, bytes), ``activations`` float32 (k,). Returns the m products and the
        activations as the kernel saw them, float32 (k,), after its own rounding to eight bits.
        """
        codec = self.codecs.type(name)
        traits = self._cpu.ggml_get_type_traits_cpu(codec.type_id).contents
        if not traits.vec_dot:
            raise ValueError(f"{name} has no dot product in this engine")
        k = activations.size
        if k % 256 or data.shape[1] * codec.block_elements != k * codec.block_bytes:
            raise ValueError(f"{k} activations don't fit {name} rows of {data.shape[1]} bytes")
        source = np.ascontiguousarray(activations, dtype=np.float32)
        stored = np.zeros(k * 4 + 64, dtype=np.uint8)
        if traits.vec_dot_type == F32:
            stored[: k * 4] = source.view(np.uint8)
        else:
            to = self._cpu.ggml_get_type_traits_cpu(traits.vec_dot_type).contents
            to.from_float(source.ctypes.data, stored.ctypes.data, k)
        rows = np.ascontiguousarray(data)
        products = np.zeros(rows.shape[0], dtype=np.float32)
        for index in range(rows.shape[0]):
            traits.vec_dot(
                k,
                products[index:].ctypes.data,
                0,
                rows[index].ctypes.data,
                0,
                stored.ctypes.data,
                0,
                1,
            )
        return products, decode_activations(traits.vec_dot_type, stored, k)

    def matmul(
        self,
        name: str,
        data: Uint8Array,
        activations: Float32Array,
        *,
        device: str = "CPU",
        repack: bool = False,
    ) -> Float32Array | None:
        """Multiply through a device's backend: (m, bytes) and (n, k) float32 to (n, m) float32.

        ``repack`` puts the weights into the CPU's repacked layout. None where the device, or the
        repacked layout, doesn't take the type.
        """
        by_name = dict(zip(self.devices(), self._devices(), strict=True))
        if device not in by_name:
            raise ValueError(f"this engine has no device {device!r}; it has {', '.join(by_name)}")
        kind = self._repacked(by_name[device]) if repack else None
        if repack and kind is None:
            return None
        codec = self.codecs.type(name)
        try:
            product = Product(
                self._base,
                by_name[device],
                codec.type_id,
                np.ascontiguousarray(data),
                n_columns=data.shape[1] // codec.block_bytes * codec.block_elements,
                n_rows=activations.shape[0],
                buffer_type=kind,
            )
        except NotOnDeviceError:
            return None
        try:
            return product(activations)
        finally:
            product.close()

    def _repacked(self, device: int) -> int | None:
        """Return the CPU device's repacking buffer type, None where the build has none."""
        if self._base.ggml_backend_dev_type(device) != _CPU:
            return None
        registry = self._base.ggml_backend_dev_backend_reg(device)
        address = self._base.ggml_backend_reg_get_proc_address(
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        if not address:
            return None
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(_pointer), _pointer)(address)(device)
        index = 0
        while extra and extra[index]:
            if self._base.ggml_backend_buft_name(extra[index]) == b"CPU_REPACK":
                return int(extra[index])
            index += 1
        return None


def decode_activations(kind: int, stored: Uint8Array, k: int) -> Float32Array:
    """Decode k activations as ``from_float`` stored them: Q8_0, Q8_1 or Q8_K blocks, or float32.

    Layouts from ggml-common.h: a scale (half; Q8_1 a half sum besides; Q8_K float32) and int8 codes
    (Q8_K: int16 sums of 16 behind them).
    """
    if kind == F32:
        return stored[: k * 4].view(np.float32).copy()
    if kind == Q8_K:
        parts = stored[: k // 256 * 292].reshape(-1, 292)
        scale = np.ascontiguousarray(parts[:, :4]).view(np.float32)
        codes = parts[:, 4:260].view(np.int8)
    elif kind in {Q8_0, Q8_1}:
        head = 2 if kind == Q8_0 else 4
        parts = stored[: k // 32 * (32 + head)].reshape(-1, 32 + head)
        scale = np.ascontiguousarray(parts[:, :2]).view(np.float16).astype(np.float32)
        codes = parts[:, head:].view(np.int8)
    else:
        raise ValueError(f"activations of ggml type {kind} are not known here")
    return (scale * codes.astype(np.float32)).reshape(-1)[:k]
