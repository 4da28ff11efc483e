"""The conditions of a sweep: what is varied, one thing at a time and in a few pairs.

They come in the order in which a reader wants to hear of a failure: the fewest changes first, the
smallest size first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from pytest_quantgate.engines.messages import SweptCondition
from pytest_quantgate.engines.messages.placement import Placement, read_placement
from pytest_quantgate.gguf.formats import CACHE_TYPES, TENSOR_TYPES

SHORT = 256
"""Tokens that every condition decodes, but those that are about a text's length."""

_UBATCHES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 128)
_LENGTHS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SPLITS = ("layer", "row")


class Kind(Enum):
    """What sound kernels may differ by under a condition."""

    ROUNDING = "rounding"
    CACHE = "the types of keys and values"
    LENGTH = "the text before a token"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One set of conditions; ``changes`` says what is other than in the reference."""

    changes: tuple[str, ...]
    kind: Kind
    condition: SweptCondition

    @property
    def name(self) -> str:
        """What a person reads."""
        return ", ".join(self.changes)


def points(
    own: SweptCondition, *, trained: int, n_text: int, devices: tuple[str, ...], n_layers: int
) -> tuple[Point, ...]:
    """Return the conditions of a sweep.

    Args:
        own: the reference condition.
        trained: the context that the model was trained with.
        n_text: tokens of the text.
        devices: the devices that the engine lists.
        n_layers: the model's layers.

    """
    single = [*_batches(own), *_kernels(own), *_placements(own, devices, n_layers)]
    pairs = [
        _both(first, second)
        for first in _kernels(own)
        if not first.changes[0].startswith("n_threads")
        for second in _batches(own)
        if second.condition.n_ubatch in (1, 3, 8)
    ]
    lengths = [
        Point(
            changes=(f"n_ctx {length}",),
            kind=Kind.LENGTH if length > own.n_tokens else Kind.ROUNDING,
            condition=replace(
                own, n_tokens=length, n_ctx=length, flash_attention=not own.flash_attention
            ),
        )
        for length in sorted({*_LENGTHS, trained})
        if length <= min(trained, n_text)
    ]
    return (*single, *_caches(own), *lengths, *pairs)


def _batches(own: SweptCondition) -> Iterator[Point]:
    for size in _UBATCHES:
        if size < min(own.n_ubatch, own.n_tokens):
            yield _rounding(f"n_ubatch {size}", replace(own, n_ubatch=size))


def _kernels(own: SweptCondition) -> Iterator[Point]:
    attention = "off" if own.flash_attention else "on"
    other = replace(own, flash_attention=not own.flash_attention)
    if own.type_v in (0, 1, 30):  # a quantized V needs flash attention
        yield _rounding(f"flash attention {attention}", other)
    if read_placement(own.device).is_cpu:
        word = "not repacked" if own.repack else "repacked"
        yield _rounding(word, replace(own, repack=not own.repack))
    for count in (1, 2, 3):
        if count != own.n_threads:
            yield _rounding(f"n_threads {count}", replace(own, n_threads=count))
    yield _rounding(f"n_ctx {4 * own.n_ctx}, not filled", replace(own, n_ctx=4 * own.n_ctx))


def _placements(own: SweptCondition, devices: tuple[str, ...], n_layers: int) -> Iterator[Point]:
    """Return other devices, splits and numbers of layers; none where only a processor is."""
    accelerators = tuple(name for name in devices if name.upper() != "CPU")
    placed = read_placement(own.device)
    if not placed.is_cpu:
        yield _rounding("on cpu", replace(own, device="cpu"))
    for name in accelerators:
        if (name,) != placed.devices:
            yield _rounding(f"on {name}", replace(own, device=name))
        for layers in sorted({0, 1, n_layers // 2, n_layers}):
            text = Placement(names=(name,), n_gpu_layers=layers).to_text()
            yield _rounding(f"{layers} layers on {name}", replace(own, device=text))
    if len(accelerators) > 1:
        for split in _SPLITS:
            text = Placement(names=accelerators, split_mode=split).to_text()
            yield _rounding(f"split by {split}", replace(own, device=text))


def _caches(own: SweptCondition) -> Iterator[Point]:
    for name in CACHE_TYPES:
        number = TENSOR_TYPES[name].number
        if number not in (own.type_k, own.type_v):
            yield _cache(f"type_k {name}", replace(own, type_k=number))
            if own.flash_attention:
                yield _cache(f"type_v {name}", replace(own, type_v=number))
                both = replace(own, type_k=number, type_v=number)
                yield _cache(f"type_k and type_v {name}", both)


def _rounding(change: str, condition: SweptCondition) -> Point:
    return Point(changes=(change,), kind=Kind.ROUNDING, condition=condition)


def _cache(change: str, condition: SweptCondition) -> Point:
    return Point(changes=(change,), kind=Kind.CACHE, condition=condition)


def _both(first: Point, second: Point) -> Point:
    condition = replace(first.condition, n_ubatch=second.condition.n_ubatch)
    return Point(changes=(*first.changes, *second.changes), kind=Kind.ROUNDING, condition=condition)
