"""Pictures of training data: as annotated, or as the model gets it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.engine.config_source import resolve_config
from detectron2.engine.predict_files import save_picture
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer

__all__ = ["SOURCES", "invoke_main", "main"]

Picture = tuple[str, np.ndarray]


def _annotation(cfg: Any) -> Iterator[Picture]:
    """Every image of the training datasets with its annotations."""
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        for record in DatasetCatalog.get(name):
            rgb = read_image(record["file_name"], format="RGB")
            picture = Visualizer(rgb, metadata).draw_dataset_dict(record).get_image()
            yield Path(record["file_name"]).name, picture


def _dataloader(cfg: Any) -> Iterator[Picture]:
    """What the loader yields, without end."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    for batch in build_detection_train_loader(cfg):
        for sample in batch:
            image = sample["image"].permute(1, 2, 0)
            visualizer = Visualizer(convert_image_to_rgb(image, cfg.INPUT.FORMAT), metadata)
            yield f"{sample['image_id']}.jpg", _draw(visualizer, sample, metadata)


def _draw(visualizer: Visualizer, sample: dict[str, Any], metadata: Any) -> np.ndarray:
    instances = sample["instances"]
    fields = instances.get_fields()
    names = metadata.get("thing_classes") or []
    classes = fields["gt_classes"].tolist() if "gt_classes" in fields else []
    return visualizer.overlay_instances(
        boxes=fields.get("gt_boxes"),
        masks=fields.get("gt_masks"),
        keypoints=fields.get("gt_keypoints"),
        labels=[names[i] if i < len(names) else str(i) for i in classes],
    ).get_image()


SOURCES = {"annotation": _annotation, "dataloader": _dataloader}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, or with ``--show`` open, a picture for each image."""
    parser = argparse.ArgumentParser(description="Draw the training data of a YAML config.")
    add = parser.add_argument
    add("--source", choices=SOURCES, required=True, help="annotations, or what the loader yields")
    add("--config-file", metavar="FILE", required=True, help="YAML file or name of the zoo")
    add("--output-dir", default="./", help="folder of the pictures")
    add("--show", action="store_true", help="open each picture instead of writing it")
    add("opts", nargs=argparse.REMAINDER, help="changes of the config, KEY VALUE")
    args = parser.parse_args(arguments)
    setup_logger()
    pairs = zip(args.opts[::2], args.opts[1::2], strict=True)
    cfg = resolve_config(args.config_file, [f"{key}={value}" for key, value in pairs])
    for name, picture in SOURCES[args.source](cfg):
        if args.show:
            from PIL import Image

            Image.fromarray(picture).show(name)
        else:
            save_picture(picture, Path(args.output_dir) / name)


def invoke_main() -> None:
    """Parse the command line and run `main`."""
    main()
