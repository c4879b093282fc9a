"""What a config says about data loaders.

The functions of `detectron2.data.build` are looked up there when they are needed: programs replace
them.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils import data as torchdata
from torch.utils.data.sampler import Sampler

from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import TEST_LOADER, TRAIN_DATASET, TRAIN_LOADER
from detectron2.data._train_samplers import build_train_sampler
from detectron2.data.common import DatasetFromList
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.quarantine import LIST_FILE
from detectron2.data.reduced_decode import ReducedDecodeMapper
from detectron2.data.rotated_mapper import RotatedDatasetMapper
from detectron2.data.samplers import InferenceSampler
from detectron2.data.shared_list import list_container, load_once_per_machine
from detectron2.data.sharing import share_with_later_ranks
from detectron2.utils.logger import _log_api_usage

__all__ = ["test_loader_arguments", "train_loader_arguments", "train_mapper"]

logger = logging.getLogger("detectron2.data.build")  # the address under which this is public


def train_loader_arguments(
    cfg: Any,
    read: Callable[..., Any],
    mapper: Callable[[Any], Any] | None,
    dataset: Any,
    sampler: Sampler[int] | None,
) -> dict[str, Any]:
    """Arguments of `build_detection_train_loader` that a config says.

    Args:
        read: `get_detection_dataset_dicts`, or what a program has put in its place.
    """
    if dataset is None:
        keypoint_on = lookup(cfg, "MODEL.KEYPOINT_ON")
        arguments = read_arguments(cfg, TRAIN_DATASET)
        load = functools.partial(
            read,
            **arguments,
            min_keypoints=(
                lookup(cfg, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE") if keypoint_on else 0
            ),
            proposal_files=(
                lookup(cfg, "DATASETS.PROPOSAL_FILES_TRAIN")
                if lookup(cfg, "MODEL.LOAD_PROPOSALS")
                else None
            ),
            check_against=lookup(cfg, "DATASETS.TEST"),
            check_output=lookup(cfg, "OUTPUT_DIR"),
        )
        names = arguments["names"]
        dataset = load_once_per_machine(load, [names] if isinstance(names, str) else names)
        _log_api_usage("dataset." + lookup(cfg, "DATASETS.TRAIN")[0])
    if mapper is None:
        mapper = train_mapper(cfg)
    if sampler is None:
        name = lookup(cfg, "DATALOADER.SAMPLER_TRAIN")
        if isinstance(dataset, torchdata.IterableDataset):
            logger.info("The dataset is iterable; DATALOADER.SAMPLER_TRAIN=%s is not used.", name)
        else:
            sampler = build_train_sampler(cfg, name, dataset)
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False, serialize=list_container())
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
        "unreadable_list": os.path.join(lookup(cfg, "OUTPUT_DIR"), LIST_FILE),
        **read_arguments(cfg, TRAIN_LOADER),
    }


def train_mapper(cfg: Any) -> DatasetMapper:
    """The mapper that a config asks for."""
    rotated = lookup(cfg, "MODEL.PROPOSAL_GENERATOR.NAME") == "RRPN"
    reduced = lookup(cfg, "INPUT.REDUCED_DECODE")
    if rotated:
        return RotatedDatasetMapper(cfg, True)
    return ReducedDecodeMapper(cfg, True) if reduced else DatasetMapper(cfg, True)


def test_loader_arguments(
    cfg: Any,
    read: Callable[..., Any],
    dataset_name: str | Sequence[str],
    mapper: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """Arguments of `build_detection_test_loader` that a config says; `read` as above."""
    if isinstance(dataset_name, str):
        dataset_name = [dataset_name]
    proposal_files = None
    if lookup(cfg, "MODEL.LOAD_PROPOSALS"):
        file_of = dict(
            zip(lookup(cfg, "DATASETS.TEST"), lookup(cfg, "DATASETS.PROPOSAL_FILES_TEST"))
        )
        proposal_files = [file_of[name] for name in dataset_name]
    load = functools.partial(read, filter_empty=False, proposal_files=proposal_files)
    # Not all ranks need come here: one may want to look at some images.
    dataset = share_with_later_ranks(lambda: load(dataset_name), dataset_name)
    if mapper is None:
        mapper = DatasetMapper(cfg, False)
    sampler = None
    if not isinstance(dataset, torchdata.IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return {
        "dataset": dataset,
        "mapper": mapper,
        "sampler": sampler,
        **read_arguments(cfg, TEST_LOADER),
    }
