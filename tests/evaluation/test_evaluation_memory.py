"""Memory does not grow with the dataset."""

import contextlib
import gc
import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from large_evaluation import CLASSES, detections, write_truth

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_stream, spool

MASKS = 20


def peaks(images, folder, monkeypatch):
    """Bytes that Python holds after processing, and at most while evaluating."""
    monkeypatch.setattr(spool, "_CACHE_BYTES", 0)
    monkeypatch.setattr(coco_stream, "_CHUNK_DETECTIONS", 10 * MASKS)
    monkeypatch.setattr(coco_stream, "_AT_ONCE_DETECTIONS", 0)
    name = f"memory_{images}"
    write_truth(images, folder / f"{name}.json")
    MetadataCatalog.get(name).set(
        json_file=str(folder / f"{name}.json"),
        thing_dataset_id_to_contiguous_id={c + 1: c for c in range(CLASSES)},
    )
    evaluator = COCOEvaluator(name, output_dir=str(folder / name))
    evaluator.reset()
    grid = torch.rand(28, 28)
    evaluator.process([{"image_id": 1}], [{"instances": detections(1, MASKS, grid)}])
    gc.collect()
    tracemalloc.start()
    for image in range(2, images + 1):
        output = {"instances": detections(image, MASKS, grid)}
        evaluator.process([{"image_id": image}], [output])
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, peak


def test_convention_memory_is_flat_in_the_number_of_images(tmp_path, monkeypatch):
    few, many = (peaks(images, tmp_path, monkeypatch) for images in (100, 300))
    # An image of these detections takes 20 kB as dictionaries, 5 kB as columns.
    assert (many[0] - few[0]) / 200 < 400
    assert (many[1] - few[1]) / 200 < 1500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_convention_20000_images_with_100_masks_fit_into_a_gigabyte(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("large_evaluation.py"), "20000", "100", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["peak"] < 1e9, measured
    assert measured["AP"]["bbox"] > 0 and measured["AP"]["segm"] > 0
