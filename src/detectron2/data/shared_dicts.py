"""Records of datasets that the ranks of a machine read once: what lazy configs load.

The reader is looked up in `detectron2.data.build` at each call, where programs replace it.
"""

import functools
from collections.abc import Sequence
from typing import Any

from detectron2.data import build
from detectron2.data.shared_list import load_once_per_machine
from detectron2.data.sharing import share_with_later_ranks

__all__ = ["shared_detection_dicts", "shared_test_dicts"]


def shared_detection_dicts(names: str | Sequence[str], **options: Any) -> Any:
    """`get_detection_dataset_dicts`, called by one rank of this machine for all of them."""
    load = functools.partial(build.get_detection_dataset_dicts, names, **options)
    return load_once_per_machine(load, [names] if isinstance(names, str) else names)


def shared_test_dicts(names: str | Sequence[str], **options: Any) -> Any:
    """`get_detection_dataset_dicts`, read by the first rank of this machine that calls it."""
    load = functools.partial(build.get_detection_dataset_dicts, names, **options)
    return share_with_later_ranks(load, [names] if isinstance(names, str) else names)
