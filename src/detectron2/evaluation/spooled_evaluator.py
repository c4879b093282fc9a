"""What evaluators share that keep their predictions on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.evaluation.spool import PredictionSpool, spool_folder
from detectron2.utils import comm

__all__ = ["SpooledEvaluator"]


class SpooledEvaluator(DatasetEvaluator):
    """An evaluator whose `_predictions` are a `PredictionSpool`.

    A subclass may keep a list there instead; it is then neither on disk nor resumed.
    """

    _predictions: Any
    _output_dir: str | None
    _image_key = "image_id"  # entry of an input, and of a prediction, that names the image

    def _new_spool(self, dataset_name: str) -> PredictionSpool:
        return PredictionSpool(
            spool_folder(self._output_dir),
            f"{type(self).__name__}-{dataset_name}",
            comm.get_rank(),
            (self._image_key,),
        )

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        if isinstance(self._predictions, PredictionSpool):
            self._predictions.begin(identity, resume)

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        restored = getattr(self._predictions, "restored", ())
        return bool(restored) and record.get(self._image_key) in restored

    def _complete(self, predictions: Any) -> None:
        """The metrics are computed: nothing is left to resume."""
        if isinstance(predictions, PredictionSpool):
            predictions.remove_files()
