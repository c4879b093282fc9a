"""Metrics of semantic segmentation: IoU, accuracy and boundary IoU."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data._image_io import labels_as_shown
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.evaluation.output_files import open_output, write_json_list
from detectron2.evaluation.spool import PredictionSpool, gather_predictions, spool_folder
from detectron2.utils.comm import (
    all_gather,
    get_rank,
    get_world_size,
    is_main_process,
    synchronize,
)
from detectron2.utils.file_io import PathManager

__all__ = [
    "DatasetCatalog",
    "DatasetEvaluator",
    "MetadataCatalog",
    "SemSegEvaluator",
    "all_gather",
    "is_main_process",
    "load_image_into_numpy_array",
    "synchronize",
]


def load_image_into_numpy_array(filename: str, dtype: Any = None) -> np.ndarray:
    """Pixels of a label image, as stored: for a PNG with one channel (H, W)."""
    with PathManager.open(filename, "rb") as stream:
        return np.array(Image.open(stream), dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """IoU and accuracy of semantic segmentation over a whole dataset.

    IoU of a class is intersection over union of all its pixels in all images. Boundary IoU
    (B. Cheng et al., "Boundary IoU", CVPR 2021) looks at the pixels near borders only.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable[..., np.ndarray] = load_image_into_numpy_array,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered dataset whose records have "file_name" and
                "sem_seg_file_name"; its metadata has stuff_classes and ignore_label.
            distributed: gather from all processes; otherwise each evaluates its own.
            output_dir: folder for "sem_seg_predictions.json" and "sem_seg_evaluation.pth".
            sem_seg_loading_fn: called with the file name of a label image and ``dtype=int``,
                returns (H, W) labels.
            num_classes: deprecated, comes from the metadata.
            ignore_label: deprecated, comes from the metadata.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self._cpu_device = torch.device("cpu")
        self.input_file_to_gt_file = {
            record["file_name"]: record["sem_seg_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        metadata = MetadataCatalog.get(dataset_name)
        index_of = metadata.get("stuff_dataset_id_to_contiguous_id", None)
        self._contiguous_id_to_dataset_id = (
            None if index_of is None else {index: label for label, index in index_of.items()}
        )
        self._class_names = metadata.stuff_classes
        self.sem_seg_loading_fn = sem_seg_loading_fn
        self._num_classes = len(self._class_names)
        for name, value in (("num_classes", num_classes), ("ignore_label", ignore_label)):
            if value is not None:
                self._logger.warning(f"SemSegEvaluator({name}) is deprecated; use the metadata.")
        if num_classes not in (None, self._num_classes):
            raise AssertionError(
                f"num_classes={num_classes}, but the metadata names {self._num_classes} classes."
            )
        self._ignore_label = metadata.ignore_label if ignore_label is None else ignore_label
        self.reset()

    def reset(self) -> None:
        # Rows are predicted, columns true classes; the last of each is "ignored".
        size = self._num_classes + 1
        self._conf_matrix = np.zeros((size, size), dtype=np.int64)
        self._b_conf_matrix = np.zeros((size, size), dtype=np.int64)
        folder, rank = spool_folder(self._output_dir), get_rank()
        name = f"{type(self).__name__}-{self._dataset_name}"
        self._predictions: Any = PredictionSpool(folder, name, rank, ("file_name", "category_id"))
        # Counts of each image: what a run that is resumed starts from.
        self._counts = PredictionSpool(folder, f"{name}-counts", rank, ("file_name",))

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        self._counts.begin(identity, resume)
        if isinstance(self._predictions, PredictionSpool):
            self._predictions.begin(identity, resume)
        if is_main_process():
            self._counts.adopt_left_behind(get_world_size())
        self._add_counts(self._counts)

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        return record.get("file_name") in self._counts.restored

    def _add_counts(self, images: Iterable[Mapping[str, Any]]) -> None:
        for image in images:
            for name, matrix in (("all", self._conf_matrix), ("border", self._b_conf_matrix)):
                matrix.flat[image[name][0]] += image[name][1]

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "file_name".
            outputs: dictionaries with "sem_seg", (C, H, W) scores in the size of the label image.
        """
        for record, output in zip(inputs, outputs):
            file_name = record["file_name"]
            predicted = output["sem_seg"].argmax(dim=0).to(torch.int32).cpu().numpy()
            truth = self._load_truth(
                self.input_file_to_gt_file[file_name], predicted.shape, file_name
            )
            counts = {
                "file_name": file_name,
                "all": _sparse(self._confusion(predicted, truth)),
                "border": _sparse(
                    self._confusion(
                        self._mask_to_boundary(predicted), self._mask_to_boundary(truth)
                    )
                ),
            }
            self._add_counts([counts])
            if self._output_dir is not None:
                self._predictions.extend(self.encode_json_sem_seg(predicted, file_name))
                self._counts.append(counts)

    def _load_truth(self, file_name: str, shape: tuple[int, int], image_file: str) -> np.ndarray:
        """(H, W) int32 true classes, with the number of classes for pixels to ignore."""
        labels = self.sem_seg_loading_fn(file_name, dtype=int)
        labels = labels_as_shown(labels, shape, image_file)
        truth = np.where(labels == self._ignore_label, self._num_classes, labels).astype(np.int32)
        if truth.shape != shape:
            raise ValueError(f"{file_name} is {truth.shape} in size, its prediction {shape}.")
        if truth.size and not 0 <= truth.min() <= truth.max() <= self._num_classes:
            raise ValueError(
                f"{file_name} has labels {int(labels.min())} to {int(labels.max())}. Labels are "
                f"0 to {self._num_classes - 1}, or {self._ignore_label} to be ignored."
            )
        return truth

    def _confusion(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(n + 1, n + 1) numbers of pixels, by predicted and true class."""
        from hotcoco.metrics import pixel_confusion

        return pixel_confusion(truth, predicted, self._num_classes + 1).T.astype(np.int64)

    def _mask_to_boundary(self, mask: np.ndarray, dilation_ratio: float = 0.02) -> np.ndarray:
        """How far each label lies above the lowest label near it, 0 away from borders.

        For a binary mask that is its boundary; the original applies it to a map of all labels.

        Args:
            mask: (H, W) labels.
            dilation_ratio: what is near, as part of the image's diagonal.
        """
        radius = max(1, round(dilation_ratio * float(np.hypot(*mask.shape))))
        return mask - _lowest_nearby(mask, radius)

    def evaluate(self) -> OrderedDict[str, Any] | None:
        """Metrics in percent, as ``{"sem_seg": {...}}``; None on other than the main process.

        * mIoU, mACC: mean IoU and accuracy over the classes that occur; pACC: accuracy of all
          pixels; fwIoU: IoU weighted by how frequent a class is.
        * IoU-<class>, ACC-<class>, BoundaryIoU-<class>, and the lower of IoU and boundary IoU.
        """
        if self._distributed:
            synchronize()
            gathered = all_gather((self._conf_matrix, self._b_conf_matrix))
            predictions = gather_predictions(self._predictions, distributed=True)
            if not is_main_process():
                self._counts.remove_files()
                return None
            self._conf_matrix = sum(part[0] for part in gathered)
            self._b_conf_matrix = sum(part[1] for part in gathered)
            self._predictions = predictions
        results = self._metrics()
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            write_json_list(
                os.path.join(self._output_dir, "sem_seg_predictions.json"), self._predictions
            )
            path = os.path.join(self._output_dir, "sem_seg_evaluation.pth")
            with open_output(path, "wb") as stream:
                torch.save(results, stream)
        self._logger.info(results)
        for spool in (self._predictions, self._counts):
            if isinstance(spool, PredictionSpool):
                spool.remove_files()
        return OrderedDict({"sem_seg": results})

    def _metrics(self) -> dict[str, float]:
        counts = _Counts(self._conf_matrix)
        iou, accuracy = counts.iou(), counts.accuracy()
        boundary_iou = _Counts(self._b_conf_matrix).iou_of_any()
        weighted = iou * _ratio(counts.truth, counts.truth.sum())
        metrics = {
            "mIoU": _mean(iou),
            "fwIoU": _mean(weighted) * np.count_nonzero(~np.isnan(weighted)),
            **self._per_class("IoU", iou),
            **self._per_class("BoundaryIoU", boundary_iou),
            **self._per_class("min(IoU, B-Iou)", np.minimum(iou, boundary_iou)),
            "mACC": _mean(accuracy),
            "pACC": _ratio(counts.correct.sum(), counts.truth.sum()),
            **self._per_class("ACC", accuracy),
        }
        return {name: 100 * float(value) for name, value in metrics.items()}

    def _per_class(self, metric: str, values: np.ndarray) -> Mapping[str, float]:
        return {f"{metric}-{name}": value for name, value in zip(self._class_names, values)}

    def encode_json_sem_seg(
        self, sem_seg: np.ndarray, input_file_name: str
    ) -> list[dict[str, Any]]:
        """Masks of the classes of an image, in the format of COCO's stuff results.

        Args:
            sem_seg: (H, W) predicted classes.
            input_file_name: of the image.
        """
        from hotcoco import mask as rle_codec

        encoded = []
        for label in np.unique(sem_seg).tolist():
            category = label
            if self._contiguous_id_to_dataset_id is not None:
                if label not in self._contiguous_id_to_dataset_id:
                    raise AssertionError(
                        f"Class {label} is predicted for {input_file_name}, but the metadata of "
                        f"{self._dataset_name!r} has no dataset id for it."
                    )
                category = self._contiguous_id_to_dataset_id[label]
            rle = rle_codec.encode(sem_seg == label)
            rle["counts"] = rle["counts"].decode("ascii")
            encoded.append(
                {"file_name": input_file_name, "category_id": category, "segmentation": rle}
            )
        return encoded


def _sparse(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of a flattened matrix that are not 0, and what is there."""
    places = np.flatnonzero(matrix)
    return places, matrix.flat[places]


class _Counts:
    """Pixels of each class in a confusion matrix, those to be ignored left out.

    correct, predicted, truth: (n,) pixels found, predicted and existing of each class.
    """

    def __init__(self, confusion: np.ndarray) -> None:
        classes = confusion[:-1, :-1].astype(np.float64)
        self.correct = classes.diagonal()
        self.predicted = classes.sum(axis=1)
        self.truth = classes.sum(axis=0)

    def iou_of_any(self) -> np.ndarray:
        """(n,) IoU; NaN for a class that neither occurs nor is predicted."""
        return _ratio(self.correct, self.truth + self.predicted - self.correct)

    def iou(self) -> np.ndarray:
        """(n,) IoU; NaN for a class that does not occur."""
        return np.where(self.truth > 0, self.iou_of_any(), np.nan)

    def accuracy(self) -> np.ndarray:
        """(n,) part of the pixels of a class that are found; NaN if it does not occur."""
        return _ratio(self.correct, self.truth)


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) > 0, np.asarray(part) / whole, np.nan)[()]


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN."""
    valid = values[~np.isnan(values)]
    return float(valid.sum() / len(valid)) if len(valid) else float("nan")


def _lowest_nearby(labels: np.ndarray, radius: int) -> np.ndarray:
    """Lowest value in the square of ``2 * radius + 1`` pixels around each; 0 is outside."""
    lowest = np.pad(labels, radius)
    for axis in (0, 1):
        lowest = _running_minimum(lowest, 2 * radius + 1, axis)
    return lowest


def _running_minimum(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Minimum over windows of `length` along an axis; the result is ``length - 1`` shorter.

    Windows are doubled until the next doubling would be too long, so it takes log2(length) passes.
    """
    values = np.moveaxis(values, axis, 0)
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        values = np.minimum(values[:-step], values[step:])
        covered += step
    return np.moveaxis(values, 0, axis)
