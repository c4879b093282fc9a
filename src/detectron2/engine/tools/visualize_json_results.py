"""Pictures of a COCO result file beside the ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine.visualize_dataset import visualize_dataset
from detectron2.utils.logger import setup_logger

__all__ = ["invoke_main", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a picture for each image: the ground truth, and the predictions on its right."""
    parser = argparse.ArgumentParser(description="Draw predictions beside the ground truth.")
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="JSON file with a list of detections")
    add("--output", required=True, metavar="FOLDER", help="folder of the pictures")
    add("--dataset", default="coco_2017_val", help="name of a registered dataset")
    add("--conf-threshold", default=0.5, type=float, help="leave out detections below this")
    args = parser.parse_args(arguments)
    logger = setup_logger()
    count = visualize_dataset(
        args.dataset,
        predictions=Path(args.input),
        output=Path(args.output),
        min_score=args.conf_threshold,
    )
    logger.info("%d pictures in %s", count, args.output)


def invoke_main() -> None:
    """Parse the command line and run `main`."""
    main()
