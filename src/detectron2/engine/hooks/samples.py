"""Pictures of what the model finds, drawn during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from detectron2.engine._random_state import unchanged_random_state
from detectron2.engine.train_loop import HookBase

__all__ = ["SamplePredictions"]


class SamplePredictions(HookBase):
    """Draws predictions on the first images of a dataset, at every evaluation.

    They become images of the event storage, and `figures` of a report.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        inputs: Iterable[Sequence[Mapping[str, Any]]],
        metadata: Any,
        *,
        count: int = 4,
        min_score: float = 0.5,
        report: Any = None,
    ) -> None:
        """
        Args:
            period: iterations between two drawings; 0 means only at the end.
            model: detects in evaluation mode.
            inputs: batches for it, with "file_name".
            metadata: class names for the labels.
            count: number of images.
            min_score: detections below are not drawn.
            report: a `ReportWriter` that gets the pictures; None for none.
        """
        self._period = period
        self._model = model
        self._inputs = inputs
        self._metadata = metadata
        self._count = count
        self._min_score = min_score
        self._report = report

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            with unchanged_random_state():
                self._draw()

    def _draw(self) -> None:
        figures = []
        for record, output in self._predictions():
            picture = self._picture(record, output)
            name = str(record["file_name"]).replace("\\", "/").rsplit("/", 1)[-1]
            figures.append((f"{name}, iteration {self.trainer.iter}", {"found": picture}))
            tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
            self.trainer.storage.put_image(f"samples/{name}", tensor)
        if self._report is not None:
            self._report.figures = figures

    def _predictions(self) -> list[tuple[Mapping[str, Any], Any]]:
        model = getattr(self._model, "module", self._model)
        model.eval()
        try:
            with torch.no_grad():
                pairs = [
                    (record, output)
                    for batch in islice(self._inputs, self._count)
                    for record, output in zip(batch, model(batch), strict=True)
                ]
        finally:
            model.train()
        return pairs[: self._count]

    def _picture(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> np.ndarray:
        from detectron2.data.detection_utils import read_image
        from detectron2.engine.predict_files import draw_predictions

        rgb = read_image(record["file_name"], format="RGB")
        shown = {key: value for key, value in output.items() if key != "proposals"}
        if "instances" in shown:
            instances = shown["instances"].to("cpu")
            if instances.has("scores"):
                instances = instances[instances.scores >= self._min_score]
            shown["instances"] = instances
        return draw_predictions(rgb, shown, self._metadata)
