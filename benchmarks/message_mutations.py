"""Reads damaged replies of workers and damaged base files, and counts what comes of them.

A reply of every kind is changed as it comes over the channel: fields of another type or length,
left out or doubled, bytes cut off. It must be refused as no message, or be one of its kind. Replies
with chunks then become measurements and their figures: only the errors that become a cell's verdict
may come out, in one line. Files in the form of llama-perplexity's base files are changed anywhere,
cut off and extended: each is refused in one line.

    python benchmarks/message_mutations.py --count 10000
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import struct
import tempfile
import typing
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines import messages
from pytest_quantgate.engines.messages import Message, Request, ScoredChunk, SummedChunk, from_wire
from pytest_quantgate.engines.programs.base_file import BaseFile, base_file_bytes
from pytest_quantgate.errors import CellCrashed, CellError
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.results.measurements.perplexity import Gathering, PerplexityMeasurement

N_TOKENS, N_CHUNKS, N_EXPERTS, N_VOCAB, N_CTX = 15, 4, 2, 33, 16

_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**70, 0.5, -1e308, float("nan"), float("inf")),
    *("", "a\nb", "\x1b[31m", "x" * 5000, b"", b"\xff", b"\0" * 4 * N_TOKENS, b"\xff" * 60),
    *((), (1,), ((),), ("a",), ((1, 2), (3,)), {}, {"a": 1}, [], [1], ("Progress", {})),
)

REPLIES = sorted(
    name
    for name in messages.__all__
    if isinstance(kind := getattr(messages, name), type)
    and issubclass(kind, Message)
    and not issubclass(kind, Request)
    and dataclasses.fields(kind)
)
"""The names of all messages that a worker sends, and of the rows in them."""


def example(hint: Any) -> Any:
    """Return a value of a field's type."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return tuple(example(item) for item in arguments if item is not ...)
    if arguments:  # of a union
        return example(arguments[0])
    if issubclass(hint, Message):
        return message(hint)
    return {int: 3, float: 0.5, str: "text", bytes: b"\0" * 8, bool: True}[hint]


def message(kind: type[Message]) -> Message:
    """Return a message of a kind."""
    hints = typing.get_type_hints(kind)
    return kind(**{item.name: example(hints[item.name]) for item in dataclasses.fields(kind)})


def scored(index: int, chance: random.Random) -> ScoredChunk:
    """Return a chunk's scores as a worker sends them, with routes of two layers."""
    values = np.array([chance.random() for _ in range(N_TOKENS)], np.float32)
    return ScoredChunk(
        index=index,
        nll_sum_nats=float(values.sum(dtype=np.float64)),
        nll_nats=values.tobytes(),
        top_tokens=np.zeros(N_TOKENS, np.int32).tobytes(),
        token_ids_sha256=hashlib.sha256(b"").hexdigest(),
        seconds_s=0.1,
        top_probabilities=values.tobytes(),
        kld_nats=values.tobytes(),
        kld_sum_nats=float(values.sum(dtype=np.float64)),
        route_layers=(0, 1),
        experts=np.zeros((2, N_TOKENS, N_EXPERTS), np.int16).tobytes(),
        expert_weights=np.zeros((2, N_TOKENS, N_EXPERTS), np.float32).tobytes(),
    )


def summed(index: int) -> SummedChunk:
    """Return a chunk's sums as an engine of programs tells them."""
    return SummedChunk(
        index=index,
        tokens=N_TOKENS,
        nll_sum_nats=30.0,
        token_ids_sha256="0" * 64,
        seconds_s=0.1,
        kld_sum_nats=0.5,
        same_top=9,
    )


def mutate(wire: Any, chance: random.Random) -> Any:
    """Return a message as it comes over the channel with a fault."""
    name, fields = wire[0], dict(wire[1])
    field = chance.choice(sorted(fields))
    value = fields[field]
    match chance.randrange(8):
        case 0:
            del fields[field]
        case 1:
            fields["unknown\n"] = value
        case 2 | 3 if isinstance(value, (bytes, tuple)) and value:
            fields[field] = chance.choice([value[:-1], value * 2, value[: len(value) // 2]])
        case 4 if isinstance(value, bytes) and value:
            fields[field] = chance.randbytes(len(value))
        case 5:
            return chance.choice([*_VALUES, (name,), (name, fields, 1), ("Unknown", fields)])
        case 6:
            return chance.choice(REPLIES), fields
        case _:
            fields[field] = chance.choice(_VALUES)
    return name, fields


def outcome(read: Callable[[], object]) -> str:
    """Read something damaged and return what came of it.

    Raises:
        AssertionError: an error of several lines.

    """
    try:
        read()
    except CellError as error:
        text = str(error)
        assert "\n" not in text, f"not one line: {text!r}"
        assert 8 < len(text) < 1000, f"{len(text)} characters: {text[:200]!r}"
        return f"refused as {type(error).__name__}"
    return "read"


def read_reply(wire: Any) -> Message | None:
    """Return a reply, None for what is no message."""
    try:
        return from_wire(wire)
    except ValueError as error:
        text = str(error)
        assert len(text) < 1000, f"{len(text)} characters: {text[:200]!r}"
        return None


def reference(chance: random.Random) -> PerplexityMeasurement:
    """Return what every measurement is compared with."""
    gathering = Gathering(None, [None] * N_CHUNKS, [None] * N_CHUNKS)
    for index in range(N_CHUNKS):
        gathering.take(scored(index, chance))
    return gathering.finish(N_CHUNKS)


def measure(wires: list[Any], against: PerplexityMeasurement) -> None:
    """Make a measurement of replies as the gate does, and its figures."""
    gathering = Gathering(None, [None] * N_CHUNKS, [None] * N_CHUNKS)
    for wire in wires:
        reply = read_reply(wire)
        if reply is None:
            raise CellCrashed("the worker sent what is no message")
        gathering.take(reply)
    if not len(gathering.chunks):
        return
    measurement = gathering.finish(N_CHUNKS).first(2)
    with np.errstate(all="ignore"):
        measure_divergence(measurement, against)


def write_base(path: Path, chance: random.Random) -> str:
    """Write a damaged base file, and return the hash of the whole one."""
    header = struct.pack("<8siii", b"_logits_", N_CTX, N_VOCAB, 2)
    rest = base_file_bytes(N_CTX, N_VOCAB, 2) - len(header)
    data = bytearray(header + chance.randbytes(rest))
    digest = hashlib.sha256(data).hexdigest()
    match chance.randrange(4):
        case 0:
            del data[chance.randrange(len(data)) :]
        case 1:
            number = chance.choice([-1, 0, 1, 2, 2**31 - 1, -(2**31), chance.randrange(2**31)])
            place = chance.choice([8, 12, 16])
            data[place : place + 4] = struct.pack("<i", number)
        case 2:
            data += chance.randbytes(chance.randint(1, 99))
        case _:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    if hashlib.sha256(data).hexdigest() == digest:
        data[-1] ^= 1
    path.write_bytes(data)
    return digest


def read_base(path: Path, digest: str) -> None:
    """Read a base file as it is read before llama-perplexity is given it."""
    file = BaseFile.open(path)
    tuple(file.token_ids_sha256(None))
    file.check(digest)


def run(count: int, number: int, folder: Path) -> Counter[str]:
    """Read so many damaged replies, measurements and base files each."""
    chance = random.Random(number)  # noqa: S311 # reproducible, and no secret
    outcomes: Counter[str] = Counter()
    against = reference(chance)
    for place in range(count):
        kind = getattr(messages, chance.choice(REPLIES))
        reply = read_reply(mutate(message(kind).to_wire(), chance))
        outcomes[f"reply: {'refused' if reply is None else 'read'}"] += 1

        replies = [scored(0, chance), scored(1, chance)] if place % 2 else [summed(0), summed(1)]
        wires = [item.to_wire() for item in replies]
        wires[chance.randrange(2)] = mutate(wires[0], chance)
        outcomes[f"measurement: {outcome(partial(measure, wires, against))}"] += 1

        path = folder / f"{place}.dat"
        digest = write_base(path, chance)
        came = outcome(partial(read_base, path, digest))
        assert came != "read", "a damaged base file was taken for a whole one"
        outcomes[f"base file: {came}"] += 1
        path.unlink()
    return outcomes


def main() -> None:
    """Print how often each outcome came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.count, arguments.seed, Path(folder))
    for kind, number in sorted(outcomes.items()):
        print(f"{number:7,} {kind}")


if __name__ == "__main__":
    main()
