"""Evaluate many synthetic images in a process of its own, and print how much memory that took.

python tests/evaluation/large_evaluation.py IMAGES MASKS_PER_IMAGE FOLDER
"""

import contextlib
import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances, ROIMasks

HEIGHT, WIDTH, CLASSES, OBJECTS = 240, 320, 20, 7


def boxes_of(image: int, count: int) -> np.ndarray:
    """(count, 4) XYXY; the first are those of the objects."""
    rng = np.random.default_rng(image)
    corner = rng.uniform(0, [WIDTH - 60, HEIGHT - 60], (count, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 60, (count, 2))], axis=1)


def write_truth(images: int, path: Path) -> None:
    with open(path, "w") as stream:
        records = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
        categories = [{"id": c + 1, "name": str(c)} for c in range(CLASSES)]
        head = json.dumps({"images": records, "categories": categories})
        stream.write(head[:-1] + ', "annotations": [')
        for image in range(1, images + 1):
            for k, (x0, y0, x1, y1) in enumerate(boxes_of(image, OBJECTS).tolist()):
                number = (image - 1) * OBJECTS + k
                outline = [x0, y0, x1, y0, x1, y1, x0, y1]
                annotation = {
                    "id": number + 1, "image_id": image, "category_id": k % CLASSES + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0, "segmentation": [outline],
                }  # fmt: skip
                stream.write((", " if number else "") + json.dumps(annotation))
        stream.write("]}")


def detections(image: int, count: int, grid: torch.Tensor) -> Instances:
    boxes = np.concatenate([boxes_of(image, OBJECTS), boxes_of(-image % 2**31, count)])[:count]
    rng = np.random.default_rng(image)
    instances = Instances((HEIGHT, WIDTH))
    shifted = boxes + rng.normal(size=boxes.shape)
    instances.pred_boxes = Boxes(torch.tensor(shifted, dtype=torch.float32))
    instances.scores = torch.tensor(rng.uniform(size=count), dtype=torch.float32)
    instances.pred_classes = torch.arange(count) % CLASSES
    instances.pred_masks = ROIMasks(grid.expand(count, -1, -1))
    return instances


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(images: int, masks: int, folder: Path) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    grid = torch.sigmoid(6 - 8 * (x**2 + y**2))
    write_truth(images, folder / "truth.json")
    MetadataCatalog.get("large").set(
        json_file=str(folder / "truth.json"),
        thing_dataset_id_to_contiguous_id={c + 1: c for c in range(CLASSES)},
    )
    start = time.perf_counter()
    evaluator = COCOEvaluator("large", output_dir=str(folder / "out"))
    evaluator.reset()
    loaded = peak_bytes()
    for image in range(1, images + 1):
        output = {"instances": detections(image, masks, grid)}
        evaluator.process([{"image_id": image}], [output])
    processed = peak_bytes()
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    print(
        json.dumps(
            {
                "loaded": loaded,
                "processed": processed,
                "peak": peak_bytes(),
                "seconds": time.perf_counter() - start,
                "AP": {task: metrics["AP"] for task, metrics in results.items()},
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
