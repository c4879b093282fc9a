"""Whether the entries of a COCO file are what the format says: fields, types, ids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from detectron2.data.check.problems import Problem, shortened

__all__ = ["check_lists", "structural_problems"]

LISTS = ("images", "annotations", "categories")


def check_lists(content: Any, source: str) -> None:
    """Check that the three lists of a COCO file are lists.

    Raises:
        ValueError: one is missing or of another type.
    """
    for name in LISTS:
        entries = content.get(name, [] if name == "annotations" else None)
        if not isinstance(entries, list):
            found = "is missing" if entries is None else f"is a {type(entries).__name__}, no list"
            raise ValueError(f"{source!r} is not in COCO's format: {name!r} {found}.")


def structural_problems(content: dict[str, Any], source: str) -> Iterator[Problem]:
    """Entries of a COCO file that cannot be used at all, or whose ids are wrong.

    Args:
        content: for which `check_lists` passes.
        source: path of the file.
    """
    yield from _category_problems(content["categories"], source)
    yield from _image_problems(content["images"], source)
    yield from _annotation_problems(content, source)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, finite or not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return isinstance(value, str) or (is_number(value) and math.isfinite(value))


def is_side(value: Any) -> bool:
    """Whether a value can be a width or height: a positive whole number."""
    return is_number(value) and math.isfinite(value) and value > 0 and int(value) == value


def _are_numbers(values: Sequence[Any]) -> bool:
    # NumPy finds out ten times faster than a loop; numbers beyond 64 bits it calls objects.
    try:
        array = np.array(values) if values else np.zeros(0)
    except ValueError:  # lists of unequal lengths within the list
        return False
    kind = array.dtype.kind if array.ndim == 1 else ""
    return kind in tuple("fiu") or (kind == "O" and all(map(is_number, values)))


def _is_size(value: Any) -> bool:
    # Decoders of run lengths take no float here.
    return isinstance(value, int) and is_side(value)


def _category_problems(categories: list[Any], source: str) -> Iterator[Problem]:
    seen: dict[Any, str] = {}
    for position, category in enumerate(categories):
        fault = _fault_of_category(category, isinstance(next(iter(seen), None), str))
        if fault:
            reason = f"Category {position} of {source!r} {fault}: {shortened(category)}."
            yield Problem("malformed-category", reason, source, category=position)
        elif category["id"] in seen:
            reason = (
                f"Two categories of {source!r} have the id {category['id']!r}: "
                f"{seen[category['id']]!r} and {category['name']!r}."
            )
            yield Problem("duplicate-category-id", reason, source, category=position)
        else:
            seen[category["id"]] = category["name"]


def _fault_of_category(category: Any, ids_are_text: bool) -> str:
    if not isinstance(category, dict):
        return "is no dictionary"
    if not is_id(category.get("id")):
        return "has no usable 'id'"
    if ids_are_text and not isinstance(category["id"], str):
        return "has a number as its 'id', others have texts"
    return "" if isinstance(category.get("name"), str) else "has no 'name'"


def _image_problems(images: list[Any], source: str) -> Iterator[Problem]:
    seen: set[Any] = set()
    text_ids: bool | None = None
    for position, image in enumerate(images):
        fault = _fault_of_image(image, text_ids)
        if fault:
            reason = f"Image {position} of {source!r} {fault}: {shortened(image)}."
            yield Problem("malformed-image", reason, source, image=position)
            continue
        text_ids = isinstance(image["id"], str)
        if image["id"] in seen:
            reason = f"The image id {image['id']!r} repeats in {source!r} ({image['file_name']!r})."
            yield Problem(
                "duplicate-image-id", reason, source, image_id=image["id"], image=position
            )
        seen.add(image["id"])


def _fault_of_image(image: Any, text_ids: bool | None) -> str:
    if not isinstance(image, dict):
        return "is no dictionary"
    if not is_id(image.get("id")):
        return "has no usable 'id'"
    if text_ids is not None and text_ids != isinstance(image["id"], str):
        return "has an 'id' of another type than the images before"
    name = image.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return "has no usable 'file_name'"
    for side in ("width", "height"):
        if not is_side(image.get(side)):
            return f"has no usable {side!r} ({shortened(image.get(side))})"
    return ""


def _annotation_problems(content: dict[str, Any], source: str) -> Iterator[Problem]:
    # Also of images with another fault: one sentence about the image is enough.
    images = {i["id"] for i in content["images"] if isinstance(i, dict) and is_id(i.get("id"))}
    categories = {c["id"] for c in content["categories"] if _fault_of_category(c, False) == ""}
    seen: set[Any] = set()
    annotations = content.get("annotations", [])
    highest = _highest_id(annotations)
    sides = _box_sides(annotations)
    for position, annotation in enumerate(annotations):
        fault = _fault_of_annotation(annotation, sides)
        if fault:
            entry = annotation if isinstance(annotation, dict) else {}
            reason = f"Annotation {_name(entry, position)} of {source!r} {fault}."
            yield _about("malformed-annotation", reason, source, annotation, position)
            continue
        number = annotation.get("id")
        where = f"Annotation {_name(annotation, position)} of {source!r}"
        if annotation["image_id"] not in images:
            reason = f"{where} belongs to image {annotation['image_id']!r}, which is not listed."
            yield _about("unknown-image", reason, source, annotation, position)
        if annotation["category_id"] not in categories:
            reason = f"{where} has category_id {annotation['category_id']!r}, which is not listed."
            yield _about("unknown-category", reason, source, annotation, position)
        if number is not None and number in seen:
            highest += 1
            reason = f"The annotation id {number!r} repeats in {source!r} (entry {position})."
            repair = {"id": highest}
            yield _about("duplicate-annotation-id", reason, source, annotation, position, repair)
        if annotation.get("ignore", 0) != 0:
            reason = f"{where} has 'ignore' set, which COCO's format does not know."
            repair = {"ignore": 0, "iscrowd": 1}
            yield _about("ignore-flag", reason, source, annotation, position, repair)
        seen.add(number)


def _highest_id(annotations: list[Any]) -> int:
    ids = [a.get("id") for a in annotations if isinstance(a, dict)]
    return max((int(i) for i in ids if is_number(i) and math.isfinite(i)), default=0)


def _box_sides(annotations: list[Any]) -> int:
    """How many numbers the boxes of this file have: 5 if most are rotated, else 4."""
    boxes = [a.get("bbox") for a in annotations if isinstance(a, dict)]
    lengths = [len(box) for box in boxes if isinstance(box, (list, tuple))]
    return 5 if lengths.count(5) > lengths.count(4) else 4


def _about(
    kind: str,
    reason: str,
    source: str,
    annotation: Any,
    position: int,
    repair: dict[str, Any] | None = None,
) -> Problem:
    entry = annotation if isinstance(annotation, dict) else {}
    ids = {k: entry[k] if is_id(entry.get(k)) else None for k in ("image_id", "id")}
    return Problem(
        kind,
        reason,
        source,
        image_id=ids["image_id"],
        annotation_id=ids["id"],
        annotation=position,
        repair=repair,
    )


def _name(annotation: dict[str, Any], position: int) -> str:
    number = annotation.get("id")
    return shortened(number) if is_id(number) else f"in place {position}"


def _fault_of_annotation(annotation: Any, box_sides: int) -> str:
    if not isinstance(annotation, dict):
        return f"is no dictionary: {shortened(annotation)}"
    if annotation.get("id") is not None and not is_id(annotation["id"]):
        return f"has the id {shortened(annotation['id'])}"
    for key in ("image_id", "category_id"):
        if not is_id(annotation.get(key)):
            return f"has no usable {key!r} ({shortened(annotation.get(key))})"
    box = annotation.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != box_sides or not all(map(is_number, box)):
        form = "x, y, width, height" + (", angle" if box_sides == 5 else "")
        return f"has no usable 'bbox' ({shortened(box)}); it must be [{form}]"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"has 'iscrowd' {shortened(annotation['iscrowd'])}; it must be 0 or 1"
    return _fault_of_segmentation(annotation.get("segmentation")) or _fault_of_keypoints(
        annotation.get("keypoints")
    )


def _fault_of_segmentation(segmentation: Any) -> str:
    if segmentation is None:
        return ""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_size, size))):
            return f"has a run-length mask of size {shortened(size)}"
        if not isinstance(counts, (list, str, bytes)):
            return f"has a run-length mask with counts {shortened(counts)}"
        return ""
    if not isinstance(segmentation, list):
        return f"has a segmentation of type {type(segmentation).__name__}"
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple)) or not _are_numbers(polygon):
            return f"has a polygon that is no list of numbers: {shortened(polygon)}"
    return ""


def _fault_of_keypoints(keypoints: Any) -> str:
    if keypoints is None:
        return ""
    if not isinstance(keypoints, (list, tuple)) or not _are_numbers(keypoints):
        return f"has keypoints that are no list of numbers: {shortened(keypoints)}"
    return ""
