"""What can be wrong with a dataset: the kinds of problems, and one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "ORIGIN", "Kind", "Problem", "shortened"]

# In entries made of records: where they came from, the record's position and the annotation's.
ORIGIN = "_origin"


@dataclass(frozen=True)
class Kind:
    """`is_error`: training would fail on it, or learn something wrong; else it is worth a look."""

    title: str
    is_error: bool


# An error leaves out what it is about (policy "skip") or mends it (policy "fix"); a warning does
# not change the data, but where "fix" knows a repair.
KINDS: dict[str, Kind] = {
    "malformed-image": Kind("Image entries that cannot be read", True),
    "malformed-annotation": Kind("Annotations that cannot be read", True),
    "malformed-category": Kind("Categories that cannot be read", True),
    "duplicate-image-id": Kind("Image ids that repeat", True),
    "duplicate-annotation-id": Kind("Annotation ids that repeat", True),
    "duplicate-category-id": Kind("Category ids that repeat", True),
    "unknown-image": Kind("Annotations of images that are not listed", True),
    "unknown-category": Kind("Annotations of categories that are not listed", True),
    "ignore-flag": Kind("Annotations with the flag 'ignore'", True),
    "missing-image": Kind("Image files that do not exist", True),
    "unreadable-image": Kind("Image files that cannot be decoded", True),
    "truncated-image": Kind("Image files that end too early", True),
    "wrong-size": Kind("Images of another size than the annotations say", True),
    "exif-unturned": Kind(
        "Images annotated as stored, not as their EXIF orientation shows them", True
    ),
    "exif-rotated": Kind("Images with an EXIF orientation", False),
    "bad-box": Kind("Boxes that are empty or not finite", True),
    "outside-box": Kind("Boxes outside of the image", True),
    "overhanging-box": Kind("Boxes that reach out of the image", False),
    "bad-polygon": Kind("Segmentations without a usable polygon", True),
    "short-polygon": Kind(
        "Polygons that are left out: fewer than three points, or an odd number", False
    ),
    "outside-polygon": Kind("Polygons outside of the image", True),
    "crossing-polygon": Kind("Polygons that cross themselves", False),
    "rle-size": Kind("Run-length masks of another size than the image", True),
    "bad-rle": Kind("Run-length masks that cannot be decoded", True),
    "bad-keypoints": Kind("Keypoints of a wrong number or not finite", True),
    "duplicate-annotation": Kind("Objects that are annotated twice", True),
    "duplicate-image": Kind("Images that look the same", False),
    "leakage": Kind("Training images that are also in the validation set", False),
    "class-imbalance": Kind("Classes with few or no objects", False),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: a key of `KINDS`.
        reason: a sentence.
        file: image file it is about, or the annotation file.
        image_id, annotation_id: as in the annotation file, None where there is none.
        image, annotation, category: positions in the lists of the annotation file.
        repair: new values of entries of the annotation (or of the image, if it is about none)
            that mend it; None if it cannot be mended.
        other_file: the other image, of problems between two.
        orientation: by which the repair of an image turns its annotations, an EXIF value.
    """

    kind: str
    reason: str
    file: str = ""
    image_id: Any = None
    annotation_id: Any = None
    image: int | None = None
    annotation: int | None = None
    category: int | None = None
    repair: Mapping[str, Any] | None = None
    other_file: str = ""
    orientation: int | None = None

    @property
    def is_error(self) -> bool:
        return KINDS[self.kind].is_error


def shortened(value: Any, length: int = 60) -> str:
    """`repr` of a value, cut to a length that fits into a sentence."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
