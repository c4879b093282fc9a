"""A trained model with its preprocessing: the predictor of `detectron2.engine.defaults`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data._image_io import ALL_CHANNELS
from detectron2.engine._copy_ahead import InputsAhead
from detectron2.engine._device_images import resized_on_device, shapes_of
from detectron2.engine._recipe import recipe_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.inference import speed_up
from detectron2.engine.streaming import map_in_batches, prefetched

__all__ = ["ConfigSource", "DefaultPredictor"]

ConfigSource = str | os.PathLike[str] | CfgNode | DictConfig


class DefaultPredictor:
    """A trained model for one image at a time.

    It loads the weights that the config names, resizes as the config says for testing, and
    takes images in OpenCV's channel order.

    Attributes:
        cfg: the config.
        model: in evaluation mode.
        metadata: of the first test dataset, with class names.
        saved: what else the file of the weights holds, such as "iteration".
        load_report: which tensors the weights had; None if there were no weights.
        aug: resizes an image for the model.
        input_format: ``"BGR"`` or ``"RGB"``, the order in which the model takes channels;
            ``"CHANNELS"`` for a model that takes all channels of the file as they are.
    """

    # Configs and pickles name classes by their public address.
    __module__ = "detectron2.engine.defaults"

    metadata: Any

    def __init__(
        self, cfg: ConfigSource, precision: str = "fp32", cuda_graphs: bool = False
    ) -> None:
        """
        Args:
            cfg: a config, the path of a YAML or LazyConfig file, or a name of the model zoo.
            precision: see `detectron2.engine.optimize_for_inference`.
            cuda_graphs: run the trunk of a model on a GPU from recordings, of one padded shape
                for wide images and one for high ones.

        Raises:
            FileNotFoundError: no config of this name.
            ValueError: INPUT.FORMAT is none of BGR, RGB and CHANNELS, there is no such
                precision, or no CUDA graph of this model or of this way of resizing.
        """
        self.cfg = resolve_config(cfg)
        recipe = recipe_of(self.cfg)
        self.model = recipe.model().eval()
        if recipe.metadata_name is not None:
            self.metadata = MetadataCatalog.get(recipe.metadata_name)
        checkpointer = DetectionCheckpointer(self.model)
        self.saved = checkpointer.load(recipe.weights)
        self.load_report = checkpointer.report
        self.aug = recipe.test_augmentation()
        self.input_format = recipe.input_format()
        if self.input_format not in ("BGR", "RGB", ALL_CHANNELS):
            raise ValueError(
                f"INPUT.FORMAT is {self.input_format!r}; use 'BGR', 'RGB' or {ALL_CHANNELS!r}."
            )
        buckets = shapes_of(self.aug, _multiple(self.model)) if cuda_graphs else None
        speed_up(self.model, precision, buckets)

    @property
    def image_format(self) -> str:
        """Format of `read_image` in which the predictor takes images."""
        return ALL_CHANNELS if self.input_format == ALL_CHANNELS else "BGR"

    def __call__(self, original_image: np.ndarray) -> Any:
        """Detect in one image.

        Args:
            original_image: (H, W, 3) in BGR order whether the model takes BGR or RGB, 0..255;
                (H, W, C) for a model of other channels.

        Returns:
            The model's output for this image, such as ``{"instances": Instances}``, in the
            frame of `original_image`.
        """
        with torch.no_grad():
            return self.model([self.prepare(original_image)])[0]

    def stream(self, images: Iterable[np.ndarray], batch_size: int = 1) -> Iterator[Any]:
        """Detect in many images; the next ones are read and resized while the model runs.

        Images of one padded size go through the model together, so a result does not depend on
        what else is in its batch.

        Args:
            images: as in a call, consumed a few batches ahead; an iterator may read files.
            batch_size: images per batch, at most.

        Yields:
            What a call returns for each image, in the order of `images`.
        """

        ahead = InputsAhead(self._device())

        def run(made: list[tuple[dict[str, Any], Any]]) -> Any:
            with torch.no_grad():
                return self.model([ahead.take(one) for one in made])

        made = (ahead.make(self.prepare, image) for image in images)
        prepared = prefetched(made, depth=2 * batch_size)
        return map_in_batches(run, prepared, lambda one: self.padded_size(one[0]), batch_size)

    def _device(self) -> torch.device | None:
        """Of the model; None where it has no parameters."""
        weight = next(self.model.parameters(), None)
        return None if weight is None else weight.device

    def padded_size(self, prepared: dict[str, Any]) -> tuple[int, int]:
        """(H, W) of the batch in which an input of the model is alone."""
        multiple = _multiple(self.model)
        height, width = prepared["image"].shape[-2:]
        graphs = getattr(self.model, "graphs", None)
        if graphs is not None and graphs.applies_to(prepared["image"]):
            bucket = graphs.bucket_of(height, width, multiple)
            if bucket is not None:
                return bucket
        return height + -height % multiple, width + -width % multiple

    def prepare(self, original_image: np.ndarray) -> dict[str, Any]:
        """The model's input for an image: ``image`` (C, H', W') float32, ``height``, ``width``.

        Images for a model on a GPU are resized there, to the same bits.

        Raises:
            ValueError: the array has another shape.
        """
        if getattr(original_image, "ndim", None) != 3:
            channels = "channels" if self.input_format == ALL_CHANNELS else 3
            raise ValueError(
                f"The predictor takes one image as an array of shape (height, width, {channels}), "
                f"not {getattr(original_image, 'shape', type(original_image).__name__)}."
            )
        height, width = original_image.shape[:2]
        is_reversed = self.input_format == "RGB"
        on_device = resized_on_device(original_image, self.aug, self._device(), is_reversed)
        if on_device is not None:
            return {"image": on_device, "height": height, "width": width}
        image = original_image[:, :, ::-1] if is_reversed else original_image
        resized = T.AugInput(image if image.dtype == np.uint8 else image.astype("float32"))
        T.AugmentationList([self.aug])(resized)
        tensor = torch.as_tensor(resized.image.astype("float32").transpose(2, 0, 1))
        return {"image": tensor, "height": height, "width": width}


def _multiple(model: Any) -> int:
    """What sides of a model's input are padded to multiples of."""
    return max(getattr(getattr(model, "backbone", None), "size_divisibility", 1), 1)
