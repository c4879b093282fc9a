"""Small datasets on disk, and what two of them have in common."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2.data.datasets.auto import recognize
from detectron2.data.datasets.auto.shapes import polygon_annotation, rotated_annotation
from detectron2.data.datasets.convert.content import Content, upright_box
from detectron2.structures import BoxMode

WIDTH, HEIGHT = 64, 48
CLASSES = ["zebra", "apple"]  # not sorted: the order has to be carried


def draw(path, width=WIDTH, height=HEIGHT, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def box(rng):
    x, y = rng.uniform(1, 30), rng.uniform(1, 20)
    w, h = rng.uniform(3, 30), rng.uniform(3, 25)
    return {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS}


def polygon(rng, parts=1):
    polygons = []
    for _ in range(parts):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        points = rng.uniform(15, 40, 2) + rng.uniform(4, 8) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        polygons.append(points.reshape(-1).tolist())
    return polygon_annotation(polygons)


def rotated(rng):
    return rotated_annotation([30 + rng.uniform(-5, 5), 24, rng.uniform(10, 20),
                               rng.uniform(3, 9), rng.uniform(-179, 179)])  # fmt: skip


def pose(rng):
    points = np.concatenate([rng.uniform(1, 40, (3, 2)), [[2], [1], [0]]], axis=1)
    points[2] = 0
    return {**box(rng), "keypoints": points.reshape(-1).tolist()}


MAKERS = {
    "boxes": box,
    "polygons": polygon,
    "parts": lambda rng: polygon(rng, parts=2),
    "rotated": rotated,
    "keypoints": pose,
}


def make_content(folder, kind, splits=("train", "val"), images=3, seed=0):
    """A dataset of `images` images per split whose annotations are of one kind."""
    rng = np.random.default_rng(seed)
    made = {}
    for split in splits:
        made[split] = []
        for number in range(images):
            path = draw(folder / split / f"{split}_{number}.png", seed=number)
            # The last image of a split shows nothing.
            annotations = [
                {**MAKERS[kind](rng), "category_id": int(rng.integers(len(CLASSES)))}
                for _ in range(3 if number < images - 1 else 0)
            ]
            made[split].append(
                {"file_name": str(path), "image_id": f"{split}-{number}", "width": WIDTH,
                 "height": HEIGHT, "annotations": annotations}
            )  # fmt: skip
    made[splits[0]][0]["annotations"][0]["category_id"] = 0
    made[splits[0]][0]["annotations"][1]["category_id"] = 1
    content = Content(splits=made, classes=list(CLASSES))
    if kind == "keypoints":
        content.keypoints, content.flip = ["left_ear", "right_ear", "tail"], [1, 0, 2]
    return content


def comparable(splits, classes, digits=4):
    """What two datasets have to share, whatever their files are called and sorted like."""
    return {
        split: sorted(
            (
                Path(record["file_name"]).stem,
                record["width"],
                record["height"],
                sorted(_annotation(a, classes, digits) for a in record["annotations"]),
            )
            for record in records
        )
        for split, records in splits.items()
    }


def _annotation(annotation, classes, digits):
    mode = annotation["bbox_mode"]
    values = annotation["bbox"] if mode == BoxMode.XYWHA_ABS else upright_box(annotation)
    segmentation = annotation.get("segmentation") or []
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        counts = counts.decode() if isinstance(counts, bytes) else counts
        segmentation = [json.dumps([list(segmentation["size"]), counts])]
    return json.dumps(
        [
            classes[annotation["category_id"]],
            [_rounded(value, digits) for value in values],
            [p if isinstance(p, str) else [_rounded(v, digits) for v in p] for p in segmentation],
            [_rounded(value, digits) for value in annotation.get("keypoints", [])],
        ]
    )


def _rounded(value, digits):
    return round(float(value), digits) + 0.0


def read(folder):
    """`comparable` of a folder."""
    found = recognize(folder)
    splits = {split: load() for split, load in found.splits.items()}
    return comparable(splits, found.classes), found


# Formats that are only read.


def via(folder, content):
    entries = {}
    for record in content.splits["train"]:
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": a["segmentation"][0][0::2],
                    "all_points_y": a["segmentation"][0][1::2],
                },
                "region_attributes": {"label": CLASSES[a["category_id"]]},
            }
            for a in record["annotations"]
        ]
        entries[record["image_id"]] = {"filename": record["file_name"], "regions": regions}
    (folder / "via.json").write_text(json.dumps(entries))


def labelme(folder, content):
    for file, record in enumerate(content.splits["train"]):
        shapes = [
            {"label": CLASSES[a["category_id"]], "shape_type": "polygon", "group_id": number,
             "points": np.reshape(a["segmentation"][0], (-1, 2)).tolist()}
            for number, a in enumerate(record["annotations"])
        ]  # fmt: skip
        text = json.dumps({"imagePath": record["file_name"], "shapes": shapes})
        (folder / f"{file}.json").write_text(text)


def table(folder, content):
    rows = ["filename,class,xmin,ymin,xmax,ymax"]
    for record in content.splits["train"]:
        for a in record["annotations"]:
            rows.append(
                ",".join(
                    map(str, [record["file_name"], CLASSES[a["category_id"]], *upright_box(a)])
                )
            )
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")


def write_panoptic(folder):
    """COCO's panoptic format: an image with two things, a crowd and the sky in each split."""
    ball_id, dog_id, sky_id, crowd_id = 7, 300, 70_000, 9
    for split in ("train", "val"):
        draw(folder / f"{split}2017" / "000001.jpg")
        ids = np.full((HEIGHT, WIDTH), sky_id)
        ids[10:20, 5:25], ids[30:40, 40:60], ids[0:4, 0:4] = ball_id, dog_id, crowd_id
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=2).astype(np.uint8)
        drawings = folder / "annotations" / f"panoptic_{split}2017"
        drawings.mkdir(parents=True)
        Image.fromarray(colours).save(drawings / "000001.png")
        content = {
            "images": [{"id": 1, "file_name": "000001.jpg", "width": WIDTH, "height": HEIGHT}],
            "annotations": [
                {"image_id": 1, "file_name": "000001.png", "segments_info": [
                    {"id": ball_id, "category_id": 37}, {"id": dog_id, "category_id": 18},
                    {"id": sky_id, "category_id": 187}, {"id": 12345, "category_id": 18},
                    {"id": crowd_id, "category_id": 18, "iscrowd": 1}]}
            ],
            "categories": [
                {"id": 187, "name": "sky", "isthing": 0}, {"id": 37, "name": "ball", "isthing": 1},
                {"id": 18, "name": "dog", "isthing": 1}],
        }  # fmt: skip
        (folder / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))
    return folder


WRITERS = {"via": via, "labelme": labelme, "table": table}
