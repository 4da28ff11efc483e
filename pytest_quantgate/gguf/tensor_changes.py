"""A model's tensors as a baseline keeps them, and what changed between two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_quantgate.gguf.digests import TensorDigest

_LAYER = re.compile(r"^blk\.(\d+)\.")
HASH_DIGITS = 8


def pack_tensors(tensors: Iterable[TensorDigest]) -> dict[str, str]:
    """Group tensors by name without the layer: ``blk.*.attn_k.weight`` → ``TYPE:hash`` words.

    Each word stands for one layer, as ``LAYER=TYPE:hash``; a tensor outside the layers is one
    word without a layer. Where the bytes were not hashed, a word has no ``:hash``.
    """
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        match = _LAYER.match(tensor.name)
        digest = tensor.sha256[:HASH_DIGITS]
        word = f"{tensor.type}:{digest}" if digest else tensor.type
        if match is None:
            groups[tensor.name] = [word]
        else:
            groups.setdefault(_LAYER.sub("blk.*.", tensor.name), []).append(f"{match[1]}={word}")
    return {name: " ".join(words) for name, words in groups.items()}


def unpack_tensors(packed: Mapping[str, str]) -> tuple[TensorDigest, ...]:
    """Return the tensors of a packed table; of each hash there are ``HASH_DIGITS`` digits."""
    tensors = []
    for name, words in packed.items():
        for word in words.split():
            layer, equals, rest = word.partition("=")
            kind, _, digest = (rest if equals else word).partition(":")
            full = name.replace("blk.*.", f"blk.{layer}.") if equals else name
            tensors.append(TensorDigest(name=full, type=kind, sha256=digest))
    return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class TensorChanges:
    """What differs: ``types_changed`` are (name, old type, new type)."""

    n_tensors: int
    types_changed: tuple[tuple[str, str, str], ...]
    bytes_changed: tuple[str, ...]
    added_or_gone: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return bool(self.types_changed or self.bytes_changed or self.added_or_gone)

    def describe_types(self) -> str:
        """Describe which tensors changed type, from what to what, in which layers."""
        moves: dict[str, list[str]] = {}
        for name, old, new in self.types_changed:
            moves.setdefault(f"{_kind(name)} {old} → {new}", []).append(name)
        return (
            f"{len(self.types_changed)} of {self.n_tensors} tensors changed type"
            f" ({_by_layer(moves)})"
        )

    def describe(self) -> str:
        """Describe all that changed in one phrase."""
        phrases = []
        if self.types_changed:
            phrases.append(self.describe_types())
        if self.bytes_changed:
            kinds: dict[str, list[str]] = {}
            for name in self.bytes_changed:
                kinds.setdefault(_kind(name), []).append(name)
            phrases.append(
                f"{len(self.bytes_changed)} of {self.n_tensors} tensors changed bytes at equal type"
                f" ({_by_layer(kinds)})"
            )
        if self.added_or_gone:
            some = ", ".join(self.added_or_gone[:4]) + (" …" if len(self.added_or_gone) > 4 else "")
            phrases.append(f"{len(self.added_or_gone)} tensors added or gone ({some})")
        return "; ".join(phrases) or f"all {self.n_tensors} tensors same"


def _kind(name: str) -> str:
    return _LAYER.sub("", name).removesuffix(".weight")


def _by_layer(groups: Mapping[str, list[str]]) -> str:
    """Name each group of tensors with its layers: ``ffn_down in blk.0, 2-5; output``."""
    phrases = []
    for label, names in groups.items():
        layers = [int(match[1]) for match in map(_LAYER.match, names) if match]
        phrases.append(f"{label} in blk.{_ranges(layers)}" if layers else label)
    return "; ".join(phrases)


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)


def compare_tensors(before: Mapping[str, str], after: Mapping[str, str]) -> TensorChanges:
    """Compare two packed tables of tensors."""
    old, new = (
        {item.name: (item.type, item.sha256) for item in unpack_tensors(packed)}
        for packed in (before, after)
    )
    common = [name for name in new if name in old]

    def bytes_differ(name: str) -> bool:
        (old_type, old_digest), (new_type, new_digest) = old[name], new[name]
        hashed = old_digest and new_digest
        return bool(hashed) and old_type == new_type and old_digest != new_digest

    return TensorChanges(
        n_tensors=len(new),
        types_changed=tuple(
            (name, old[name][0], new[name][0]) for name in common if old[name][0] != new[name][0]
        ),
        bytes_changed=tuple(name for name in common if bytes_differ(name)),
        added_or_gone=tuple(sorted(set(old) ^ set(new))),
    )
