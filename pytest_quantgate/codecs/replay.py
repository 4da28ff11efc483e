"""``python -m pytest_quantgate.codecs.replay``: check one property on one example again.

Prints the violation and exits 1 if it is still there, else 0; 2 if the arguments cannot be used.
Runs in this process, so an example that crashes the engine crashes this command; ``--python`` runs
it in a worker of that interpreter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pytest_quantgate.codecs import golden
from pytest_quantgate.codecs.adapters import GgufCodec, NativeCodec, gguf_codec
from pytest_quantgate.codecs.kernels import WEIGHT_KINDS, check_matmul, check_vec_dot
from pytest_quantgate.codecs.origin import load
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.remote import WorkerCodecs
from pytest_quantgate.codecs.violation import Case, Violation
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.native_kernels import NativeKernels
from pytest_quantgate.errors import CellError

if TYPE_CHECKING:
    from pytest_quantgate.codecs.adapters import CodecBackend
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.codecs.kernels import KernelBackend

_STALL_S = 60.0
_OTHERS = ("golden-rms", "ladder", "vec-dot", "matmul")


def _floats(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(bytes.fromhex(text), dtype="<f4").astype(np.float32)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_quantgate.codecs.replay")
    add = parser.add_argument
    add(
        "--codec",
        default="native",
        metavar="native|gguf|MODULE:EXPRESSION",
        help="the engine's codec, gguf's, or one of your own: a module or its file, and what makes"
        " the codec there, as my_codecs:MyCodec() (native, gguf: those codecs)",
    )
    add("--kernels", metavar="MODULE:EXPRESSION", help="vec-dot, matmul: kernels of your own")
    add("--lib-dir", help="folder of the engine's libraries (default: llama_cpp's)")
    add("--python", help="the interpreter that has the engine (default: this one)")
    add("--type", required=True, help="the quantized type, as Q4_K")
    add("--property", required=True, choices=[*PROPERTIES, *_OTHERS])
    add("--values", type=_floats, help="a row, little-endian float32 in hexadecimal")
    add("--imatrix", type=_floats, help="one weight a value, as --values")
    add("--data", type=bytes.fromhex, help="blocks as stored, in hexadecimal")
    add("--limit", type=float, help="the property's slack")
    add("--fewer", help="ladder: the type of fewer bits")
    add("--kind", choices=WEIGHT_KINDS, default="normal", help="vec-dot: weights")
    add("--device", default="CPU", help="matmul: where, such as CUDA0")
    add("--rows", type=int, default=1, help="matmul: rows of activations")
    add("--repack", action="store_true", help="matmul: the CPU's repacked layout")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            engine = None
            if options.python is not None:
                log = Path(folder) / "engine.log"
                engine = LlamaCppPython(python=options.python, log=log, stall_s=_STALL_S)
            with nullcontext() if engine is None else closing(engine):
                worker = None if engine is None else WorkerCodecs(engine)
                _check(options, worker or NativeCodecs(options.lib_dir), worker)
    except Violation as violation:
        sys.stdout.write(f"{violation}\n")
        return 1
    except (ValueError, FileNotFoundError, CellError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{options.type}: {options.property} holds on this example\n")
    return 0


def _check(options: argparse.Namespace, backend: CodecBackend, worker: WorkerCodecs | None) -> None:
    """Check the property; raises :class:`Violation`."""
    codec = _make_codec(options.codec, options.type, backend)
    if options.property == "golden-rms":
        golden.check_golden(codec)
    elif options.property == "ladder":
        _check_ladder(codec, options, backend)
    elif options.property in {"vec-dot", "matmul"}:
        kernels: KernelBackend = worker or NativeKernels(options.lib_dir)
        if options.kernels is not None:
            kernels = cast("KernelBackend", load(options.kernels))
        if options.property == "vec-dot":
            check_vec_dot(codec, kernels, options.kind)
        elif not check_matmul(
            codec,
            kernels,
            device=options.device,
            repack=options.repack,
            n_activations=options.rows,
        ):
            raise ValueError(f"{options.device} has no product of {options.type}")
    else:
        data = options.data
        if data is not None:
            data = np.frombuffer(data, dtype=np.uint8).reshape(-1, codec.spec.block_bytes)
        rows = None if options.values is None else options.values[None, :]
        case = Case(rows=rows, imatrix=options.imatrix, data=data, limit=options.limit)
        PROPERTIES[options.property].check(codec, case)


def _check_ladder(codec: Codec, options: argparse.Namespace, backend: CodecBackend) -> None:
    """Check the steps up to a type; ``--fewer`` alone where it is given."""
    for ladder in golden.LADDERS:
        if options.type in ladder and options.fewer in {None, *ladder}:
            known = {item.name for item in backend.types()} | {options.type}
            steps = [name for name in ladder if name in known]
            if options.fewer is not None:
                steps = [options.fewer, options.type]
            golden.check_ladder(
                lambda name: codec if name == options.type else NativeCodec(backend, name),
                tuple(steps),
            )


def _make_codec(origin: str, type_name: str, backend: CodecBackend) -> Codec:
    """Make the engine's codec, gguf's, or what an expression gives: a codec, or a class of one."""
    if origin == "native":
        return NativeCodec(backend, type_name)
    if origin == "gguf":
        return GgufCodec(type_name)
    names: dict[str, object] = {"gguf": gguf_codec(type_name)}
    if type_name in {item.name for item in backend.types()}:
        names["native"] = NativeCodec(backend, type_name)
    made: Any = load(origin, **names)
    if isinstance(made, type) and issubclass(made, NativeCodec):
        made = made(backend, type_name)
    elif isinstance(made, type) and issubclass(made, GgufCodec):
        made = made(type_name)
    elif isinstance(made, type):
        made = made()
    return cast("Codec", made)


if __name__ == "__main__":
    sys.exit(main())
