"""Parts of a dataset: dealing images to splits, and choosing some of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from detectron2.data.datasets.convert.content import Content, Record

__all__ = ["sample_content", "split_content"]


def split_content(content: Content, fractions: Mapping[str, float], seed: int = 0) -> Content:
    """Deal all images anew, so that every split gets its share of each class.

    Images of the rarest class are dealt first, each to the split that lacks most of that class
    (iterative stratification, Sechidis et al. 2011).

    Args:
        content: a dataset; its splits are put together.
        fractions: split to share of the images; they add up to 1.
        seed: of the order in which images are dealt.

    Raises:
        ValueError: the shares do not add up to 1, or a split would stay empty.
    """
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) <= 0:
        shares = ", ".join(f"{name} {value:g}" for name, value in fractions.items())
        raise ValueError(f"The shares of the splits are {shares}; they must add up to 1.")
    records = [record for split in content.splits.values() for record in split]
    owners = _deal(records, fractions, np.random.default_rng(seed))
    splits = {
        name: [record for record, owner in zip(records, owners) if owner == name]
        for name in fractions
    }
    for name, chosen in splits.items():
        if not chosen:
            raise ValueError(
                f"{len(records)} images are too few for the split {name!r} of {fractions[name]:g}."
            )
    return dataclasses.replace(content, splits=splits)


def _deal(
    records: Sequence[Record], fractions: Mapping[str, float], rng: np.random.Generator
) -> list[str]:
    """The split of each record."""
    names = list(fractions)
    share = np.array([fractions[name] for name in names])
    classes = [set(_classes_of(record)) for record in records]
    totals = Counter(number for each in classes for number in each)
    wanted = {number: share * count for number, count in totals.items()}
    places = share * len(records)
    owners = [""] * len(records)
    order = rng.permutation(len(records)).tolist()
    # Rarest class first; images without objects last.
    for number in [*sorted(totals, key=lambda n: (totals[n], n)), None]:
        for i in order:
            if owners[i] or (number is not None and number not in classes[i]):
                continue
            need = places if number is None else wanted[number]
            # Of the splits that lack most of the class the one with most free places.
            best = np.flatnonzero(need >= need.max() - 1e-9)
            owner = int(best[np.argmax(places[best])])
            owners[i] = names[owner]
            places[owner] -= 1
            for other in classes[i]:
                wanted[other][owner] -= 1
    return owners


def sample_content(content: Content, images: int, per_class: int = 0, seed: int = 0) -> Content:
    """Some images of each split, as many as its share of the whole.

    Args:
        content: a dataset.
        images: how many in all.
        per_class: as many images of each class come first, if there are so many.
        seed: of the choice.

    Raises:
        ValueError: there are not so many images.
    """
    total = sum(map(len, content.splits.values()))
    if not 0 < images <= total:
        raise ValueError(f"{images} images cannot be chosen of {total}.")
    rng = np.random.default_rng(seed)
    splits = {}
    left, images_left = total, images
    for name, records in content.splits.items():
        # Shares of what is left add up to the number that is asked for.
        count = round(images_left * len(records) / left) if left else 0
        left, images_left = left - len(records), images_left - count
        chosen = _choose(records, count, per_class, rng)
        splits[name] = [records[i] for i in sorted(chosen)]
    return dataclasses.replace(
        content, splits={name: records for name, records in splits.items() if records}
    )


def _choose(
    records: Sequence[Record], count: int, per_class: int, rng: np.random.Generator
) -> set[int]:
    order = rng.permutation(len(records)).tolist()
    chosen: set[int] = set()
    seen: Counter[int] = Counter()
    for i in order:
        classes = set(_classes_of(records[i]))
        if len(chosen) < count and any(seen[number] < per_class for number in classes):
            chosen.add(i)
            seen.update(classes)
    for i in order:
        if len(chosen) >= count:
            break
        chosen.add(i)
    return chosen


def _classes_of(record: Record) -> list[int]:
    return [int(annotation["category_id"]) for annotation in record["annotations"]]
