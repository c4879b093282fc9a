"""COCO panoptic segmentation: a JSON file of segments, and a folder of PNG files that draw them.

The things become objects with boxes and masks; stuff has neither, and is counted and left out: a
model takes it from label maps, files that a folder of this format does not have.
`write_stuff_maps` makes them, and `register_coco_panoptic_separated` registers both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data.datasets.auto.folder import (
    ALL,
    CLASS_NAME,
    FolderDataset,
    Notes,
    Record,
    json_files,
    named_dataset,
    split_of,
)
from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import Node, read_json
from detectron2.data.datasets.stuff_maps import segment_ids
from detectron2.structures import BoxMode

__all__ = ["LOOKED_FOR", "find"]

_STUFF = (
    "segments are stuff, which has no boxes, and are left out; "
    "detectron2.data.datasets.write_stuff_maps draws them for models of stuff"
)

LOOKED_FOR = (
    "COCO panoptic: a .json file with 'segments_info', here or in annotations/, and a folder of "
    "its PNG files"
)


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with a COCO panoptic file for each split."""
    files: dict[str, Path] = {}
    for path, split in json_files(folder):
        if _is_panoptic(path):
            files.setdefault(split or split_of(path.stem) or ALL, path)
    if not files:
        return None
    images = ImageFolder(folder)
    readers = {
        split: functools.partial(_read, path, images, split) for split, path in files.items()
    }
    return named_dataset(folder, "COCO panoptic", readers, images)


def _is_panoptic(path: Path) -> bool:
    try:
        content = read_json(path).value
    except ValueError:
        return False
    annotations = content.get("annotations") if isinstance(content, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "segments_info" in first


def _read(path: Path, images: ImageFolder, split: str, notes: Notes) -> Iterator[Record]:
    content = read_json(path)
    things = _things(content)
    names = {
        image["id"].identity(): image["file_name"].text() for image in _list(content, "images")
    }
    drawings = _drawing_folder(content, path, images)
    for annotation in content["annotations"].elements():
        drawn_as = annotation["file_name"].text()
        # The image is called like the drawing where the file does not list it.
        name = names.get(annotation["image_id"].identity(), Path(drawn_as).stem)
        image = _photo(name, images, split, drawings)
        record = None if image is None else images.record(image)
        if record is None:
            notes["images that the file lists do not exist or cannot be read; left out"] += 1
            continue
        segments = _segments(annotation, things, notes)
        record["annotations"] = list(_objects(segments, drawings / drawn_as, record))
        yield record


def _list(content: Node, key: str) -> Iterable[Node]:
    found = content.get(key)
    return () if found is None else found.elements()


def _things(content: Node) -> dict[int, str | None]:
    """Category id -> name, None if it is stuff."""
    found = {}
    for row in content["categories"].elements():
        thing = row.get("isthing")
        is_thing = thing is None or bool(thing.integer())
        found[row["id"].integer()] = row["name"].label() if is_thing else None
    return found


def _drawing_folder(content: Node, path: Path, images: ImageFolder) -> Path:
    """The folder of the PNG files: mostly called like the JSON file."""
    first = next(iter(content["annotations"].elements()))["file_name"].text()
    candidates = [path.with_suffix(""), images.folder / path.stem]
    candidates += [found.parent for found in images.paths() if found.name == Path(first).name]
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    raise ValueError(
        f"The PNG files of {str(path)!r}, such as {first!r}, are not to be found; looked for in "
        f"{str(candidates[0])!r} and {str(candidates[1])!r}."
    )


def _photo(name: str, images: ImageFolder, split: str, drawings: Path) -> Path | None:
    """The image itself: a drawing, or an image of another split, may have the same name."""
    found = [path for path in images.named(Path(name).stem) if not path.is_relative_to(drawings)]
    of_split = lambda path: split_of(path.parent.name) == split  # noqa: E731
    return min(
        found, key=lambda path: (path.name != Path(name).name, not of_split(path)), default=None
    )


def _segments(
    annotation: Node, things: Mapping[int, str | None], notes: Notes
) -> dict[int, tuple[str, int]]:
    """Colour of a thing in the drawing -> its class, and whether it is a crowd."""
    found = {}
    for segment in annotation["segments_info"].elements():
        category = segment["category_id"].integer()
        if category not in things:
            raise segment.fail(f"has category_id {category}, which is not listed.")
        name = things[category]
        if name is None:
            notes[_STUFF] += 1
            continue
        crowd = segment.get("iscrowd")
        found[segment["id"].integer()] = (name, 0 if crowd is None else crowd.integer())
    return found


def _objects(
    segments: Mapping[int, tuple[str, int]], drawing: Path, record: Record
) -> Iterator[dict[str, Any]]:
    import hotcoco.mask

    if not segments:
        return
    ids = segment_ids(str(drawing))
    if ids.shape != (record["height"], record["width"]):
        raise ValueError(
            f"{str(drawing)!r} is {ids.shape[1]} x {ids.shape[0]} pixels (width x height), its "
            f"image {record['width']} x {record['height']}."
        )
    for number, (name, crowd) in segments.items():
        mask = ids == number
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        yield {
            "bbox": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
            "bbox_mode": BoxMode.XYXY_ABS,
            "segmentation": hotcoco.mask.encode(np.asfortranarray(mask.astype(np.uint8))),
            "iscrowd": crowd,
            CLASS_NAME: name,
        }
