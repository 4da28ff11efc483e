"""Reads damaged GGUF files, of models and importance matrices, and counts what comes of them.

The headers of the embedded models and of a matrix are changed: bytes, numbers, truncations, parts
swapped, doubled or left out. Only the errors that a user is meant to see may come out, in one line,
soon and without taking memory for what a damaged number claims.

    python benchmarks/gguf_mutations.py --count 10000
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_quantgate.artifacts.imatrix import (
    COUNTS,
    SUMS,
    dropped_weights,
    read_imatrix,
    write_imatrix,
)
from pytest_quantgate.errors import CellInvalid, ConfigError
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import TENSOR_TYPES, find_format
from pytest_quantgate.gguf.language_model import check_language_model
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.gguf.writer import encode_field, encode_header
from pytest_quantgate.results.measurements.size import measure_size

MAX_S = 2.0
"""A damaged file is refused sooner."""

MAX_BYTES = 2 << 30
"""More memory than reading takes by far, and less than damaged numbers claim."""

_NUMBERS = (0, 1, 2, 31, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A whole file: ``header`` is changed, and the file has ``n_bytes`` in all."""

    name: str
    header: bytes
    n_bytes: int
    read: Callable[[Path], None]


def model_seed(path: Path) -> Seed:
    """Return an embedded model as a seed; its tensors are zeros."""
    file = read_gguf(path)
    header = path.read_bytes()[: min(tensor.offset_bytes for tensor in file.tensors)]
    return Seed(name=path.stem, header=header, n_bytes=file.n_bytes, read=_read_model)


def matrix_seed(model: GgufFile, folder: Path) -> Seed:
    """Return an importance matrix of a model as a seed, whole as it is small."""
    arrays: dict[str, np.ndarray] = {}
    for tensor in model.tensors[:40]:
        if len(tensor.shape) > 1:
            n_experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
            arrays[tensor.name + SUMS] = np.ones((n_experts, tensor.shape[0]), np.float32)
            arrays[tensor.name + COUNTS] = np.ones(n_experts, np.float32)
    path = folder / "matrix.gguf"
    write_imatrix(path, arrays, "sha256:0", 1, 512)
    data = path.read_bytes()

    def read(path: Path) -> None:
        matrix = read_imatrix("mutated", path, "", model)
        matrix.rows()
        dropped_weights(matrix.entries, model)
        for tensor in model.tensors[:40]:
            if len(tensor.shape) > 1:
                matrix.mean_squares(tensor.name, tensor.shape[2] if len(tensor.shape) > 2 else 1)

    return Seed(name="importance matrix", header=data, n_bytes=len(data), read=read)


def quantized_seed(model: GgufFile) -> Seed:
    """Return a header whose matrices are of a quantized type, as a seed."""
    q4_0, f32 = TENSOR_TYPES["Q4_0"], TENSOR_TYPES["F32"]
    fields = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2"}
    header = encode_header(
        [encode_field(name, value) for name, value in fields.items()],
        [
            (tensor.name, f32 if tensor.shape[0] % 32 else q4_0, tensor.shape)
            for tensor in model.tensors
        ],
    )
    return Seed(name="quantized", header=header, n_bytes=model.n_bytes, read=_read_model)


def seeds(folder: Path) -> list[Seed]:
    """Return the embedded models, and a matrix and a quantized header of one of them."""
    models = sorted(EMBEDDED.glob("*.gguf"))
    first = read_gguf(models[0])
    return [*map(model_seed, models), matrix_seed(first, folder), quantized_seed(first)]


def _read_model(path: Path) -> None:
    """Read all that is read of a model before an engine is given it."""
    file = read_gguf(path)
    check_language_model(file)
    measure_size(file, find_format("Q4_K_M"))
    file.settings()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return a header with one to three faults, most of them where the numbers stand."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        # The first bytes hold the counts, the last the table of tensors.
        place = chance.choice(
            [chance.randrange(64), chance.randrange(len(changed)), -chance.randrange(1, 8192)]
        ) % max(1, len(changed))
        width = chance.choice([1, 4, 8])
        match chance.randrange(7):
            case 0:
                changed[place : place + width] = chance.randbytes(width)
            case 1:
                number = chance.choice(_NUMBERS) % (1 << (8 * width))
                changed[place : place + width] = number.to_bytes(width, "little")
            case 2:
                changed[place : place + 1] = bytes([changed[place] ^ (1 << chance.randrange(8))])
            case 3:
                del changed[place : place + chance.randint(1, 64)]
            case 4:
                changed[place:place] = changed[place : place + chance.randint(1, 256)]
            case 5:
                other = chance.randrange(len(changed))
                low, high = sorted((place, other))
                changed[low : low + width], changed[high : high + width] = (
                    changed[high : high + width],
                    changed[low : low + width],
                )
            case _:
                del changed[place:]
        changed = changed or bytearray(b"G")
    return bytes(changed)


def outcome(seed: Seed, data: bytes, path: Path, *, is_padded: bool) -> str:
    """Read a damaged file and return what came of it.

    Raises:
        AssertionError: an error of several lines, or one that took too long.

    """
    with path.open("wb") as stream:
        stream.write(data)
        if is_padded:
            stream.truncate(max(seed.n_bytes, len(data)))
    began_s = time.perf_counter()
    try:
        seed.read(path)
        result = "read"
    except (ConfigError, CellInvalid) as error:
        text = str(error)
        assert "\n" not in text, f"not one line: {text!r}"
        assert len(text) < 1000, f"{len(text)} characters: {text[:200]!r}"
        result = type(error).__name__
    took_s = time.perf_counter() - began_s
    assert took_s < MAX_S, f"{took_s:.1f} s for {result}"
    return result


def run(count: int, number: int, folder: Path) -> dict[str, Counter[str]]:
    """Read ``count`` damaged files; ``number`` is the random numbers' seed."""
    chance = random.Random(number)  # noqa: S311 # reproducible, and no secret
    path = folder / "mutated.gguf"
    outcomes: dict[str, Counter[str]] = {}
    all_seeds = seeds(folder)
    for _ in range(count):
        seed = chance.choice(all_seeds)
        data = mutate(seed.header, chance)
        found = outcome(seed, data, path, is_padded=chance.random() < 0.9)
        outcomes.setdefault(seed.name, Counter())[found] += 1
    return outcomes


def main() -> None:
    """Print how often each outcome came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, counts in sorted(run(arguments.count, arguments.seed, Path(folder)).items()):
            print(f"{name}: {', '.join(f'{kind} {count:,}' for kind, count in counts.items())}")
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{time.perf_counter() - began_s:.0f} s, peak {peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
