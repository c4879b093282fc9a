"""Datasets in COCO's JSON format, and folders of images and label maps."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data._read_once import parsed
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets._coco_reading import (
    AnnotationReader,
    category_ids,
    group_by_image,
)
from detectron2.data.datasets._coco_writing import to_coco_annotation
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_text

__all__ = [
    "CocoFile",
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "load_sem_seg",
    "read_coco_content",
    "records_of_coco",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[Record]:
    """Records of a file in COCO's instance format: boxes, polygons, run lengths, keypoints.

    Args:
        json_file: the annotations.
        image_root: folder that the "file_name" of images is relative to.
        dataset_name: if given, category ids become 0, 1, ... in the order of the ids in the file,
            and "thing_classes" and "thing_dataset_id_to_contiguous_id" of its metadata are set.
            Without it the ids stay.
        extra_annotation_keys: entries of annotations to keep besides "iscrowd", "bbox",
            "keypoints", "category_id" and "segmentation".

    Returns:
        One record per image, by image id. Polygons of fewer than three points are left out, and
        annotations whose polygons are all of that kind; keypoints are moved by half a pixel,
        from pixel indices to coordinates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no COCO JSON, an entry lacks what the format asks for, or an annotation
            has an empty box.
        KeyError: an annotation's category is not among the file's categories.
        AssertionError: annotation ids repeat.
    """
    start = time.perf_counter()
    content = read_coco_content(json_file)
    records = records_of_coco(content, json_file, image_root, dataset_name, extra_annotation_keys)
    logger.info(
        "Loaded %d images in COCO format from %s in %.2f seconds.",
        len(records),
        json_file,
        time.perf_counter() - start,
    )
    return records


def records_of_coco(
    content: dict[str, Any],
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[Record]:
    """`load_coco_json` of a file that was read already; `json_file` is its name in messages."""
    try:
        return _records(content, json_file, image_root, dataset_name, extra_annotation_keys)
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        if str(json_file) in str(error):
            raise  # a sentence of ours
        # Looked for only now: a file that is in order should not be read twice.
        reason = _first_fault(content, json_file)
        if reason is None:
            raise
        raise ValueError(
            f"{reason} `detectron2 dataset check` lists everything that is wrong."
        ) from error


def _first_fault(content: dict[str, Any], json_file: str) -> str | None:
    """What makes a file unusable as a whole, as a sentence."""
    from detectron2.data.check.structure import check_lists, structural_problems

    try:
        check_lists({"categories": [], **content}, json_file)
    except ValueError as error:
        return str(error)
    problems = structural_problems({"categories": [], **content}, json_file)
    return next((p.reason for p in problems if p.kind.startswith("malformed")), None)


def _records(
    content: dict[str, Any],
    json_file: str,
    image_root: str,
    dataset_name: str | None,
    extra_annotation_keys: Sequence[str] | None,
) -> list[Record]:
    id_map = category_ids(content, json_file, dataset_name)
    images = sorted(content["images"], key=lambda image: image["id"])
    annotations_of = group_by_image(content.get("annotations", []), images, json_file)
    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    reader = AnnotationReader(json_file, keys, id_map)
    records = []
    for image in images:
        annotations = annotations_of.get(image["id"], [])
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [
                    usable for a in annotations if (usable := reader.read(a)) is not None
                ],
            }
        )
    reader.report()
    return records


def read_coco_content(json_file: str) -> dict[str, Any]:
    """What a COCO file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or no dictionary with "images".
    """
    try:
        content = parsed(json_file, lambda: _parse(json_file))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The annotation file {json_file!r} does not exist. For a builtin dataset set "
            "DETECTRON2_DATASETS to the folder that holds it; otherwise check the path that was "
            "registered."
        ) from None
    # ValueError: wrong syntax, wrong encoding, numbers of thousands of digits.
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{json_file!r} is no JSON file that can be read: {e}.") from e
    if not isinstance(content, dict) or "images" not in content:
        if isinstance(content, dict):
            found = ", ".join(map(str, list(content)[:10])) or "nothing"
        else:
            found = f"a {type(content).__name__}"
        raise ValueError(
            f"{json_file!r} is not in COCO's format: it must hold 'images', 'annotations' and "
            f"'categories', but it holds {found}."
        )
    return content


def _parse(json_file: str) -> Any:
    with PathManager.open(json_file, "r", encoding="utf-8") as stream:
        return json.load(stream)


def load_sem_seg(
    gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg"
) -> list[Record]:
    """Records of semantic segmentation: an image and a label map of the same name for each.

    Args:
        gt_root: folder of label maps.
        image_root: folder of images; files are matched by their path below the two folders.
        gt_ext: file extension of label maps.
        image_ext: file extension of images.

    Returns:
        Records with "file_name" and "sem_seg_file_name", by name. An image without label map, or
        the reverse, is left out with a warning.

    Raises:
        AssertionError: no label map was found.
    """
    images = _files_by_stem(image_root, image_ext)
    labels = _files_by_stem(gt_root, gt_ext)
    if not labels:
        raise AssertionError(
            f"There is no label map '*.{gt_ext}' in {gt_root!r}; check folder and extension."
        )
    both = sorted(images.keys() & labels.keys())
    if len(images) != len(labels) or len(both) != len(images):
        logger.warning(
            "%d images in %s and %d label maps in %s: the %d names that both have are used.",
            len(images),
            image_root,
            len(labels),
            gt_root,
            len(both),
        )
    logger.info("Loaded %d images with semantic segmentation from %s", len(both), image_root)
    return [{"file_name": images[stem], "sem_seg_file_name": labels[stem]} for stem in both]


def _files_by_stem(root: str, extension: str) -> dict[str, str]:
    """Path below `root` without extension -> path."""
    suffix = "." + extension
    if not PathManager.isdir(root):
        raise FileNotFoundError(f"The folder {root!r} does not exist.")
    names = [name for name in PathManager.ls(root) if name.endswith(suffix)]
    return {name[: -len(suffix)]: os.path.join(root, name) for name in names}


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """A registered dataset as the content of a COCO JSON file.

    Category ids are those of the dataset's files where its metadata know them
    ("thing_dataset_id_to_contiguous_id"), else class numbers. Boxes become [x, y, w, h], rotated
    boxes keep five numbers; keypoints become pixel indices.
    """
    metadata = MetadataCatalog.get(dataset_name)
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    file_id = {number: i for i, number in contiguous.items()} if contiguous is not None else {}
    categories = [
        {"id": file_id.get(number, number), "name": name}
        for number, name in enumerate(metadata.thing_classes)
    ]
    images, annotations = [], []
    for position, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", position)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for annotation in record.get("annotations", []):
            converted = to_coco_annotation(annotation)
            number = int(annotation["category_id"])
            converted.update(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=int(file_id.get(number, number)),
            )
            annotations.append(converted)
    logger.info("Converted %d images, %d annotations.", len(images), len(annotations))
    return {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": "Converted from the dataset format of Detectron2.",
        },
        "images": images,
        "categories": categories,
        "annotations": annotations,
        "licenses": None,
    }


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered dataset as a COCO JSON file, all of it or nothing.

    Args:
        dataset_name: in the catalogs; "thing_classes" must be known.
        output_file: a local path; its folder is created.
        allow_cached: leave a file that holds the same dataset as it is; one that holds another
            is written anew, with a warning.
    """
    logger.info("Converting the dataset %r to COCO format ...", dataset_name)
    content = convert_to_coco_dict(dataset_name)
    if allow_cached and os.path.exists(output_file):
        if _holds(output_file, content):
            logger.info("%s holds the dataset %r already.", output_file, dataset_name)
            return
        logger.warning(
            "%s holds another state of the dataset %r, or another dataset; writing it anew.",
            output_file,
            dataset_name,
        )
    # Processes that convert at the same time write the same; whoever comes last wins.
    atomic_write_text(output_file, json.dumps(content))


def _holds(path: str, content: dict[str, Any]) -> bool:
    """Whether a file has this content, whenever it was made."""
    try:
        with open(path, encoding="utf-8") as stream:
            old = json.load(stream)
    except (OSError, ValueError):
        return False
    # As it would be read: tuples are lists there.
    new = json.loads(json.dumps(content))
    return isinstance(old, dict) and {**old, "info": None} == {**new, "info": None}


@dataclass(frozen=True)
class CocoFile:
    """What the `DatasetCatalog` holds of a COCO file: calling it loads the records."""

    json_file: str
    image_root: str
    name: str

    def __call__(self) -> list[Record]:
        return load_coco_json(self.json_file, self.image_root, self.name)


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str
) -> None:
    """Register a dataset in COCO's JSON format for detection, segmentation or keypoints.

    Args:
        name: such as "my_train".
        metadata: entries to add to the dataset's metadata; {} for none. Class names come from
            the file.
        json_file: the annotations, read when the dataset is first used.
        image_root: folder of the images.

    Raises:
        TypeError: an argument is of the wrong type.
        AssertionError: the name is taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of a dataset must be a string, got {name!r}.")
    for argument, value in (("json_file", json_file), ("image_root", image_root)):
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{argument} of the dataset {name!r} must be a path, got {value!r}.")
    DatasetCatalog.register(name, CocoFile(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
