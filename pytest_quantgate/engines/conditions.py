"""How a text is computed: threads, batches and repacking, and how these may vary."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a text is computed; ``repack`` allows weights that are repacked for the CPU."""

    n_threads: int
    n_batch: int
    n_ubatch: int
    repack: bool = True


OWN = "the profile's own"


def variations(own: Conditions, *, is_cpu: bool) -> dict[str, Conditions]:
    """Return the settings to compare with the profile's own, by the name of what is other."""
    variants = {}
    threads = 1 if own.n_threads > 1 else 2
    variants[f"{threads} thread{'s' if threads > 1 else ''}"] = replace(own, n_threads=threads)
    for part in (2, 8):
        size = own.n_ubatch // part
        if size:
            variants[f"n_ubatch {size}"] = replace(own, n_ubatch=size)
    half = own.n_batch // 2
    if half:
        variants[f"n_batch {half}"] = replace(own, n_batch=half, n_ubatch=min(own.n_ubatch, half))
    if is_cpu:
        variants["not repacked"] = replace(own, repack=False)
    return variants
