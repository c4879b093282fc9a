"""Classes, colours and keypoints of the builtin datasets.

They are the datasets' own: COCO and COCO panoptic (panopticapi), Cityscapes (cityscapesScripts)
and the ADE20K scene parsing benchmark.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ADE20K_SEM_SEG_CATEGORIES",
    "CITYSCAPES_CATEGORIES",
    "COCO_CATEGORIES",
    "COCO_PERSON_KEYPOINT_FLIP_MAP",
    "COCO_PERSON_KEYPOINT_NAMES",
    "KEYPOINT_CONNECTION_RULES",
]

Row = tuple[str, int, tuple[int, int, int]]

# Name, id in the annotation files, RGB colour.
_COCO_THINGS: tuple[Row, ...] = (
    ("person", 1, (220, 20, 60)),
    ("bicycle", 2, (119, 11, 32)),
    ("car", 3, (0, 0, 142)),
    ("motorcycle", 4, (0, 0, 230)),
    ("airplane", 5, (106, 0, 228)),
    ("bus", 6, (0, 60, 100)),
    ("train", 7, (0, 80, 100)),
    ("truck", 8, (0, 0, 70)),
    ("boat", 9, (0, 0, 192)),
    ("traffic light", 10, (250, 170, 30)),
    ("fire hydrant", 11, (100, 170, 30)),
    ("stop sign", 13, (220, 220, 0)),
    ("parking meter", 14, (175, 116, 175)),
    ("bench", 15, (250, 0, 30)),
    ("bird", 16, (165, 42, 42)),
    ("cat", 17, (255, 77, 255)),
    ("dog", 18, (0, 226, 252)),
    ("horse", 19, (182, 182, 255)),
    ("sheep", 20, (0, 82, 0)),
    ("cow", 21, (120, 166, 157)),
    ("elephant", 22, (110, 76, 0)),
    ("bear", 23, (174, 57, 255)),
    ("zebra", 24, (199, 100, 0)),
    ("giraffe", 25, (72, 0, 118)),
    ("backpack", 27, (255, 179, 240)),
    ("umbrella", 28, (0, 125, 92)),
    ("handbag", 31, (209, 0, 151)),
    ("tie", 32, (188, 208, 182)),
    ("suitcase", 33, (0, 220, 176)),
    ("frisbee", 34, (255, 99, 164)),
    ("skis", 35, (92, 0, 73)),
    ("snowboard", 36, (133, 129, 255)),
    ("sports ball", 37, (78, 180, 255)),
    ("kite", 38, (0, 228, 0)),
    ("baseball bat", 39, (174, 255, 243)),
    ("baseball glove", 40, (45, 89, 255)),
    ("skateboard", 41, (134, 134, 103)),
    ("surfboard", 42, (145, 148, 174)),
    ("tennis racket", 43, (255, 208, 186)),
    ("bottle", 44, (197, 226, 255)),
    ("wine glass", 46, (171, 134, 1)),
    ("cup", 47, (109, 63, 54)),
    ("fork", 48, (207, 138, 255)),
    ("knife", 49, (151, 0, 95)),
    ("spoon", 50, (9, 80, 61)),
    ("bowl", 51, (84, 105, 51)),
    ("banana", 52, (74, 65, 105)),
    ("apple", 53, (166, 196, 102)),
    ("sandwich", 54, (208, 195, 210)),
    ("orange", 55, (255, 109, 65)),
    ("broccoli", 56, (0, 143, 149)),
    ("carrot", 57, (179, 0, 194)),
    ("hot dog", 58, (209, 99, 106)),
    ("pizza", 59, (5, 121, 0)),
    ("donut", 60, (227, 255, 205)),
    ("cake", 61, (147, 186, 208)),
    ("chair", 62, (153, 69, 1)),
    ("couch", 63, (3, 95, 161)),
    ("potted plant", 64, (163, 255, 0)),
    ("bed", 65, (119, 0, 170)),
    ("dining table", 67, (0, 182, 199)),
    ("toilet", 70, (0, 165, 120)),
    ("tv", 72, (183, 130, 88)),
    ("laptop", 73, (95, 32, 0)),
    ("mouse", 74, (130, 114, 135)),
    ("remote", 75, (110, 129, 133)),
    ("keyboard", 76, (166, 74, 118)),
    ("cell phone", 77, (219, 142, 185)),
    ("microwave", 78, (79, 210, 114)),
    ("oven", 79, (178, 90, 62)),
    ("toaster", 80, (65, 70, 15)),
    ("sink", 81, (127, 167, 115)),
    ("refrigerator", 82, (59, 105, 106)),
    ("book", 84, (142, 108, 45)),
    ("clock", 85, (196, 172, 0)),
    ("vase", 86, (95, 54, 80)),
    ("scissors", 87, (128, 76, 255)),
    ("teddy bear", 88, (201, 57, 1)),
    ("hair drier", 89, (246, 0, 122)),
    ("toothbrush", 90, (191, 162, 208)),
)

_COCO_STUFF: tuple[Row, ...] = (
    ("banner", 92, (255, 255, 128)),
    ("blanket", 93, (147, 211, 203)),
    ("bridge", 95, (150, 100, 100)),
    ("cardboard", 100, (168, 171, 172)),
    ("counter", 107, (146, 112, 198)),
    ("curtain", 109, (210, 170, 100)),
    ("door-stuff", 112, (92, 136, 89)),
    ("floor-wood", 118, (218, 88, 184)),
    ("flower", 119, (241, 129, 0)),
    ("fruit", 122, (217, 17, 255)),
    ("gravel", 125, (124, 74, 181)),
    ("house", 128, (70, 70, 70)),
    ("light", 130, (255, 228, 255)),
    ("mirror-stuff", 133, (154, 208, 0)),
    ("net", 138, (193, 0, 92)),
    ("pillow", 141, (76, 91, 113)),
    ("platform", 144, (255, 180, 195)),
    ("playingfield", 145, (106, 154, 176)),
    ("railroad", 147, (230, 150, 140)),
    ("river", 148, (60, 143, 255)),
    ("road", 149, (128, 64, 128)),
    ("roof", 151, (92, 82, 55)),
    ("sand", 154, (254, 212, 124)),
    ("sea", 155, (73, 77, 174)),
    ("shelf", 156, (255, 160, 98)),
    ("snow", 159, (255, 255, 255)),
    ("stairs", 161, (104, 84, 109)),
    ("tent", 166, (169, 164, 131)),
    ("towel", 168, (225, 199, 255)),
    ("wall-brick", 171, (137, 54, 74)),
    ("wall-stone", 175, (135, 158, 223)),
    ("wall-tile", 176, (7, 246, 231)),
    ("wall-wood", 177, (107, 255, 200)),
    ("water-other", 178, (58, 41, 149)),
    ("window-blind", 180, (183, 121, 142)),
    ("window-other", 181, (255, 73, 97)),
    ("tree-merged", 184, (107, 142, 35)),
    ("fence-merged", 185, (190, 153, 153)),
    ("ceiling-merged", 186, (146, 139, 141)),
    ("sky-other-merged", 187, (70, 130, 180)),
    ("cabinet-merged", 188, (134, 199, 156)),
    ("table-merged", 189, (209, 226, 140)),
    ("floor-other-merged", 190, (96, 36, 108)),
    ("pavement-merged", 191, (96, 96, 96)),
    ("mountain-merged", 192, (64, 170, 64)),
    ("grass-merged", 193, (152, 251, 152)),
    ("dirt-merged", 194, (208, 229, 228)),
    ("paper-merged", 195, (206, 186, 171)),
    ("food-other-merged", 196, (152, 161, 64)),
    ("building-other-merged", 197, (116, 112, 0)),
    ("rock-merged", 198, (0, 114, 143)),
    ("wall-other-merged", 199, (102, 102, 156)),
    ("rug-merged", 200, (250, 141, 255)),
)

# The class that stands for every thing where only stuff is segmented.
_COCO_ALL_THINGS: Row = ("things", 0, (82, 18, 128))

_CITYSCAPES_STUFF: tuple[Row, ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
)

_CITYSCAPES_THINGS: tuple[Row, ...] = (
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)


def _categories(rows: tuple[Row, ...], isthing: int, id_key: str) -> list[dict[str, Any]]:
    return [
        {"name": name, id_key: dataset_id, "isthing": isthing, "color": list(color)}
        for name, dataset_id, color in rows
    ]


COCO_CATEGORIES = _categories(_COCO_THINGS, 1, "id") + _categories(_COCO_STUFF, 0, "id")
"""The 80 things and 53 stuff classes of COCO panoptic: "name", "id", "isthing", "color"."""

CITYSCAPES_CATEGORIES = [
    {**category, "trainId": train_id}
    for train_id, category in enumerate(
        _categories(_CITYSCAPES_STUFF, 0, "id") + _categories(_CITYSCAPES_THINGS, 1, "id")
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
        "thing_dataset_id_to_contiguous_id": _contiguous(_COCO_THINGS),
        "thing_classes": _names(_COCO_THINGS),
        "thing_colors": _colors(_COCO_THINGS),
    }


def _get_coco_panoptic_standard_meta() -> dict[str, Any]:
    """Things and stuff share one numbering, so both lists hold all classes."""
    rows = _COCO_THINGS + _COCO_STUFF
    return {
        "thing_classes": _names(rows),
        "thing_colors": _colors(rows),
        "stuff_classes": _names(rows),
        "stuff_colors": _colors(rows),
        "thing_dataset_id_to_contiguous_id": _contiguous(_COCO_THINGS),
        "stuff_dataset_id_to_contiguous_id": _contiguous(_COCO_STUFF, start=len(_COCO_THINGS)),
    }


def _get_coco_panoptic_separated_meta() -> dict[str, Any]:
    """Stuff has a numbering of its own, in which 0 stands for every thing."""
    rows = (_COCO_ALL_THINGS, *_COCO_STUFF)
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
        "thing_classes": _names(_CITYSCAPES_THINGS),
        "stuff_classes": _names(_CITYSCAPES_STUFF + _CITYSCAPES_THINGS),
    }


def _get_cityscapes_panoptic_meta() -> dict[str, Any]:
    rows = _CITYSCAPES_STUFF + _CITYSCAPES_THINGS
    return {
        "thing_classes": _names(rows),
        "thing_colors": _colors(rows),
        "stuff_classes": _names(rows),
        "stuff_colors": _colors(rows),
        "thing_dataset_id_to_contiguous_id": _contiguous(
            _CITYSCAPES_THINGS, start=len(_CITYSCAPES_STUFF)
        ),
        "stuff_dataset_id_to_contiguous_id": _contiguous(_CITYSCAPES_STUFF),
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
