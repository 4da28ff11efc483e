"""``python -m pytest_quantgate.codecs.replay``: check one property on one example again.

Prints the violation and exits 1 if it is still there, else 0. Runs in this process: an example that
crashes the engine crashes this command.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from pytest_quantgate.codecs import golden
from pytest_quantgate.codecs.adapters import GgufCodec, NativeCodec
from pytest_quantgate.codecs.kernels import WEIGHT_KINDS, check_matmul, check_vec_dot
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.violation import Case, Violation
from pytest_quantgate.engines.worker.native import TYPE_IDS, NativeCodecs
from pytest_quantgate.engines.worker.native_kernels import NativeKernels


def _floats(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(bytes.fromhex(text), dtype="<f4").astype(np.float32)


_OTHERS = ("golden-rms", "ladder", "vec-dot", "matmul")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_quantgate.codecs.replay")
    parser.add_argument("--codec", choices=["native", "gguf"], default="native")
    parser.add_argument("--lib-dir", help="folder of the engine's libraries (default: llama_cpp's)")
    parser.add_argument("--type", required=True, choices=list(TYPE_IDS))
    parser.add_argument("--property", required=True, choices=[*PROPERTIES, *_OTHERS])
    parser.add_argument(
        "--values", type=_floats, help="a row, little-endian float32 in hexadecimal"
    )
    parser.add_argument("--imatrix", type=_floats, help="one weight a value, as --values")
    parser.add_argument("--data", type=bytes.fromhex, help="blocks as stored, in hexadecimal")
    parser.add_argument("--limit", type=float, help="the property's slack")
    parser.add_argument("--kind", choices=WEIGHT_KINDS, default="normal", help="vec-dot: weights")
    parser.add_argument("--device", default="CPU", help="matmul: where, such as CUDA0")
    parser.add_argument("--rows", type=int, default=1, help="matmul: rows of activations")
    parser.add_argument("--repack", action="store_true", help="matmul: the CPU's repacked layout")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    codec: NativeCodec | GgufCodec
    if options.codec == "gguf":
        codec = GgufCodec(options.type)
    else:
        codec = NativeCodec(NativeCodecs(options.lib_dir), options.type)
    data = None
    if options.data is not None:
        data = np.frombuffer(options.data, dtype=np.uint8).reshape(-1, codec.spec.block_bytes)
    case = Case(
        rows=None if options.values is None else options.values[None, :],
        imatrix=options.imatrix,
        data=data,
        limit=options.limit,
    )
    try:
        if options.property == "golden-rms":
            golden.check_golden(codec)
        elif options.property == "ladder":
            backend = NativeCodecs(options.lib_dir)
            for ladder in golden.LADDERS:
                if options.type in ladder:
                    golden.check_ladder(lambda name: NativeCodec(backend, name), ladder)
        elif options.property == "vec-dot":
            check_vec_dot(codec, NativeKernels(options.lib_dir), options.kind)
        elif options.property == "matmul":
            check_matmul(
                codec,
                NativeKernels(options.lib_dir),
                device=options.device,
                repack=options.repack,
                n_activations=options.rows,
            )
        else:
            PROPERTIES[options.property].check(codec, case)
    except Violation as violation:
        sys.stdout.write(f"{violation}\n")
        return 1
    sys.stdout.write(f"{options.type}: {options.property} holds on this example\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
