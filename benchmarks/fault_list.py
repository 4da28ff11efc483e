"""The faults that gate_power.py plants in SmolLM2's Q4_K_M, and what must be said of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import faulty_worker
import numpy as np
import planted_faults as plant

from pytest_quantgate.gguf.reader import read_gguf

LAYER = 3
ONE = f"blk.{LAYER}.ffn_down.weight"
ALL = ".ffn_down.weight"
BLOCKS_A_BIT = 10_000
STALL_S = 45
TOKENS_TOLD = r"[\d,]+ of [\d,]+ tokens changed"
GREEN = {"PASS", "IMPROVED"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: how it gets into a copy of the clean file, and what must be said of it.

    ``told`` are patterns that a red verdict's reason and cause must hold, all of them. Where the
    fault may be below the limit, a green verdict that says how many tokens changed will do.
    """

    name: str
    what: str
    plant: Callable[[Path], object]
    verdicts: tuple[str, ...]
    told: tuple[str, ...]
    may_be_below_the_limit: bool = False

    def is_caught(self, verdict: str, text: str) -> bool:
        """Tell whether a verdict and its words are right."""
        if verdict in GREEN:
            return self.may_be_below_the_limit and re.search(TOKENS_TOLD, text) is not None
        return verdict in self.verdicts and all(re.search(item, text) for item in self.told)


def in_tensors(name: str, what: str, change: Callable[[Path], object], told: str) -> Fault:
    """Describe a fault in tensors' bytes, whose size may be below the limit."""
    return Fault(
        name=name,
        what=what,
        plant=change,
        verdicts=("REGRESSED", "INCONCLUSIVE"),
        told=("cause: quantizer", told, TOKENS_TOLD, r"PPL [+−][\d.]+ %"),
        may_be_below_the_limit=True,
    )


def flip(path: Path, ending: str, bits: int) -> None:
    """Flip so many bits at seeded places of the tensors whose names end so."""
    file = read_gguf(path)
    tensors = [t for t in plant.tensors_named(file, ending) if t.type.block_elements > 1]
    total = 8 * sum(tensor.n_bytes for tensor in tensors)
    places = np.random.default_rng(1).choice(total, size=bits, replace=False)
    plant.flip_bits(path, tensors, [int(place) for place in places])


def blocks_of(path: Path) -> int:
    """Count a file's quantized blocks."""
    quantized = [t for t in read_gguf(path).tensors if t.type.block_elements > 1]
    return sum(tensor.n_elements // tensor.type.block_elements for tensor in quantized)


def all_faults(requantize: Callable[[Path, Container[int]], None]) -> list[Fault]:
    """List the faults in files; ``requantize`` makes one with some layers' ffn_down in Q4_0."""
    types = ("cause: quantizer", TOKENS_TOLD, r"PPL [+−][\d.]+ % \[", "not the runtime")
    bytes_one = r"1 of 272 tensors changed bytes at equal type \(ffn_down in blk\.3\)"
    bytes_all = r"30 of 272 tensors changed bytes at equal type \(ffn_down in blk\.0-29\)"

    def scales(factor: float, ending: str, *, one_block: bool) -> Callable[[Path], object]:
        return lambda path: plant.multiply_scales(
            path, ending, factor, plant.largest_block(path, ending) if one_block else None
        )

    scale_faults = [
        in_tensors(
            f"scale-{percent}-{number}",
            f"scale × {factor} of {what}",
            scales(factor, ending, one_block=one_block),
            told,
        )
        for percent, factor in ((1, 1.01), (5, 1.05))
        for number, (what, ending, one_block, told) in enumerate(
            (
                (f"one block of {ONE}, its largest", ONE, True, bytes_one),
                (f"every block of {ONE}", ONE, False, bytes_one),
                ("every block of all 30 ffn_down", ALL, False, bytes_all),
            )
        )
    ]
    return [
        Fault(
            name="types-one",
            what=f"{ONE} in Q4_0",
            plant=lambda path: requantize(path, {LAYER}),
            verdicts=("REGRESSED", "CHANGED"),
            told=(*types, r"1 of 272 tensors changed type \(ffn_down Q\d_K → Q4_0 in blk\.3\)"),
        ),
        Fault(
            name="types-all",
            what="all 30 ffn_down in Q4_0",
            plant=lambda path: requantize(path, range(30)),
            verdicts=("REGRESSED",),
            told=(*types, r"30 of 272 tensors changed type \(ffn_down Q\d_K → Q4_0 in blk\."),
        ),
        *scale_faults,
        Fault(
            name="nan-scale",
            what=f"one NaN scale in {ONE}",
            plant=lambda path: plant.multiply_scales(path, ONE, float("nan"), 0),
            verdicts=("INVALID",),
            told=("cause: quantizer", bytes_one, "PPL not finite in"),
        ),
        in_tensors("bit", f"one bit of {ONE}", lambda path: flip(path, ONE, 1), bytes_one),
        in_tensors(
            "bits",
            f"one bit in each {BLOCKS_A_BIT:,} blocks, anywhere",
            lambda path: flip(path, ".weight", blocks_of(path) // BLOCKS_A_BIT),
            r"\d+ of 272 tensors changed bytes at equal type",
        ),
        Fault(
            name="layers-swapped",
            what="layers 12 and 13 swapped",
            plant=lambda path: plant.swap_layers(path, 12, 13),
            verdicts=("REGRESSED",),
            told=("cause: quantizer", r"tensors changed bytes at equal type .*blk\.12-13"),
        ),
        Fault(
            name="pre-type",
            what="tokenizer.ggml.pre falcon",
            plant=lambda path: plant.set_field(path, "tokenizer.ggml.pre", "falcon"),
            verdicts=("REGRESSED",),
            told=("cause: tokenizer", r"tokenizer\.ggml\.pre smollm → falcon"),
        ),
        Fault(
            name="rope-base",
            what="RoPE base 10,000",
            plant=lambda path: plant.set_field(path, "llama.rope.freq_base", 1e4),
            verdicts=("REGRESSED",),
            told=("cause: the file's metadata", r"llama\.rope\.freq_base 100000\.0 → 10000\.0"),
        ),
        *(
            Fault(
                name=name,
                what=name.replace("-", " "),
                plant=plant.append_zeros,
                verdicts=(verdict,),
                told=(told,),
            )
            for name, verdict, told in zip(
                faulty_worker.FAULTS,
                ("CRASHED", "TIMEOUT", "CRASHED"),
                (
                    "killed by SIGABRT",
                    f"no sign of life for {STALL_S} s",
                    "sent what is no message",
                ),
                strict=True,
            )
        ),
    ]
