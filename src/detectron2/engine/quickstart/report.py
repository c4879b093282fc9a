"""The page that ends the quick start: how training went, how good the model is, what it sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.predict_files import draw_predictions, save_picture
from detectron2.utils.html import Page, Series
from detectron2.utils.visualizer import Visualizer

__all__ = ["write_report"]

_MIN_SCORE = 0.5
_PICTURES_IN_REPORT = 12
# The drawn images are small: at this size labels leave room for the shapes, and can still be read
# in two figures per row of the page.
_PICTURE_SCALE = 3.0
_FIGURE_WIDTH = 500
# The losses a reader looks at, each beside the others of its part of the model.
_CHARTS = {
    "Total loss": ("total_loss",),
    "Box head": ("loss_cls", "loss_box_reg"),
    "Mask head": ("loss_mask",),
    "Proposals (RPN)": ("loss_rpn_cls", "loss_rpn_loc"),
}
_AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def write_report(
    output: Path,
    cfg: CfgNode,
    metrics: dict[str, dict[str, float]],
    seconds: dict[str, float],
    on_image_done: Callable[[], None] = lambda: None,
) -> Path:
    """Annotate the validation images and write `output`/report.html.

    Args:
        output: folder with metrics.json of the training; annotated images go to
            `output`/predictions.
        cfg: config whose MODEL.WEIGHTS is the trained checkpoint.
        metrics: results of `COCOEvaluator`, in percent.
        seconds: duration of each step so far.
        on_image_done: called after each annotated image, for a progress bar.
    """
    figures: list[tuple[str, dict[str, np.ndarray]]] = []
    predictor = DefaultPredictor(cfg)
    dataset_name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(dataset_name)
    for record in DatasetCatalog.get(dataset_name):
        pixels = read_image(record["file_name"], format="BGR")
        instances = predictor(pixels)["instances"].to("cpu")
        instances = instances[instances.scores >= _MIN_SCORE]
        rgb = np.ascontiguousarray(pixels[:, :, ::-1])
        found = draw_predictions(rgb, {"instances": instances}, metadata, _PICTURE_SCALE)
        name = Path(record["file_name"]).name
        save_picture(found, output / "predictions" / name)
        if len(figures) < _PICTURES_IN_REPORT:
            truth = Visualizer(rgb, metadata, _PICTURE_SCALE).draw_dataset_dict(record).get_image()
            caption = f"{name}: {len(instances)} found, {_count_objects(record)} drawn"
            figures.append((caption, {"ground truth": truth, "prediction": found}))
        on_image_done()
    return _page(output, cfg, metrics, seconds, figures).write(output / "report.html")


def _page(
    output: Path,
    cfg: CfgNode,
    metrics: dict[str, dict[str, float]],
    seconds: dict[str, float],
    figures: list[tuple[str, dict[str, np.ndarray]]],
) -> Page:
    page = Page(
        "Quick start: Mask R-CNN on drawn shapes",
        f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, from scratch, "
        f"on {cfg.MODEL.DEVICE}. {sum(seconds.values()):.0f} seconds in all.",
    )
    page.heading("How good it is")
    page.paragraph("Average precision on the validation images, in percent (COCO metrics).")
    page.table(
        ("", *_AP_COLUMNS),
        [(task, *(values[c] for c in _AP_COLUMNS)) for task, values in metrics.items()],
    )
    page.heading("By class")
    page.table(("class", *(f"AP {task}" for task in metrics)), _rows_by_class(metrics))
    page.heading("How training went")
    page.charts(_charts(output / "metrics.json"))
    page.heading("What it sees")
    page.paragraph(f"Detections with a score of at least {_MIN_SCORE}.")
    page.gallery(figures, _FIGURE_WIDTH)
    page.heading("Where the time went")
    page.table(("step", "seconds"), list(seconds.items()))
    page.heading("Next")
    page.paragraph("Try the model, or one from the zoo, on photographs of your own:")
    page.code(
        f"detectron2 predict PHOTOS --config {output / 'config.yaml'} "
        f"--weights {output / 'model.pth'}\ndetectron2 zoo"
    )
    return page


def _rows_by_class(metrics: dict[str, dict[str, float]]) -> list[tuple[Any, ...]]:
    # The evaluator reports a class as "AP-name".
    first = next(iter(metrics.values()))
    keys = [key for key in first if key.startswith("AP-")]
    return [(key[3:], *(values[key] for values in metrics.values())) for key in keys]


def _charts(history: Path) -> dict[str, list[Series]]:
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    charts = {}
    for title, names in _CHARTS.items():
        series = []
        for name in names:
            points = [(row["iteration"], row[name]) for row in rows if name in row]
            series.append(Series(name, [p[0] for p in points], [p[1] for p in points]))
        charts[title] = series
    return charts


def _count_objects(record: dict[str, Any]) -> int:
    return sum(not annotation.get("iscrowd", 0) for annotation in record["annotations"])
