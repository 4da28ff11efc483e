"""The seeded order in which a text's chunks are visited."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.stats.estimates import cluster_labels

if TYPE_CHECKING:
    from collections.abc import Sequence


def _rank(seed: int, kind: str, name: object) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest())


def chunk_order(
    domains: Sequence[str | None], documents: Sequence[int | None], seed: int
) -> list[int]:
    """Order chunks so that every prefix is a balanced sample of the text.

    Chunk i of a domain's m stands at i/m, so after any n chunks a domain of weight w among k has
    between n·w − k·w and n·w + 1 of them, and the first k hold one of each. Within a domain the
    document (or block of neighbours, where none is declared) visited least comes next (so a short
    prefix weighs documents alike, whatever their length). Ties go by SHA-256 of the seed and the
    name, so the order is the same everywhere and always.

    Args:
        domains: each chunk's domain, or None.
        documents: each chunk's document, or None.
        seed: any integer; stored with the profile.

    Returns:
        A permutation of the chunks' indices in the text.

    """
    chunks = range(len(domains))
    clusters = [int(c) for c in cluster_labels(documents, np.arange(len(documents)))]
    if len(domains) != len(clusters):
        msg = f"{len(domains)} domains for {len(clusters)} documents; give one of each per chunk"
        raise ValueError(msg)
    waiting: dict[str | None, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for chunk in sorted(chunks, key=lambda chunk: _rank(seed, "chunk", chunk)):
        waiting[domains[chunk]][clusters[chunk]].append(chunk)
    turns = [
        (Fraction(turn, size), _rank(seed, f"domain {turn}", domain), domain)
        for domain, by_cluster in waiting.items()
        for size in [sum(map(len, by_cluster.values()))]
        for turn in range(size)
    ]
    turns.sort(key=lambda turn: turn[:2])
    cluster_rank = {cluster: _rank(seed, "cluster", cluster) for cluster in set(clusters)}
    visits = dict.fromkeys(cluster_rank, 0)
    heaps = {
        domain: sorted((0, cluster_rank[cluster], cluster) for cluster in by_cluster)
        for domain, by_cluster in waiting.items()
    }
    order: list[int] = []
    for _, _, domain in turns:
        heap = heaps[domain]
        while heap[0][0] != visits[heap[0][2]]:  # another domain visited this document since
            _, rank, cluster = heap[0]
            heapq.heapreplace(heap, (visits[cluster], rank, cluster))
        _, rank, cluster = heapq.heappop(heap)
        order.append(waiting[domain][cluster].pop())
        visits[cluster] += 1
        if waiting[domain][cluster]:
            heapq.heappush(heap, (visits[cluster], rank, cluster))
    return order
