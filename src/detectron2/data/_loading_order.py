"""In which order the elements of a dataset are loaded."""

from __future__ import annotations

import random
from typing import Any

from torch.utils.data import IterableDataset

from detectron2.data.common import ToIterableDataset
from detectron2.utils.comm import get_rank

__all__ = ["has_its_own_order", "in_order"]


def in_order(dataset: Any, sampler: Any, chunk_size: int, seed: int | None) -> Any:
    """The elements of a dataset in the order of the sampler, as an iterable dataset.

    Args:
        chunk_size: consecutive elements that one worker loads.
        seed: of what the samples are changed by; None draws one.
    """
    if has_its_own_order(dataset, sampler):
        return dataset
    seed = random.getrandbits(31) if seed is None else seed + get_rank()
    return ToIterableDataset(dataset, sampler, shard_chunk_size=chunk_size, seed=seed)


def has_its_own_order(dataset: Any, sampler: Any) -> bool:
    """Whether a dataset is iterable.

    Raises:
        ValueError: it is, and there is a sampler as well.
    """
    is_iterable = isinstance(dataset, IterableDataset)
    if is_iterable and sampler is not None:
        raise ValueError("An iterable dataset has its own order; sampler must be None.")
    return is_iterable
