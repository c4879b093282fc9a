"""A small COCO dataset with masks, and detections that are the truth disturbed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 60, 80
CATEGORY_IDS = (3, 7, 18)
_numbers = count()


@dataclass
class TinyCoco:
    """name: registered dataset. content: its COCO dictionary. detections: Instances by image id."""

    name: str
    path: Path
    content: dict[str, Any]
    detections: dict[Any, Instances]

    def feed(self, evaluator: Any, key: str = "instances") -> None:
        evaluator.reset()
        for image_id, instances in self.detections.items():
            evaluator.process([{"image_id": image_id}], [{key: instances}])


def ellipse(box: np.ndarray) -> np.ndarray:
    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH]
    x0, y0, x1, y1 = box
    dx, dy = (2 * xx - x0 - x1) / max(x1 - x0, 1), (2 * yy - y0 - y1) / max(y1 - y0, 1)
    return dx**2 + dy**2 < 1


def draw_instances(rng: np.random.Generator, truth: list[dict[str, Any]], masks: bool) -> Instances:
    """About two detections per object, some with a wrong class, and a false alarm."""
    boxes = [[1.0, 1.0, 1 + rng.uniform(4, 30), 1 + rng.uniform(4, 30)]]
    classes = [int(rng.integers(3))]
    for annotation in truth:
        x, y, w, h = annotation["bbox"]
        for _ in range(rng.integers(0, 4)):
            box = np.array([x, y, x + w, y + h]) + rng.normal(size=4) * rng.uniform(0.5, 4)
            boxes.append(np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist())
            index = CATEGORY_IDS.index(annotation["category_id"])
            classes.append(index if rng.uniform() < 0.85 else int(rng.integers(3)))
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor(boxes))
    # Few distinct scores, so that ties are part of every test.
    instances.scores = torch.tensor(rng.integers(1, 20, len(boxes)) / 20, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes)
    if masks:
        instances.pred_masks = torch.from_numpy(np.stack([ellipse(np.array(b)) for b in boxes]))
    return instances


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., TinyCoco]:
    def make(
        images: int = 12,
        masks: bool = True,
        crowds: bool = True,
        image_id: Callable[[int], Any] = lambda number: number + 1,
        **metadata: Any,
    ) -> TinyCoco:
        rng = np.random.default_rng(7)
        annotations, detections = [], {}
        for number in range(images):
            mine = []
            for k in range(int(rng.integers(1, 6))):
                w, h = rng.uniform(6, 40, 2)
                x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
                angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
                outline = np.column_stack(
                    [x + w / 2 + w / 2 * np.cos(angles), y + h / 2 + h / 2 * np.sin(angles)]
                )
                mine.append(
                    {
                        "id": len(annotations) + k + 1,
                        "image_id": image_id(number),
                        "category_id": int(rng.choice(CATEGORY_IDS)),
                        "bbox": [x, y, w, h],
                        "area": w * h * 0.75,
                        "iscrowd": int(crowds and k == 4),
                        "segmentation": [outline.ravel().tolist()],
                    }
                )
            annotations += mine
            detections[image_id(number)] = draw_instances(rng, mine, masks)
        content = {
            "images": [
                {"id": image_id(n), "height": HEIGHT, "width": WIDTH, "file_name": f"{n}.jpg"}
                for n in range(images)
            ],
            "annotations": annotations,
            "categories": [{"id": c, "name": f"c{c}"} for c in CATEGORY_IDS],
        }
        name = f"tiny_coco_{next(_numbers)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        entries = {
            "json_file": str(path),
            "thing_classes": [f"c{c}" for c in CATEGORY_IDS],
            "thing_dataset_id_to_contiguous_id": {c: i for i, c in enumerate(CATEGORY_IDS)},
        }
        MetadataCatalog.get(name).set(**{**entries, **metadata})
        return TinyCoco(name, path, content, detections)

    return make
