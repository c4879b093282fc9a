"""How long does COCO evaluation of boxes and masks take, and is the result that of pycocotools?

    python benchmarks/evaluation.py [--images 5000] [--peer-images 500] [--repeat 3]

Synthetic ground truth and detections in the proportions of COCO val2017 with a detector that keeps
36 boxes per image. Ours is `COCOEvaluator.evaluate()`, from what `process()` has stored to the
metrics, the best of `--repeat` runs. pycocotools runs on the first `--peer-images` images (it takes
minutes on all), and ours on the same ones for the comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.coco_results import CocoResults
from detectron2.modeling.postprocessing import detector_postprocess, rescale_detections
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH, CLASSES = 480, 640, 80
OBJECTS, DETECTIONS = 7, 36  # per image


def mask_bank(
    rng: np.random.Generator, count: int = 400
) -> list[tuple[dict[str, Any], list[float]]]:
    """RLE and XYWH box of ellipses, as many small, medium and large as COCO has (41, 34, 24 %)."""
    from hotcoco import mask as rle_codec

    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH]
    bank = []
    for _ in range(count):
        side = 8 * 36 ** rng.uniform()  # of a square of the area, in pixels
        aspect = 2 ** rng.uniform(-0.7, 0.7)
        w, h = min(1.128 * side * aspect, WIDTH), min(1.128 * side / aspect, HEIGHT)
        x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
        inside = ((xx - x - w / 2) / (w / 2)) ** 2 + ((yy - y - h / 2) / (h / 2)) ** 2 < 1
        bank.append((rle_codec.encode(inside), [x, y, w, h]))
    return bank


def make_dataset(images: int, path: str) -> list[CocoResults]:
    """Write ground truth to `path`; detections per image, a third of them near an object."""
    rng = np.random.default_rng(0)
    bank = mask_bank(rng)
    annotations, detections = [], []
    for image in range(1, images + 1):
        objects = rng.integers(len(bank), size=OBJECTS)
        classes = rng.integers(CLASSES, size=OBJECTS)
        for pick, label in zip(objects.tolist(), classes.tolist()):
            rle, box = bank[pick]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.785,
                    "iscrowd": 0,
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                }
            )
        near = rng.integers(OBJECTS, size=DETECTIONS // 3)
        picks = np.append(objects[near], rng.integers(len(bank), size=DETECTIONS - len(near)))
        labels = np.append(classes[near], rng.integers(CLASSES, size=DETECTIONS - len(near)))
        boxes = np.array([bank[pick][1] for pick in picks]) + rng.normal(size=(DETECTIONS, 4)) * 4
        boxes = boxes.astype(np.float32)
        scores = rng.uniform(size=DETECTIONS).astype(np.float32)
        masks = [bank[pick][0] for pick in picks]
        detections.append(CocoResults.of_image(image, labels, scores, boxes, masks))
    content = {
        "images": [
            {"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(CLASSES)],
    }
    with open(path, "w") as stream:
        json.dump(content, stream)
    return detections


def run_ours(path: str, detections: list[CocoResults], images: int) -> tuple[float, float, dict]:
    """Seconds to load the ground truth, seconds to evaluate, and the metrics."""
    name = f"benchmark_{images}"
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=path,
        thing_classes=[f"class {c}" for c in range(CLASSES)],
        thing_dataset_id_to_contiguous_id={c + 1: c for c in range(CLASSES)},
    )
    start = time.perf_counter()
    evaluator = COCOEvaluator(name, distributed=False)
    loaded = time.perf_counter()
    evaluator.reset()
    for part in detections[:images]:
        evaluator._predictions.append({"image_id": int(part.image_ids[0]), "instances": part})
    chosen = None if images == len(detections) else list(range(1, images + 1))
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = evaluator.evaluate(img_ids=chosen)
    return loaded - start, time.perf_counter() - begin, dict(metrics)


def run_pycocotools(path: str, detections: list[CocoResults], images: int) -> tuple[float, dict]:
    """Seconds from result dictionaries to metrics, and AP in percent by task."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [result for part in detections[:images] for result in part]
    for result in results:
        result["category_id"] += 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        start = time.perf_counter()
        metrics = {}
        for task in ("bbox", "segm"):
            dropped = () if task == "bbox" else ("bbox",)
            copies = [{k: v for k, v in r.items() if k not in dropped} for r in results]
            evaluation = COCOeval(truth, truth.loadRes(copies), task)
            evaluation.params.imgIds = list(range(1, images + 1))
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics[task] = 100 * float(evaluation.stats[0])
    return time.perf_counter() - start, metrics


def time_process(count: int = 100) -> tuple[float, float]:
    """Seconds that `process` takes for an image of 800 x 1200 pixels with `count` masks of 28 x 28.

    Drawn into full images before they are encoded, and encoded on their boxes.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    boxes = np.column_stack([rng.uniform(0, 1000, count), rng.uniform(0, 600, count)] * 2)
    boxes[:, 2:] += rng.uniform(20, 200, (count, 2))
    found = Instances((800, 1200))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.scores = torch.rand(count)
    found.pred_classes = torch.zeros(count, dtype=torch.long)
    blob = torch.from_numpy(1 / (1 + np.exp(8 * (x**2 + y**2) - 5))).float()
    found.pred_masks = blob.expand(count, 1, 28, 28).contiguous()
    return (
        _best(lambda: instances_to_coco_json(detector_postprocess(found, 800, 1200), 1)),
        _best(lambda: instances_to_coco_json(rescale_detections(found, 800, 1200), 1)),
    )


def _best(function: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer-images", type=int, default=500, help="0 leaves pycocotools out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ground_truth.json")
        detections = make_dataset(arguments.images, path)
        total = sum(map(len, detections))
        runs = [run_ours(path, detections, arguments.images) for _ in range(arguments.repeat)]
        load, seconds, metrics = min(runs, key=lambda run: run[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{arguments.images} images, {CLASSES} classes, {total} detections, bbox + segm:")
        print(f"  ours         {seconds:8.2f} s   (+ {load:.2f} s to load the ground truth)")
        print(f"  bbox AP {metrics['bbox']['AP']:.3f}, segm AP {metrics['segm']['AP']:.3f}")
        print(f"  peak memory of the process so far {peak:.0f} MiB")
        drawn, on_boxes = time_process()
        print(
            f"  100 masks of 800 x 1200: {drawn * 1000:.1f} ms drawn and encoded, "
            f"{on_boxes * 1000:.1f} ms encoded on their boxes, {drawn / on_boxes:.1f} x"
        )
        if arguments.peer_images:
            count = min(arguments.peer_images, arguments.images)
            runs = [run_ours(path, detections, count) for _ in range(arguments.repeat)]
            _, ours, mine = min(runs, key=lambda run: run[1])
            theirs, peer = run_pycocotools(path, detections, count)
            print(f"on {count} images:")
            print(f"  ours         {ours:8.2f} s   {theirs / ours:6.1f} x")
            print(f"  pycocotools  {theirs:8.2f} s")
            for task, value in peer.items():
                print(f"  {task} AP: ours - pycocotools = {mine[task]['AP'] - value:.17g}")


if __name__ == "__main__":
    main()
