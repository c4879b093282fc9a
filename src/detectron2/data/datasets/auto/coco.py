"""COCO: JSON files with "images", "annotations" and "categories", in the usual folder layouts."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data.datasets.auto.folder import (
    ALL,
    FolderDataset,
    Record,
    json_files,
    keypoint_metadata,
    split_of,
)
from detectron2.data.datasets.auto.nodes import Node, read_json
from detectron2.data.datasets.coco import load_coco_json

__all__ = ["LOOKED_FOR", "dataset_of_files", "find", "find_unchecked"]

LOOKED_FOR = (
    "COCO: a .json file with 'images', 'annotations' and 'categories', here, in annotations/ or "
    "in train/, val/, test/"
)

# Of several files of one split the first of these is meant: COCO ships all of them.
_PREFERENCE = ("instances", "person_keypoints", "keypoints", "")


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with COCO files."""
    files = _files(folder)
    return dataset_of_files(folder, files) if files else None


def find_unchecked(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split to annotation file and image folder, whatever is wrong with the entries.

    Raises:
        ValueError: several files seem to hold the same split.
    """
    found = {}
    for split, path in _files(folder).items():
        try:
            root = _image_root(read_json(path), path, folder, split)
        except ValueError:
            root = folder
        found[split] = path, root
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Split to annotation file."""
    files: dict[str, list[Path]] = {}
    for path, split in json_files(folder):
        if _is_instance_file(path):
            files.setdefault(split or split_of(path.stem) or ALL, []).append(path)
    if ALL in files and len(files) > 1:
        # A file of the whole beside its parts.
        del files[ALL]
    return {split: _preferred(paths) for split, paths in files.items()}


def dataset_of_files(
    folder: Path, files: Mapping[str, Path], image_root: Path | None = None
) -> FolderDataset:
    """The dataset of one COCO file per split.

    Args:
        folder: where images are looked for.
        files: split to JSON file.
        image_root: folder of the images, if it is known.

    Raises:
        ValueError: a file is not in COCO's format, or its images are not to be found.
    """
    parts = {split: _part(folder, split, path, image_root) for split, path in files.items()}
    # Classes of all splits; the order of ids of the first split comes first.
    classes = list(
        dict.fromkeys(name for part in parts.values() for name in part.categories.values())
    )
    if not classes:
        raise ValueError(f"{str(next(iter(files.values())))!r} lists no categories.")
    agree = len({tuple(part.categories.items()) for part in parts.values()}) == 1
    split_metadata: dict[str, dict[str, Any]] = {}
    splits = {}
    for split, part in parts.items():
        id_map = {i: classes.index(name) for i, name in part.categories.items()}
        split_metadata[split] = {
            "image_root": str(part.image_root),
            "thing_dataset_id_to_contiguous_id": id_map,
        }
        if agree:
            split_metadata[split]["json_file"] = str(part.path)
        splits[split] = functools.partial(_read, part.path, part.image_root, id_map)
    different = "The files of the splits list different categories; classes go by name."
    return FolderDataset(
        folder=folder,
        format="COCO",
        classes=classes,
        splits=splits,
        metadata=next((part.metadata for part in parts.values() if part.metadata), {}),
        split_metadata=split_metadata,
        notes=[] if agree else [different],
        rotated=any(part.rotated for part in parts.values()),
    )


class _Part(NamedTuple):
    """What one COCO file says; categories by their ids."""

    path: Path
    image_root: Path
    categories: dict[Any, str]
    metadata: dict[str, Any]
    rotated: bool


def _part(folder: Path, split: str, path: Path, image_root: Path | None) -> _Part:
    content = read_json(path)
    try:
        _check(content)
    except ValueError as e:
        raise ValueError(
            f"{e} `detectron2 dataset check {folder}` lists everything that is wrong."
        ) from e
    root = image_root or _image_root(content, path, folder, split)
    return _Part(path, root, _categories(content), _keypoints(content), _is_rotated(content))


def _is_instance_file(path: Path) -> bool:
    """COCO files of captions, panoptic segmentation and image lists hold no boxes."""
    try:
        content = read_json(path)
    except ValueError:
        return False
    entries = content.value if isinstance(content.value, dict) else {}
    annotations = entries.get("annotations")
    if not isinstance(entries.get("images"), list) or not isinstance(annotations, list):
        return False
    # One of them may be broken; a hundred are not.
    return not annotations or any(isinstance(a, dict) and "bbox" in a for a in annotations[:100])


def _preferred(paths: Sequence[Path]) -> Path:
    for prefix in _PREFERENCE:
        matching = [path for path in paths if path.stem.startswith(prefix)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            break
    raise ValueError(
        f"{len(paths)} COCO files seem to hold the same split: "
        f"{', '.join(str(path) for path in paths[:4])}. Name the one that is meant instead of the "
        "folder."
    )


def _categories(content: Node) -> dict[Any, str]:
    listed = content.get("categories")
    if listed is None:
        raise content.fail("has no 'categories'.")
    found = {row["id"].integer(): row["name"].label() for row in listed.elements()}
    if len(found) != len(list(listed.elements())):
        raise listed.fail("repeats an id.")
    if len(set(found.values())) != len(found):
        raise listed.fail("repeats a name.")
    return dict(sorted(found.items()))


def _keypoints(content: Node) -> dict[str, Any]:
    for row in content["categories"].elements():
        names = row.get("keypoints")
        if names is not None:
            return keypoint_metadata([name.label() for name in names.elements()])
    return {}


def _is_rotated(content: Node) -> bool:
    first = next(iter(content["annotations"].elements()), None)
    return first is not None and len(first["bbox"].value) == 5


def _image_root(content: Node, path: Path, folder: Path, split: str) -> Path:
    """The folder to which the file names of the images are relative."""
    images = content["images"].elements()
    names = [image["file_name"].text() for image in itertools.islice(images, 3)]
    if not names:
        return folder
    parts = path.stem.split("_")
    candidates = [path.parent, folder, folder / "images", folder / parts[-1]]
    candidates += [below / split for below in (folder, folder / "images")]
    candidates += sorted(below for below in folder.iterdir() if below.is_dir())
    candidates += sorted(below for below in (folder / "images").glob("*") if below.is_dir())
    # One image may be missing; three in a row are not.
    for root in candidates:
        if any(os.path.isfile(root / name) for name in names):
            return root
    looked = ", ".join(dict.fromkeys(str(root) for root in candidates[:6]))
    raise ValueError(
        f"The images of {str(path)!r}, such as {names[0]!r}, are not to be found; looked for "
        f"below {looked}. Name the file and the image folder instead."
    )


def _check(content: Node) -> None:
    """Types of all entries that are read; `load_coco_json` relies on them.

    Raises:
        ValueError: something is missing or of another kind.
    """
    content.mapping()
    image_ids = set()
    for image in content["images"].elements():
        image["file_name"].text()
        for side in ("width", "height"):
            if image[side].integer() <= 0:
                raise image.fail(f"has {side} {image[side].value}.")
        image_ids.add(image["id"].identity())
    if len(image_ids) != len(content["images"].value):
        raise content["images"].fail("repeats an id.")
    if len({type(i) for i in image_ids}) > 1:
        raise content["images"].fail("has numbers as ids, and texts.")
    ids = set()
    for annotation in content["annotations"].elements():
        _check_annotation(annotation)
        annotation["image_id"].identity()
        ids.add(annotation["id"].identity() if "id" in annotation else len(ids))
    if len(ids) != len(content["annotations"].value):
        raise content["annotations"].fail("repeats an id; number them 1, 2, ...")


def _check_annotation(annotation: Node) -> None:
    annotation["category_id"].integer()
    box = annotation["bbox"].numbers()
    if len(box) not in (4, 5):
        raise annotation["bbox"].fail(f"has {len(box)} numbers; it must be [x, y, width, height].")
    segmentation = annotation.get("segmentation")
    if segmentation is not None and isinstance(segmentation.value, dict):
        _check_run_lengths(segmentation)
    elif segmentation is not None:
        for polygon in segmentation.elements():
            polygon.numbers()
    keypoints = annotation.get("keypoints")
    if keypoints is not None and len(keypoints.numbers()) % 3:
        raise keypoints.fail("has a length that is no multiple of three (x, y, visibility).")


def _check_run_lengths(rle: Node) -> None:
    if len(rle["size"].numbers()) != 2:
        raise rle["size"].fail("must be [height, width].")
    if not isinstance(rle["counts"].value, str):
        rle["counts"].numbers()


def _read(path: Path, image_root: Path, id_map: Mapping[Any, int]) -> list[Record]:
    records = load_coco_json(str(path), str(image_root))
    for record in records:
        for annotation in record["annotations"]:
            category = annotation["category_id"]
            if category not in id_map:
                raise ValueError(
                    f"An annotation of image {record['image_id']} in {str(path)!r} has "
                    f"category_id {category}, which is not among the file's categories."
                )
            annotation["category_id"] = id_map[category]
    return records
