"""Train a Mask R-CNN on photographs labelled with the VGG Image Annotator.

    python examples/balloon/balloon.py FOLDER --output balloon_output

FOLDER holds train/ and val/, each with photographs and a via_region_data.json. The class of a
region is its `object_name`; regions without one are balloons.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.image_inputs import ImageInput
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.engine.predict_files import CocoResultWriter, predict_files
from detectron2.structures import BoxMode

CLASSES = ["balloon", "calpis water"]


def load_photographs(folder: Path) -> list[dict]:
    """One record per photograph: this is all that a dataset needs."""
    records = []
    entries = json.loads((folder / "via_region_data.json").read_text()).values()
    for entry in sorted(entries, key=lambda entry: entry["filename"]):
        path = folder / entry["filename"]
        width, height = Image.open(path).size
        records.append(
            {
                "file_name": str(path),
                "image_id": f"{folder.name}/{entry['filename']}",
                "height": height,
                "width": width,
                "annotations": [annotation(region) for region in entry["regions"].values()],
            }
        )
    return records


def annotation(region: dict) -> dict:
    shape = region["shape_attributes"]
    if shape["name"] == "rect":
        left, top = shape["x"], shape["y"]
        right, bottom = left + shape["width"], top + shape["height"]
        xs, ys = [left, right, right, left], [top, top, bottom, bottom]
    else:
        xs, ys = shape["all_points_x"], shape["all_points_y"]
    name = region["region_attributes"].get("object_name", "balloon")
    return {
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": [[value for point in zip(xs, ys) for value in point]],
        "category_id": CLASSES.index(name),
    }


def register(folder: Path, mixed: bool) -> None:
    """Register photos_train and photos_val: the two folders, or, mixed, every fifth held out."""
    train, val = load_photographs(folder / "train"), load_photographs(folder / "val")
    if mixed:
        every = train + val
        val = every[::5]
        train = [record for index, record in enumerate(every) if index % 5]
    for name, records in (("photos_train", train), ("photos_val", val)):
        DatasetCatalog.register(name, lambda records=records: records)
        MetadataCatalog.get(name).set(thing_classes=CLASSES, evaluator_type="coco")


def configure(output: Path, iterations: int):
    """The quick start's small Mask R-CNN, for larger images, from scratch."""
    cfg = model_zoo.get_config("Quickstart/mask_rcnn_R_50_narrow_FPN.yaml")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("photos_train",), ("photos_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.INPUT.MASK_FORMAT = "polygon"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (256, 288, 320, 352, 384), 576
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 320, 576
    cfg.SOLVER.IMS_PER_BATCH = 4
    # From random weights AdamW gets further than SGD in few iterations.
    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 1e-3, 0.01
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.STEPS = (int(iterations * 0.75), int(iterations * 0.9))
    cfg.SOLVER.WARMUP_ITERS = 100
    cfg.OUTPUT_DIR = str(output)
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("balloon_output"))
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--mixed", action="store_true", help="hold out every fifth photograph")
    args = parser.parse_args()
    register(args.folder, args.mixed)

    cfg = configure(args.output, args.iterations)
    args.output.mkdir(parents=True, exist_ok=True)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()  # and evaluates on photos_val at the end

    cfg.MODEL.WEIGHTS = str(args.output / "model_final.pth")
    predictor = DefaultPredictor(cfg)
    photographs = [Path(record["file_name"]) for record in DatasetCatalog.get("photos_val")]
    summary = predict_files(
        [ImageInput(path.name, str(path)) for path in photographs],
        predictor,
        metadata=predictor.metadata,
        writer=CocoResultWriter(args.output / "predictions.json", CLASSES),
        picture_folder=args.output / "predictions",
    )
    print(f"{summary.detections} objects in {summary.images} photographs, drawn in {args.output}")


if __name__ == "__main__":
    main()
