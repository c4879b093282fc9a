"""The builtin datasets: names are known at once, files are looked for when they are used.

They lie under ``$DETECTRON2_DATASETS`` (default: ``./datasets``). This registers the datasets of
the model zoo; register your own in your own code.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets._builtin_splits import (
    _OFFERED_SPLITS_LVIS,
    _PREDEFINED_SPLITS_ADE20K,
    _PREDEFINED_SPLITS_COCO,
    _PREDEFINED_SPLITS_COCO_PANOPTIC,
    _PREDEFINED_SPLITS_LVIS,
    _PREDEFINED_SPLITS_VOC,
    _RAW_CITYSCAPES_SPLITS,
)
from detectron2.data.datasets._root import under
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.cityscapes import (
    load_cityscapes_instances,
    load_cityscapes_semantic,
)
from detectron2.data.datasets.cityscapes_panoptic import register_all_cityscapes_panoptic
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg, register_coco_instances
from detectron2.data.datasets.coco_panoptic import (
    load_coco_panoptic_json,
    merge_to_panoptic,
    register_coco_panoptic,
    register_coco_panoptic_separated,
)
from detectron2.data.datasets.lvis import (
    get_lvis_instances_meta,
    load_lvis_json,
    register_lvis_instances,
)
from detectron2.data.datasets.pascal_voc import (
    CLASS_NAMES,
    load_voc_instances,
    register_pascal_voc,
)

# Besides the functions of this module, those that downstream code imports from here.
__all__ = [
    "DatasetCatalog",
    "MetadataCatalog",
    "_PREDEFINED_SPLITS_ADE20K",
    "_PREDEFINED_SPLITS_COCO",
    "_PREDEFINED_SPLITS_COCO_PANOPTIC",
    "_PREDEFINED_SPLITS_LVIS",
    "_PREDEFINED_SPLITS_VOC",
    "_RAW_CITYSCAPES_SPLITS",
    "_get_builtin_metadata",
    "get_lvis_instances_meta",
    "load_cityscapes_instances",
    "load_cityscapes_semantic",
    "load_sem_seg",
    "register_all_ade20k",
    "register_all_cityscapes",
    "register_all_cityscapes_panoptic",
    "register_all_coco",
    "register_all_lvis",
    "register_all_pascal_voc",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_coco_panoptic_separated",
    "register_lvis_instances",
    "register_pascal_voc",
]

Metadata = dict[str, Any]


def _register(
    name: str, load: Callable[[], list[dict[str, Any]]], metadata: Callable[[], Metadata]
) -> None:
    """Make a dataset known without touching its files or working out its metadata."""
    DatasetCatalog.register(name, load)
    MetadataCatalog.defer(name, metadata)


def _offer(
    name: str, load: Callable[[], list[dict[str, Any]]], metadata: Callable[[], Metadata]
) -> None:
    """`_register` for a name that is not listed until it is used."""
    DatasetCatalog.offer(name, load)
    MetadataCatalog.offer(name, metadata)


def _on_demand(function: Callable[..., Any], root: str | None, *paths: str) -> Callable[..., Any]:
    """`function` of the paths below `root`, which is looked up when the result is called."""

    @functools.wraps(function)
    def call(**kwargs: Any) -> Any:
        return function(*(under(root, path) for path in paths), **kwargs)

    return call


def register_all_coco(root: str | None = None) -> None:
    """Register COCO detection, keypoints and panoptic segmentation.

    Args:
        root: folder that holds "coco"; None means ``DETECTRON2_DATASETS`` when used.
    """
    for family, splits in _PREDEFINED_SPLITS_COCO.items():
        for name, (images, json_file) in splits.items():
            _register(
                name,
                functools.partial(
                    _on_demand(load_coco_json, root, json_file, images), dataset_name=name
                ),
                functools.partial(
                    _on_demand(_coco_metadata, root, json_file, images), family=family
                ),
            )
    for name, panoptic in _PREDEFINED_SPLITS_COCO_PANOPTIC.items():
        instances = _PREDEFINED_SPLITS_COCO["coco"][name.removesuffix("_panoptic")]
        _register_coco_panoptic(root, name, (*instances, *panoptic))


def _register_coco_panoptic(
    root: str | None, name: str, paths: tuple[str, str, str, str, str]
) -> None:
    """The three views: panoptic, instances and stuff apart, stuff only."""
    _register(
        name,
        _on_demand(_load_panoptic, root, *paths),
        _on_demand(_panoptic_metadata, root, *paths),
    )
    separated = name + "_separated"
    _register(
        separated,
        functools.partial(_on_demand(_load_separated, root, *paths), name=separated),
        _on_demand(_separated_metadata, root, *paths),
    )
    images, _, _, _, labels = paths
    _register(
        name + "_stuffonly",
        _on_demand(load_sem_seg, root, labels, images),
        _on_demand(_stuff_metadata, root, labels, images),
    )


def _coco_metadata(annotations: str, images: str, family: str) -> Metadata:
    return {
        "json_file": annotations,
        "image_root": images,
        "evaluator_type": "coco",
        **_get_builtin_metadata(family),
    }


def _load_panoptic(
    images: str, _instances: str, labels: str, annotations: str, _stuff: str
) -> list[dict[str, Any]]:
    meta = _get_builtin_metadata("coco_panoptic_standard")
    return load_coco_panoptic_json(annotations, images, labels, meta)


def _panoptic_metadata(
    images: str, instances: str, labels: str, annotations: str, _stuff: str
) -> Metadata:
    return {
        "panoptic_root": labels,
        "image_root": images,
        "panoptic_json": annotations,
        "json_file": instances,
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        **_get_builtin_metadata("coco_panoptic_standard"),
    }


def _load_separated(
    images: str, instances: str, _labels: str, _annotations: str, stuff: str, name: str
) -> list[dict[str, Any]]:
    return merge_to_panoptic(load_coco_json(instances, images, name), load_sem_seg(stuff, images))


def _separated_metadata(
    images: str, instances: str, labels: str, annotations: str, stuff: str
) -> Metadata:
    return {
        "panoptic_root": labels,
        "image_root": images,
        "panoptic_json": annotations,
        "sem_seg_root": stuff,
        "json_file": instances,
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        **_get_builtin_metadata("coco_panoptic_separated"),
    }


def _stuff_metadata(labels: str, images: str) -> Metadata:
    return {
        "sem_seg_root": labels,
        "image_root": images,
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
        **_get_builtin_metadata("coco_panoptic_separated"),
    }


def register_all_lvis(root: str | None = None) -> None:
    """Register LVIS v0.5 and v1.

    Args:
        root: folder that holds "coco" and "lvis"; None means ``DETECTRON2_DATASETS`` when used.
    """
    _register_lvis(root, _PREDEFINED_SPLITS_LVIS, _register)
    _register_lvis(root, _OFFERED_SPLITS_LVIS, _offer)


def _register_lvis(
    root: str | None,
    families: dict[str, dict[str, tuple[str, str]]],
    register: Callable[..., None],
) -> None:
    for family, splits in families.items():
        for name, (images, json_file) in splits.items():
            register(
                name,
                functools.partial(
                    _on_demand(load_lvis_json, root, json_file, images), dataset_name=name
                ),
                functools.partial(
                    _on_demand(_lvis_metadata, root, json_file, images), family=family
                ),
            )


def _lvis_metadata(annotations: str, images: str, family: str) -> Metadata:
    return {
        "json_file": annotations,
        "image_root": images,
        "evaluator_type": "lvis",
        **get_lvis_instances_meta(family),
    }


def register_all_cityscapes(root: str | None = None) -> None:
    """Register instance and semantic segmentation of Cityscapes.

    Args:
        root: folder that holds "cityscapes"; None means ``DETECTRON2_DATASETS`` when used.
    """
    for key, paths in _RAW_CITYSCAPES_SPLITS.items():
        _register(
            key.format(task="instance_seg"),
            functools.partial(
                _on_demand(load_cityscapes_instances, root, *paths),
                from_json=True,
                to_polygons=True,
            ),
            functools.partial(
                _on_demand(_cityscapes_metadata, root, *paths),
                evaluator_type="cityscapes_instance",
            ),
        )
        _register(
            key.format(task="sem_seg"),
            _on_demand(load_cityscapes_semantic, root, *paths),
            functools.partial(
                _on_demand(_cityscapes_metadata, root, *paths),
                evaluator_type="cityscapes_sem_seg",
                ignore_label=255,
            ),
        )


def _cityscapes_metadata(image_dir: str, gt_dir: str, **entries: Any) -> Metadata:
    return {
        "image_dir": image_dir,
        "gt_dir": gt_dir,
        **entries,
        **_get_builtin_metadata("cityscapes"),
    }


def register_all_pascal_voc(root: str | None = None) -> None:
    """Register PASCAL VOC 2007 and 2012.

    Args:
        root: folder that holds "VOC2007" and "VOC2012"; None means ``DETECTRON2_DATASETS``.
    """
    for name, (folder, split) in _PREDEFINED_SPLITS_VOC.items():
        _register(
            name,
            functools.partial(
                _on_demand(load_voc_instances, root, folder), split=split, class_names=CLASS_NAMES
            ),
            functools.partial(
                _on_demand(_voc_metadata, root, folder), split=split, year=int(folder[-4:])
            ),
        )


def _voc_metadata(dirname: str, split: str, year: int) -> Metadata:
    return {
        "thing_classes": list(CLASS_NAMES),
        "dirname": dirname,
        "year": year,
        "split": split,
        "evaluator_type": "pascal_voc",
    }


def register_all_ade20k(root: str | None = None) -> None:
    """Register semantic segmentation of the ADE20K scene parsing benchmark.

    Args:
        root: folder that holds "ADEChallengeData2016"; None means ``DETECTRON2_DATASETS``.
    """
    for name, split in _PREDEFINED_SPLITS_ADE20K.items():
        images = os.path.join("ADEChallengeData2016", "images", split)
        labels = os.path.join("ADEChallengeData2016", "annotations_detectron2", split)
        _register(
            name,
            functools.partial(
                _on_demand(load_sem_seg, root, labels, images), gt_ext="png", image_ext="jpg"
            ),
            _on_demand(_ade20k_metadata, root, labels, images),
        )


def _ade20k_metadata(labels: str, images: str) -> Metadata:
    return {
        "image_root": images,
        "sem_seg_root": labels,
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
        **_get_builtin_metadata("ade20k_sem_seg"),
    }


register_all_coco()
register_all_lvis()
register_all_cityscapes()
register_all_cityscapes_panoptic()
register_all_pascal_voc()
register_all_ade20k()
