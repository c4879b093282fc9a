"""Data loaders: from the names of datasets to batches.

This stays one module: programs replace its functions (``detectron2.data.build.X = mine``), and
they call each other by their global names so that a replacement is seen.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import data as torchdata
from torch.utils.data.sampler import Sampler

from detectron2.config import configurable
from detectron2.data._class_histogram import print_instances_class_histogram
from detectron2.data._loader_worker import follow_parent, worker_init_reset_seed
from detectron2.data._loaders_from_config import test_loader_arguments, train_loader_arguments
from detectron2.data._loading_order import has_its_own_order, in_order
from detectron2.data._record_selection import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    load_proposals_into_dataset,
)
from detectron2.data._train_samplers import TRAIN_SAMPLERS
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.quarantine import Quarantine
from detectron2.data.samplers import (
    InferenceSampler,
    TrainingSampler,
)
from detectron2.data.stream import StreamLoader
from detectron2.structures import BoxMode
from detectron2.utils.comm import get_world_size

# BoxMode: downstream code imports it from here.
__all__ = [
    "TRAIN_SAMPLERS",
    "BoxMode",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "check_metadata_consistency",
    "filter_images_with_few_keypoints",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "load_proposals_into_dataset",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
    *,
    check: str = "",
    check_against: Sequence[str] = (),
    check_output: str | None = None,
) -> Any:
    """Load datasets by name and join their records.

    Args:
        names: one or several names in the `DatasetCatalog`.
        filter_empty: leave out images without annotations (other than crowds).
        min_keypoints: leave out images with fewer labelled keypoints.
        proposal_files: one file of precomputed proposals for each dataset.
        check_consistency: whether the datasets must have the same classes.
        check: look at every image and annotation first: "report" logs what is wrong, "fail"
            raises, "skip" leaves it out, "fix" mends it; "" checks nothing. See
            `detectron2.data.check.load_checked`.
        check_against: names of datasets that should share no image with these.
        check_output: folder for the reports of the check.

    Returns:
        A list of records. If the datasets are ``torch.utils.data.Dataset`` objects instead of
        lists, the dataset, or a ``ConcatDataset`` of several.

    Raises:
        AssertionError: no names, or not one proposal file for each.
        ValueError: no image is left, or the classes differ.
    """
    if isinstance(names, str):
        names = [names]
    if len(names) == 0:
        raise AssertionError(
            "No dataset is named; set DATASETS.TRAIN (or DATASETS.TEST) to names of the catalog."
        )
    loaded = _load_datasets(names, check, check_against, check_output)
    if isinstance(loaded[0], torchdata.Dataset):
        return loaded[0] if len(loaded) == 1 else torchdata.ConcatDataset(loaded)
    if proposal_files is not None:
        loaded = _with_proposals(loaded, proposal_files)
    dataset_dicts = list(itertools.chain.from_iterable(loaded))
    if "annotations" not in dataset_dicts[0]:
        return dataset_dicts
    if filter_empty:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if min_keypoints > 0:
        dataset_dicts = filter_images_with_few_keypoints(dataset_dicts, min_keypoints)
    if not dataset_dicts:
        raise ValueError(
            f"No image of {', '.join(map(_described, names))} has usable annotations, so none is "
            "left to use. Check the annotations, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS "
            "(filter_empty) to False."
        )
    if check_consistency:
        _check_classes(dataset_dicts, names)
    return dataset_dicts


def _load_datasets(
    names: Sequence[str], check: str, check_against: Sequence[str], check_output: str | None
) -> list[Any]:
    """Records of each dataset, or torch datasets where that is what the first loader returns.

    Raises:
        ValueError: a list of records is empty.
    """
    if check:
        from detectron2.data.check import load_checked

        loaded = [
            load_checked(name, check, against=check_against, output_dir=check_output)
            for name in names
        ]
    else:
        loaded = [DatasetCatalog.get(name) for name in names]
    for name, records in zip(names, loaded):
        if not isinstance(loaded[0], torchdata.Dataset) and len(records) == 0:
            raise ValueError(
                f"The dataset {_described(name)} has no images. Check the annotation file and the "
                "image folder that it was registered with."
            )
    return loaded


def _described(name: str) -> str:
    """A dataset's name, with its file where that is known."""
    file = MetadataCatalog.get(name).get("json_file")
    return repr(name) if file is None else f"{name!r} ({file})"


def _with_proposals(loaded: Sequence[Sequence[Record]], proposal_files: Sequence[str]) -> list[Any]:
    if len(loaded) != len(proposal_files):
        raise AssertionError(
            f"{len(loaded)} datasets need as many proposal files, got {len(proposal_files)}."
        )
    return [
        load_proposals_into_dataset(records, file) for records, file in zip(loaded, proposal_files)
    ]


def _check_classes(dataset_dicts: Sequence[Record], names: Sequence[str]) -> None:
    if any(MetadataCatalog.get(name).get("thing_classes") is None for name in names):
        return
    check_metadata_consistency("thing_classes", names)
    print_instances_class_histogram(dataset_dicts, MetadataCatalog.get(names[0]).thing_classes)


def build_batch_data_loader(
    dataset: Any,
    sampler: Sampler[int] | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Batches of a dataset, for this process of a distributed program.

    Args:
        dataset: with indices, or iterable.
        sampler: indices; None for an iterable dataset.
        total_batch_size: over all processes, unless `single_gpu_batch_size` is given.
        aspect_ratio_grouping: batches of landscapes and of portraits; elements need "width" and
            "height".
        num_workers: data loading processes of this process.
        collate_fn: from a list of elements to a batch; None leaves the list.
        drop_last: drop the last batch if it is not full. Grouped batches are always full.
        single_gpu_batch_size: batch size of this process, instead of its share of the total.
        prefetch_factor: batches that each worker loads ahead.
        persistent_workers: keep workers alive between iterations over the loader.
        pin_memory: copy tensors to page-locked memory, from which GPUs copy faster.
        seed: of the workers and of what the samples are changed by; None draws one.
        **kwargs: passed to ``torch.utils.data.DataLoader``.

    Raises:
        ValueError: the batch size is not a positive multiple of the number of processes, or a
            sampler is given with an iterable dataset.
    """
    batch_size = _batch_size_per_process(total_batch_size, single_gpu_batch_size)
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    # Workers take turns: with these chunks the order does not depend on their number.
    chunk_size = 1 if aspect_ratio_grouping else batch_size
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    make_loader = functools.partial(
        StreamLoader,
        in_order(dataset, sampler, chunk_size, seed),
        num_workers=num_workers,
        worker_init_fn=worker_init_reset_seed,
        # Without workers there is nothing to prefetch, and PyTorch rejects the argument.
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        persistent_workers=persistent_workers and num_workers > 0,
        pin_memory=pin_memory,
        generator=generator,
        **kwargs,
    )
    if aspect_ratio_grouping:
        # One element at a time: batches are put together from what all workers deliver.
        elements = make_loader(collate_fn=operator.itemgetter(0), batch_size=1, drop_last=False)
        batches = AspectRatioGroupedDataset(elements, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    return make_loader(
        batch_size=batch_size,
        drop_last=drop_last,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def _batch_size_per_process(total_batch_size: int, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError(
                f"total_batch_size={total_batch_size} and single_gpu_batch_size="
                f"{single_gpu_batch_size} say the same thing twice; set one of them to 0 or None."
            )
        return single_gpu_batch_size
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise ValueError(
            f"The total batch size is {total_batch_size} (SOLVER.IMS_PER_BATCH); it must be a "
            f"positive multiple of the number of processes, which is {world_size}."
        )
    return total_batch_size // world_size


def _train_loader_from_config(
    cfg: Any,
    mapper: Callable[[Any], Any] | None = None,
    *,
    dataset: Any = None,
    sampler: Sampler[int] | None = None,
) -> dict[str, Any]:
    return train_loader_arguments(cfg, get_detection_dataset_dicts, mapper, dataset, sampler)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler[int] | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    unreadable_budget: int | None = None,
    unreadable_list: str | None = None,
    **kwargs: Any,
) -> Any:
    """An endless loader of training batches; also called with a yacs config.

    Args:
        dataset: a list of records, a dataset with indices, or an iterable dataset.
        mapper: from a record to what the model takes; None for a dataset that is mapped already.
            An element for which it returns None is replaced by another.
        sampler: indices in the order of use, without end; None means `TrainingSampler`. An
            iterable dataset must not have one.
        total_batch_size: over all processes.
        aspect_ratio_grouping: batches of landscapes and of portraits.
        num_workers: data loading processes of each process.
        collate_fn: from a list of elements to a batch; None leaves the list.
        unreadable_budget: how many samples may turn out unreadable before training stops; each is
            logged and replaced by another. None means 10 % of the dataset and at least 10; 0 stops
            at the first.
        unreadable_list: file to which a line of JSON is added for each of them.
        **kwargs: passed to `build_batch_data_loader`.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    iterable = has_its_own_order(dataset, sampler)
    if not iterable and hasattr(mapper, "use_dataset"):
        mapper.use_dataset(dataset)
    if mapper is not None:
        size = 0 if iterable else len(dataset)
        quarantine = Quarantine(size, unreadable_budget, unreadable_list)
        dataset = MapDataset(dataset, mapper, quarantine=quarantine)
    if not iterable and sampler is None:
        sampler = TrainingSampler(len(dataset))
    if not iterable and not isinstance(sampler, Sampler):
        raise TypeError(
            f"sampler must be a torch.utils.data.Sampler, got {type(sampler).__name__}."
        )
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    return test_loader_arguments(cfg, get_detection_dataset_dicts, dataset_name, mapper)


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler[int] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader that goes once over a dataset, in its order; also called with a yacs config.

    Errors of unreadable images pass: a score of a part of the dataset would be wrong.

    Args:
        dataset: a list of records, a dataset with indices, or an iterable dataset.
        mapper: from a record to what the model takes; None for a dataset that is mapped already.
        sampler: indices; None means `InferenceSampler`, which splits the dataset over processes.
            An iterable dataset must not have one.
        batch_size: of this process.
        num_workers: data loading processes of each process.
        collate_fn: from a list of elements to a batch; None leaves the list.

    .. code-block:: python

        loader = build_detection_test_loader(cfg, "my_test")
        loader = build_detection_test_loader(
            get_detection_dataset_dicts("my_test", filter_empty=False),
            mapper=DatasetMapper(cfg, is_train=False),
        )
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if not has_its_own_order(dataset, sampler) and sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        worker_init_fn=follow_parent,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """The batch as it is: a list. Models put images of different sizes together themselves."""
    return batch
