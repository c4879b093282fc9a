"""Classes, colours and keypoints of the builtin datasets.

They are the datasets' own: COCO and COCO panoptic (panopticapi), Cityscapes (cityscapesScripts)
and the ADE20K scene parsing benchmark.
"""

from __future__ import annotations

from typing import Any

from detectron2.data.datasets._builtin_rows import (
    CITYSCAPES_STUFF,
    CITYSCAPES_THINGS,
    COCO_ALL_THINGS,
    COCO_STUFF,
    COCO_THINGS,
    Row,
)

__all__ = [
    "ADE20K_SEM_SEG_CATEGORIES",
    "CITYSCAPES_CATEGORIES",
    "COCO_CATEGORIES",
    "COCO_PERSON_KEYPOINT_FLIP_MAP",
    "COCO_PERSON_KEYPOINT_NAMES",
    "KEYPOINT_CONNECTION_RULES",
]


def _categories(rows: tuple[Row, ...], isthing: int, id_key: str) -> list[dict[str, Any]]:
    return [
        {"name": name, id_key: dataset_id, "isthing": isthing, "color": list(color)}
        for name, dataset_id, color in rows
    ]


COCO_CATEGORIES = _categories(COCO_THINGS, 1, "id") + _categories(COCO_STUFF, 0, "id")
"""The 80 things and 53 stuff classes of COCO panoptic: "name", "id", "isthing", "color"."""

CITYSCAPES_CATEGORIES = [
    {**category, "trainId": train_id}
    for train_id, category in enumerate(
        _categories(CITYSCAPES_STUFF, 0, "id") + _categories(CITYSCAPES_THINGS, 1, "id")
    )
]
"""The 19 evaluated classes of Cityscapes: "name", "id", "trainId", "isthing", "color"."""

COCO_PERSON_KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

COCO_PERSON_KEYPOINT_FLIP_MAP = tuple(
    (f"left_{part}", f"right_{part}")
    for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
)
"""Keypoints that trade places in a mirrored image."""

KEYPOINT_CONNECTION_RULES = (
    ("left_ear", "left_eye", (102, 204, 255)),
    ("right_ear", "right_eye", (51, 153, 255)),
    ("left_eye", "nose", (102, 0, 204)),
    ("nose", "right_eye", (51, 102, 255)),
    ("left_shoulder", "right_shoulder", (255, 128, 0)),
    ("left_shoulder", "left_elbow", (153, 255, 204)),
    ("right_shoulder", "right_elbow", (128, 229, 255)),
    ("left_elbow", "left_wrist", (153, 255, 153)),
    ("right_elbow", "right_wrist", (102, 255, 224)),
    ("left_hip", "right_hip", (255, 102, 0)),
    ("left_hip", "left_knee", (255, 255, 77)),
    ("right_hip", "right_knee", (153, 255, 204)),
    ("left_knee", "left_ankle", (191, 255, 128)),
    ("right_knee", "right_ankle", (255, 195, 77)),
)
"""Keypoints between which a line is drawn, and its RGB colour."""

ADE20K_SEM_SEG_CATEGORIES = (
    "wall",
    "building",
    "sky",
    "floor",
    "tree",
    "ceiling",
    "road, route",
    "bed",
    "window ",
    "grass",
    "cabinet",
    "sidewalk, pavement",
    "person",
    "earth, ground",
    "door",
    "table",
    "mountain, mount",
    "plant",
    "curtain",
    "chair",
    "car",
    "water",
    "painting, picture",
    "sofa",
    "shelf",
    "house",
    "sea",
    "mirror",
    "rug",
    "field",
    "armchair",
    "seat",
    "fence",
    "desk",
    "rock, stone",
    "wardrobe, closet, press",
    "lamp",
    "tub",
    "rail",
    "cushion",
    "base, pedestal, stand",
    "box",
    "column, pillar",
    "signboard, sign",
    "chest of drawers, chest, bureau, dresser",
    "counter",
    "sand",
    "sink",
    "skyscraper",
    "fireplace",
    "refrigerator, icebox",
    "grandstand, covered stand",
    "path",
    "stairs",
    "runway",
    "case, display case, showcase, vitrine",
    "pool table, billiard table, snooker table",
    "pillow",
    "screen door, screen",
    "stairway, staircase",
    "river",
    "bridge, span",
    "bookcase",
    "blind, screen",
    "coffee table",
    "toilet, can, commode, crapper, pot, potty, stool, throne",
    "flower",
    "book",
    "hill",
    "bench",
    "countertop",
    "stove",
    "palm, palm tree",
    "kitchen island",
    "computer",
    "swivel chair",
    "boat",
    "bar",
    "arcade machine",
    "hovel, hut, hutch, shack, shanty",
    "bus",
    "towel",
    "light",
    "truck",
    "tower",
    "chandelier",
    "awning, sunshade, sunblind",
    "street lamp",
    "booth",
    "tv",
    "plane",
    "dirt track",
    "clothes",
    "pole",
    "land, ground, soil",
    "bannister, banister, balustrade, balusters, handrail",
    "escalator, moving staircase, moving stairway",
    "ottoman, pouf, pouffe, puff, hassock",
    "bottle",
    "buffet, counter, sideboard",
    "poster, posting, placard, notice, bill, card",
    "stage",
    "van",
    "ship",
    "fountain",
    "conveyer belt, conveyor belt, conveyer, conveyor, transporter",
    "canopy",
    "washer, automatic washer, washing machine",
    "plaything, toy",
    "pool",
    "stool",
    "barrel, cask",
    "basket, handbasket",
    "falls",
    "tent",
    "bag",
    "minibike, motorbike",
    "cradle",
    "oven",
    "ball",
    "food, solid food",
    "step, stair",
    "tank, storage tank",
    "trade name",
    "microwave",
    "pot",
    "animal",
    "bicycle",
    "lake",
    "dishwasher",
    "screen",
    "blanket, cover",
    "sculpture",
    "hood, exhaust hood",
    "sconce",
    "vase",
    "traffic light",
    "tray",
    "trash can",
    "fan",
    "pier",
    "crt screen",
    "plate",
    "monitor",
    "bulletin board",
    "shower",
    "radiator",
    "glass, drinking glass",
    "clock",
    "flag",
)
"""The 150 classes of the scene parsing benchmark, as its objectInfo150.txt spells them."""


def _names(rows: tuple[Row, ...]) -> list[str]:
    return [name for name, _, _ in rows]


def _colors(rows: tuple[Row, ...]) -> list[list[int]]:
    return [list(color) for _, _, color in rows]


def _contiguous(rows: tuple[Row, ...], start: int = 0) -> dict[int, int]:
    """Id in the annotation files -> class number from `start` on."""
    return {dataset_id: start + i for i, (_, dataset_id, _) in enumerate(rows)}


def _get_coco_instances_meta() -> dict[str, Any]:
    return {
        "thing_dataset_id_to_contiguous_id": _contiguous(COCO_THINGS),
        "thing_classes": _names(COCO_THINGS),
        "thing_colors": _colors(COCO_THINGS),
    }


def _get_coco_panoptic_standard_meta() -> dict[str, Any]:
    """Things and stuff share one numbering, so both lists hold all classes."""
    rows = COCO_THINGS + COCO_STUFF
    return {
        "thing_classes": _names(rows),
        "thing_colors": _colors(rows),
        "stuff_classes": _names(rows),
        "stuff_colors": _colors(rows),
        "thing_dataset_id_to_contiguous_id": _contiguous(COCO_THINGS),
        "stuff_dataset_id_to_contiguous_id": _contiguous(COCO_STUFF, start=len(COCO_THINGS)),
    }


def _get_coco_panoptic_separated_meta() -> dict[str, Any]:
    """Stuff has a numbering of its own, in which 0 stands for every thing."""
    rows = (COCO_ALL_THINGS, *COCO_STUFF)
    return {
        **_get_coco_instances_meta(),
        "stuff_dataset_id_to_contiguous_id": _contiguous(rows),
        "stuff_classes": [n.replace("-other", "").replace("-merged", "") for n in _names(rows)],
        "stuff_colors": _colors(rows),
    }


def _get_coco_person_meta() -> dict[str, Any]:
    return {
        "thing_classes": ["person"],
        "keypoint_names": COCO_PERSON_KEYPOINT_NAMES,
        "keypoint_flip_map": COCO_PERSON_KEYPOINT_FLIP_MAP,
        "keypoint_connection_rules": KEYPOINT_CONNECTION_RULES,
    }


def _get_cityscapes_meta() -> dict[str, Any]:
    return {
        "thing_classes": _names(CITYSCAPES_THINGS),
        "stuff_classes": _names(CITYSCAPES_STUFF + CITYSCAPES_THINGS),
    }


def _get_cityscapes_panoptic_meta() -> dict[str, Any]:
    rows = CITYSCAPES_STUFF + CITYSCAPES_THINGS
    return {
        "thing_classes": _names(rows),
        "thing_colors": _colors(rows),
        "stuff_classes": _names(rows),
        "stuff_colors": _colors(rows),
        "thing_dataset_id_to_contiguous_id": _contiguous(
            CITYSCAPES_THINGS, start=len(CITYSCAPES_STUFF)
        ),
        "stuff_dataset_id_to_contiguous_id": _contiguous(CITYSCAPES_STUFF),
    }


def _get_ade20k_meta() -> dict[str, Any]:
    return {"stuff_classes": list(ADE20K_SEM_SEG_CATEGORIES)}


_BUILTIN = {
    "coco": _get_coco_instances_meta,
    "coco_panoptic_standard": _get_coco_panoptic_standard_meta,
    "coco_panoptic_separated": _get_coco_panoptic_separated_meta,
    "coco_person": _get_coco_person_meta,
    "cityscapes": _get_cityscapes_meta,
    "cityscapes_panoptic": _get_cityscapes_panoptic_meta,
    "ade20k_sem_seg": _get_ade20k_meta,
}


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """Metadata of a family of builtin datasets, such as "coco" or "coco_panoptic_separated".

    Raises:
        KeyError: there is no such family.
    """
    if dataset_name not in _BUILTIN:
        raise KeyError(
            f"There is no builtin metadata for {dataset_name!r}, only for {', '.join(_BUILTIN)}."
        )
    return _BUILTIN[dataset_name]()
