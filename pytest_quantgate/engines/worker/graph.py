"""Nodes of a computation graph, read inside the scheduler's callback.

llama.cpp calls ``cb_eval`` twice for a node: before it is computed, with the question whether
its data are wanted, and after, with the data in place. :class:`Nodes` reads a node through
functions that ggml exports. What only the structure tells (a node's sources, shapes and strides)
:class:`StructuredNodes` reads, once its layout has been verified in the library that is loaded.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.loading import low

F32, I32 = 0, 26
"""Numbers of ggml's types of four bytes that are read here."""

_DTYPES: dict[int, type[np.generic]] = {F32: np.float32, I32: np.int32}


class Nodes:
    """Reads nodes, given as addresses, through exported functions alone."""

    def __init__(self) -> None:
        library = low._lib

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
            return function

        pointer = ctypes.c_void_p
        self._name = bind("ggml_get_name", pointer, pointer)
        self._operation = bind("ggml_op_desc", ctypes.c_char_p, pointer)
        self._n_elements = bind("ggml_nelements", ctypes.c_int64, pointer)
        self._n_rows = bind("ggml_nrows", ctypes.c_int64, pointer)
        self._n_bytes = bind("ggml_nbytes", ctypes.c_size_t, pointer)
        copied = (None, pointer, pointer, ctypes.c_size_t, ctypes.c_size_t)
        self._get = bind("ggml_backend_tensor_get", *copied)
        self._set = bind("ggml_backend_tensor_set", *copied)
        self._type_name = bind("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
        self._is_contiguous = bind("ggml_is_contiguous", ctypes.c_bool, pointer)

    def name(self, node: int) -> str:
        """Return a node's name, such as ``result_norm`` or ``ffn_moe_topk-3``."""
        return ctypes.string_at(self._name(node)).decode(errors="replace")

    def operation(self, node: int) -> str:
        """Return what computes a node, such as ``MUL_MAT``."""
        return str(self._operation(node).decode(errors="replace"))

    def type_name(self, number: int) -> str:
        """Return what ggml calls a type, such as ``q4_K``."""
        return str(self._type_name(number).decode(errors="replace"))

    def is_contiguous(self, node: int) -> bool:
        """Return whether a node's values lie one after the other."""
        return bool(self._is_contiguous(node))

    def write(self, node: int, values: np.ndarray) -> None:
        """Replace the values of a contiguous node."""
        data = np.ascontiguousarray(values)
        self._set(node, data.ctypes.data, 0, data.nbytes)

    def rows(self, node: int, dtype: type[np.generic]) -> np.ndarray:
        """Copy a contiguous node of a type of four bytes, shape (rows, elements of a row).

        A batch of which no logits are wanted leaves nodes without rows in the last layer.
        """
        n_rows = self._n_rows(node)
        data = np.empty((n_rows, self._n_elements(node) // max(n_rows, 1)), dtype=dtype)
        self._get(node, data.ctypes.data, 0, data.nbytes)
        return data


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml.h, 336 bytes on a machine with 64-bit pointers."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class _InitParameters(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


_NAME_OFFSET: int = vars(_Tensor)["name"].offset
_OBJECT_BYTES = 32  # ggml's list entry before each tensor: tensor_overhead is both together


class StructuredNodes(Nodes):
    """Reads also a node's sources, shape and strides, which no exported function tells.

    Raises:
        EngineRefusal: in the library that is loaded the structure is laid out otherwise.

    """

    def __init__(self) -> None:
        super().__init__()
        wrong = _layout_error()
        if wrong is not None:
            raise EngineRefusal(
                f"this llama.cpp lays ggml_tensor out in another way ({wrong}), so that what goes"
                " into a matrix multiplication cannot be read; take another engine"
            )

    def source(self, node: int, index: int) -> int | None:
        """Return the address of a node's source, None where it has none."""
        address: int | None = _Tensor.from_address(node).src[index]
        return address

    def sources(self, node: int) -> tuple[int, ...]:
        """Return the addresses of all of a node's sources."""
        return tuple(address for address in _Tensor.from_address(node).src if address)

    def type(self, node: int) -> int:
        """Return the number of a node's ggml type."""
        return int(_Tensor.from_address(node).type)

    def shape(self, node: int) -> tuple[int, int, int, int]:
        """Return a node's sizes in ggml's order, the row length first."""
        first, second, third, fourth = _Tensor.from_address(node).ne
        return first, second, third, fourth

    def array(self, node: int) -> np.ndarray:
        """Copy a node of type F32 or I32, strided or not.

        Returns:
            An array of four dimensions in numpy's order: the row length last.

        Raises:
            EngineRefusal: the node has another type.

        """
        tensor = _Tensor.from_address(node)
        dtype = _DTYPES.get(tensor.type)
        if dtype is None:
            raise EngineRefusal(
                f"{self.name(node)!r} is of ggml type {tensor.type}, not F32 or I32"
            )
        raw = np.empty(self._n_bytes(node), dtype=np.uint8)
        self._get(node, raw.ctypes.data, 0, raw.nbytes)
        return np.ndarray(
            shape=tuple(tensor.ne[::-1]), dtype=dtype, buffer=raw, strides=tuple(tensor.nb[::-1])
        )


class Watch:
    """A callback for a context: which nodes are wanted, and what is done with them.

    An exception inside a callback would be lost in C, and the graph go on half computed; it is
    kept, and :meth:`check` raises it.

    Args:
        wants: given a node's address before it is computed, tells whether to wait for its data.
        take: given the address afterwards, reads it.

    """

    def __init__(self, wants: Callable[[int], bool], take: Callable[[int], None]) -> None:
        self._error: Exception | None = None

        def look(node: int, ask: bool, _user: object) -> bool:
            try:
                if ask:
                    return self._error is None and wants(node)
                take(node)
            except Exception as error:  # noqa: BLE001 # raised again outside of C
                self._error = self._error or error
            return True

        self.callback = low.ggml_backend_sched_eval_callback(look)

    def check(self) -> None:
        """Raise the first exception since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error


class Reader(Protocol):
    """Reads the nodes of some names."""

    def wants(self, name: str) -> bool:
        """Return whether a node of this name is read."""

    def read(self, name: str, node: int) -> None:
        """Read a node."""


def watch_names(nodes: Nodes, readers: Sequence[Reader]) -> Watch:
    """Return a watch that lets each reader read the nodes whose names it wants."""

    def wants(node: int) -> bool:
        name = nodes.name(node)
        return any(reader.wants(name) for reader in readers)

    def take(node: int) -> None:
        name = nodes.name(node)
        for reader in readers:
            if reader.wants(name):
                reader.read(name, node)

    return Watch(wants, take)


def _layout_error() -> str | None:
    """Build tensors with ggml's own functions and compare each field; None if all agree."""
    library, pointer, size = low._lib, ctypes.c_void_p, ctypes.c_int64

    def call(name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
        function = getattr(library, name)
        function.restype, function.argtypes = result, [kind for kind, _ in arguments]
        return function(*(value for _, value in arguments))

    overhead = call("ggml_tensor_overhead", ctypes.c_size_t)
    if overhead != ctypes.sizeof(_Tensor) + _OBJECT_BYTES:
        return f"ggml_tensor_overhead is {overhead} bytes"
    room = _InitParameters(mem_size=1 << 20, mem_buffer=None, no_alloc=False)
    context = call("ggml_init", pointer, (_InitParameters, room))
    if not context:
        return "ggml_init gives no context"

    def new(kind: int, *sizes: int) -> int:
        arguments = [(pointer, context), (ctypes.c_int, kind), *((size, n) for n in sizes)]
        address: int = call("ggml_new_tensor_4d", pointer, *arguments)
        return address

    try:
        experts, rows, ids = new(F32, 8, 3, 5, 1), new(F32, 8, 2, 7, 1), new(I32, 2, 7, 1, 1)
        turned = call(
            "ggml_permute", pointer, (pointer, context), (pointer, rows),
            *((ctypes.c_int, axis) for axis in (0, 2, 1, 3)),
        )  # fmt: skip
        chosen = call(
            "ggml_mul_mat_id", pointer,
            (pointer, context), (pointer, experts), (pointer, rows), (pointer, ids),
        )  # fmt: skip
        checks = [_field_error(node, call) for node in (experts, rows, ids, turned, chosen)]
        fields = [_Tensor.from_address(node) for node in (experts, turned, chosen)]
        expectations = {
            "type": (_Tensor.from_address(ids).type == I32 and fields[0].type == F32),
            "ne": tuple(fields[0].ne) == (8, 3, 5, 1) and tuple(fields[1].ne) == (8, 7, 2, 1),
            "nb": tuple(fields[0].nb) == (4, 32, 96, 480)
            and tuple(fields[1].nb) == (4, 64, 32, 448),
            "src": tuple(fields[2].src[:4]) == (experts, rows, ids, None)
            and fields[1].src[0] == rows,
            "view_src": fields[1].view_src == rows and fields[0].view_src is None,
        }
        checks += [None if holds else f"field {name}" for name, holds in expectations.items()]
        return next((wrong for wrong in checks if wrong is not None), None)
    finally:
        call("ggml_free", None, (pointer, context))


def _field_error(node: int, call: Callable[..., Any]) -> str | None:
    """Compare the fields that exported functions tell of."""
    tensor = _Tensor.from_address(node)
    handle = (ctypes.c_void_p, node)
    for field, theirs, ours in (
        ("name", call("ggml_get_name", ctypes.c_void_p, handle), node + _NAME_OFFSET),
        ("data", call("ggml_get_data", ctypes.c_void_p, handle), tensor.data),
        ("ne", call("ggml_nelements", ctypes.c_int64, handle), math.prod(tensor.ne)),
    ):
        if theirs != ours:
            return f"field {field}"
    return None
