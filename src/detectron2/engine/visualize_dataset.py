"""Pictures of a dataset's annotations, with predictions beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.auto import open_dataset
from detectron2.data.detection_utils import read_image
from detectron2.data.image_inputs import unique_names
from detectron2.engine.predict_files import save_picture
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.files import require_writable_folder
from detectron2.utils.visualizer import Visualizer

__all__ = ["draw_record", "result_rows_to_instances", "visualize_dataset"]

_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


def visualize_dataset(
    dataset: str,
    *,
    image_root: Path | None = None,
    predictions: Path | None = None,
    output: Path,
    limit: int | None = None,
    min_score: float = 0.5,
) -> int:
    """Draw a dataset into `output`, one picture per image. Returns how many.

    Args:
        dataset: name of a registered dataset, path of a COCO-format JSON file, or a folder in a
            format that `detectron2.data.datasets.auto` recognises; its splits get a folder each.
        image_root: folder of the images of a JSON file; that of the file if None.
        predictions: COCO result file drawn to the right of the ground truth.
        output: folder for the pictures, created if absent.
        limit: draw only the first so many images.
        min_score: detections below it are not drawn.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: `predictions` is no list of COCO results or is that of another dataset, or a
            folder is not recognised.
        OSError: `output` cannot be written to.
    """
    names = open_dataset(dataset, image_root).names
    require_writable_folder(output)
    splits = {split: DatasetCatalog.get(name) for split, name in names.items()}
    found = None
    if predictions is not None:
        found = _results_by_image(predictions)
        _require_common_images(found, splits, f"{str(predictions)!r} and {dataset!r}")
    count = 0
    for split, records in splits.items():
        metadata = MetadataCatalog.get(names[split])
        folder = output / split if len(names) > 1 else output
        chosen = records[: None if limit is None else limit - count]
        pictures = unique_names(Path(record["file_name"]).name for record in chosen)
        for record, picture_name in zip(chosen, pictures, strict=True):
            rows = None
            if found is not None:
                rows = [row for row in found[record["image_id"]] if row["score"] >= min_score]
            picture = draw_record(record, metadata, rows)
            save_picture(picture, folder / picture_name)
            count += 1
    return count


def _require_common_images(
    found: Mapping[Any, Any], splits: Mapping[str, Sequence[dict[str, Any]]], names: str
) -> None:
    if found and not any(r["image_id"] in found for each in splits.values() for r in each):
        raise ValueError(f"The image ids of {names} do not match: no detection can be drawn.")


def draw_record(
    record: dict[str, Any],
    metadata: Metadata,
    rows: Iterable[dict[str, Any]] | None = None,
    widest: int | None = None,
) -> np.ndarray:
    """RGB picture of a record's annotations, with COCO result rows on its right.

    Args:
        record: a record.
        metadata: of its dataset.
        rows: detections of this image.
        widest: wider images are drawn smaller, and those less than half as wide larger, so that
            labels can be read; without `rows` only.

    Returns:
        (H, W, 3) uint8.
    """
    rgb = read_image(record["file_name"], format="RGB")
    scale = 1.0
    if widest is not None:
        scale = min(widest / rgb.shape[1], max(1.0, widest / 2 / rgb.shape[1]))
    picture = Visualizer(rgb, metadata, scale=scale).draw_dataset_dict(record).get_image()
    if rows is None:
        return picture
    instances = result_rows_to_instances(rows, rgb.shape[:2], metadata)
    drawn = Visualizer(rgb, metadata).draw_instance_predictions(instances).get_image()
    return np.concatenate([picture, drawn], axis=1)


def result_rows_to_instances(
    rows: Iterable[dict[str, Any]], image_size: tuple[int, int], metadata: Metadata
) -> Instances:
    """COCO result rows of one image as `Instances` with fields as models predict them.

    Args:
        rows: dictionaries with bbox (x, y, w, h), score, category_id (of the dataset) and, in
            all or in none, segmentation (RLE).
        image_size: (H, W) in pixels.
        metadata: with `thing_dataset_id_to_contiguous_id`.

    Raises:
        ValueError: a detection is of a category that the dataset does not have.
    """
    from hotcoco import mask as coco_mask

    rows = list(rows)
    classes = range(len(metadata.thing_classes))
    ids = metadata.get("thing_dataset_id_to_contiguous_id", {i: i for i in classes})
    if unknown := {row["category_id"] for row in rows} - ids.keys():
        raise ValueError(
            f"There are detections of category {', '.join(map(str, unknown))}; the dataset has "
            f"{', '.join(map(str, ids))}."
        )
    boxes = [BoxMode.convert(row["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for row in rows]
    instances = Instances(image_size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([float(row["score"]) for row in rows])
    instances.pred_classes = torch.tensor([ids[row["category_id"]] for row in rows]).long()
    if rows and all("segmentation" in row for row in rows):
        masks = [np.asarray(coco_mask.decode(row["segmentation"])) > 0 for row in rows]
        instances.pred_masks = torch.from_numpy(np.stack(masks))
    return instances


def _results_by_image(path: Path) -> dict[Any, list[dict[str, Any]]]:
    """Rows of a COCO result file by image id.

    Raises:
        FileNotFoundError, ValueError: it does not exist, or is no such file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"The file of predictions {str(path)!r} does not exist.") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON file: {error}.") from error
    if not isinstance(rows, list):
        raise ValueError(
            f"{str(path)!r} is no COCO result file: it must hold a list of detections, "
            f"not a {type(rows).__name__}."
        )
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows):
        missing = [key for key in _RESULT_KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(
                f"Detection {number} of {str(path)!r} is without {' and '.join(missing)}."
            )
        by_image[row["image_id"]].append(row)
    return by_image
