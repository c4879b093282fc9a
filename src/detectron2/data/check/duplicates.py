"""Finding pictures that look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from detectron2.data.check.images import ImageFacts

__all__ = ["looks_like", "pairs_that_look_alike"]

# Re-encoding and resizing change few of the 64 bits; different photographs differ in about 32.
MAX_BITS = 4
# Mean difference of the thumbnails' grey values.
MAX_GREY = 4.0
# Pictures with one of five parts of the hash in common are compared: with at most four bits
# changed, one part of five is as it was.
PARTS = 5
# A part that so many pictures share says nothing (black frames, scanned pages): among them only
# those of the very same hash are compared.
CROWDED = 200


def looks_like(one: ImageFacts, other: ImageFacts) -> bool:
    """Whether two pictures look the same, whatever their size and compression."""
    if one.digest == other.digest:
        return True
    if not one.look or not other.look:
        return False
    if (int(one.look, 16) ^ int(other.look, 16)).bit_count() > MAX_BITS:
        return False
    difference = _thumbnail(one) - _thumbnail(other)
    return float(np.abs(difference).mean()) <= MAX_GREY


def _thumbnail(facts: ImageFacts) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(facts.thumbnail), dtype=np.uint8).astype(np.float64)


def pairs_that_look_alike(
    facts: Mapping[str, ImageFacts], others: Mapping[str, ImageFacts] | None = None
) -> list[tuple[str, str]]:
    """Pairs of files that look the same, each file with the first one that it looks like.

    Args:
        facts: by path.
        others: look for partners among these instead of among `facts`.

    Returns:
        (path in `facts`, path of its partner), in the order of `facts`.
    """
    buckets = _buckets(facts if others is None else others)
    pairs = []
    rank = {path: i for i, path in enumerate(facts)} if others is None else None
    for path, its in facts.items():
        if not its.readable:
            continue
        candidates = _candidates(its, buckets)
        if rank is not None:
            candidates = sorted(
                (p for p in candidates if rank[p] < rank[path]), key=lambda p: rank[p]
            )
        pool = facts if others is None else others
        partner = next((p for p in candidates if looks_like(its, pool[p])), None)
        if partner is not None:
            pairs.append((path, partner))
    return pairs


def _keys(facts: ImageFacts) -> Iterator[tuple[str, ...]]:
    yield ("file", facts.digest)
    if facts.look:
        yield ("look", facts.look)
        bits = f"{int(facts.look, 16):064b}"
        edges = [round(i * 64 / PARTS) for i in range(PARTS + 1)]
        for i in range(PARTS):
            yield (f"part {i}", bits[edges[i] : edges[i + 1]])


def _buckets(facts: Mapping[str, ImageFacts]) -> dict[tuple[str, ...], list[str]]:
    buckets: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path, its in facts.items():
        if its.readable:
            for key in _keys(its):
                buckets[key].append(path)
    return buckets


def _candidates(facts: ImageFacts, buckets: Mapping[tuple[str, ...], list[str]]) -> Iterable[str]:
    found: dict[str, None] = {}
    for key in _keys(facts):
        bucket = buckets.get(key, [])
        if key[0].startswith("part") and len(bucket) > CROWDED:
            continue
        found.update(dict.fromkeys(bucket[:CROWDED]))
    return found
