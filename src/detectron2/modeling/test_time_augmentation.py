"""Test-time augmentation: detections of one image from several versions of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import HFlipTransform, Transform, TransformList
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectron2.config import configurable
from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.meta_arch import DATASET_MAPPER_TTA
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, Instances

__all__ = ["DatasetMapperTTA", "GeneralizedRCNNWithTTA"]


class DatasetMapperTTA:
    """Versions of one image: resized to several sizes, each also mirrored."""

    @configurable
    def __init__(self, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        """
        Args:
            min_sizes: lengths of the shorter edge, in pixels.
            max_size: largest length of the longer edge.
            flip: also mirror each size horizontally.
        """
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return read_arguments(cfg, DATASET_MAPPER_TTA)

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            dataset_dict: model input with `image` (C, H, W) and with `height` and `width` of
                the output.

        Returns:
            Copies of it, each with its own `image`, uint8 if it was, and `transforms`: a
            TransformList from the frame of the output to that of the new image.
        """
        from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform

        image = dataset_dict["image"].permute(1, 2, 0).cpu().numpy()
        output_size = (dataset_dict["height"], dataset_dict["width"])
        before: list[Transform] = []
        if image.shape[:2] != output_size:
            before.append(ResizeTransform(*output_size, *image.shape[:2]))
        versions = []
        for size in self.min_sizes:
            resize = ResizeShortestEdge(size, self.max_size).get_transform(image)
            resized = resize.apply_image(image)
            versions.append(_version(dataset_dict, resized, [*before, resize]))
            if self.flip:
                mirror = HFlipTransform(resized.shape[1])
                mirrored = mirror.apply_image(resized)
                versions.append(_version(dataset_dict, mirrored, [*before, resize, mirror]))
        return versions


def _version(
    dataset_dict: dict[str, Any], image: np.ndarray, transforms: list[Transform]
) -> dict[str, Any]:
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return {**dataset_dict, "image": tensor, "transforms": TransformList(transforms)}


class GeneralizedRCNNWithTTA(nn.Module):
    """A `GeneralizedRCNN` that merges its detections on several versions of each image.

    Called like the model itself. Boxes of all versions are suppressed together; masks are
    predicted for the remaining boxes in every version and averaged.
    """

    def __init__(
        self,
        cfg: Any,
        model: nn.Module,
        tta_mapper: Any = None,
        batch_size: int = 3,
    ) -> None:
        """
        Args:
            model: a GeneralizedRCNN, or one in DistributedDataParallel.
            tta_mapper: makes the versions, like `DatasetMapperTTA`; None for that one, from
                the config.
            batch_size: versions that go through the model at once.
        """
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, GeneralizedRCNN):
            raise TypeError(f"Test-time augmentation is for GeneralizedRCNN, not {type(model)}.")
        if cfg.MODEL.KEYPOINT_ON:
            raise ValueError("Test-time augmentation does not merge keypoints (KEYPOINT_ON).")
        if cfg.MODEL.LOAD_PROPOSALS:
            raise ValueError("Test-time augmentation cannot use LOAD_PROPOSALS.")
        self.cfg = cfg.clone()
        self.model = model
        self.tta_mapper = DatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper
        self.batch_size = batch_size

    @contextmanager
    def _turn_off_roi_heads(self, attrs: Sequence[str]) -> Iterator[None]:
        """Set switches of the ROI heads, such as ``mask_on``, to False within the block."""
        heads = self.model.roi_heads
        present = [name for name in attrs if hasattr(heads, name)]
        with ExitStack() as restore:
            for name in present:
                restore.callback(setattr, heads, name, getattr(heads, name))
                setattr(heads, name, False)
            yield

    def _batch_inference(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        detected_instances: Sequence[Instances] | None = None,
    ) -> list[Instances]:
        """Results for each input in its own frame, `batch_size` inputs at a time."""
        outputs: list[Instances] = []
        for start in range(0, len(batched_inputs), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            given = None if detected_instances is None else list(detected_instances[chunk])
            outputs += self.model.inference(
                list(batched_inputs[chunk]), given, do_postprocess=False
            )
        return outputs

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Same input and output as the model; `image` may be left out if there is `file_name`."""
        return [self._inference_one_image(self._with_image(x)) for x in batched_inputs]

    def _with_image(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Copy with `image`, `height` and `width`, the image read from `file_name` if absent."""
        from detectron2.data.detection_utils import read_image

        result = dict(dataset_dict)
        if "image" not in result:
            pixels = read_image(result.pop("file_name"), self.model.input_format)
            result["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        height, width = result["image"].shape[1:]
        result.setdefault("height", height)
        result.setdefault("width", width)
        return result

    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Instances]:
        """
        Args:
            input: with `image`, `height` and `width`.

        Returns:
            ``{"instances": Instances}`` of size (height, width).
        """
        output_size = (input["height"], input["width"])
        augmented_inputs, tfms = self._get_augmented_inputs(input)
        with self._turn_off_roi_heads(["mask_on", "keypoint_on"]):
            all_boxes, all_scores, all_classes = self._get_augmented_boxes(augmented_inputs, tfms)
        merged = self._merge_detections(all_boxes, all_scores, all_classes, output_size)
        if self.cfg.MODEL.MASK_ON:
            given = self._rescale_detected_boxes(augmented_inputs, merged, tfms)
            outputs = self._batch_inference(augmented_inputs, given)
            merged.pred_masks = self._reduce_pred_masks(outputs, tfms)
            merged = detector_postprocess(merged, *output_size)
        return {"instances": merged}

    def _get_augmented_inputs(
        self, input: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[TransformList]]:
        """Versions of the input, and how each came about."""
        versions = self.tta_mapper(input)
        return versions, [version.pop("transforms") for version in versions]

    def _get_augmented_boxes(
        self, augmented_inputs: list[dict[str, Any]], tfms: list[TransformList]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of all versions in the frame of the output.

        Returns:
            (D, 4) boxes, (D,) scores, (D,) classes.
        """
        outputs = self._batch_inference(augmented_inputs)
        boxes = [
            _transformed_boxes(output.pred_boxes.tensor, tfm.inverse())
            for output, tfm in zip(outputs, tfms)
        ]
        scores = [output.scores for output in outputs]
        classes = [output.pred_classes for output in outputs]
        return torch.cat(boxes), torch.cat(scores), torch.cat(classes)

    def _merge_detections(
        self,
        all_boxes: Tensor,
        all_scores: Tensor,
        all_classes: Tensor,
        shape_hw: tuple[int, int],
    ) -> Instances:
        """Final detections out of those of all versions.

        Args:
            all_boxes, all_scores, all_classes: what `_get_augmented_boxes` returned.
            shape_hw: (height, width) of the output.
        """
        num_classes = self.cfg.MODEL.ROI_HEADS.NUM_CLASSES
        score_table = all_scores.new_zeros(len(all_scores), num_classes + 1)
        score_table.scatter_(1, all_classes[:, None], all_scores[:, None])
        merged, _ = fast_rcnn_inference_single_image(
            all_boxes,
            score_table,
            shape_hw,
            1e-8,  # the table is zero for every other class
            self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            self.cfg.TEST.DETECTIONS_PER_IMAGE,
        )
        return merged

    def _rescale_detected_boxes(
        self,
        augmented_inputs: list[dict[str, Any]],
        merged_instances: Instances,
        tfms: list[TransformList],
    ) -> list[Instances]:
        """Merged detections in the frame of each version."""
        return [
            Instances(
                tuple(version["image"].shape[1:3]),
                pred_boxes=Boxes(_transformed_boxes(merged_instances.pred_boxes.tensor, tfm)),
                pred_classes=merged_instances.pred_classes,
                scores=merged_instances.scores,
            )
            for version, tfm in zip(augmented_inputs, tfms)
        ]

    def _reduce_pred_masks(self, outputs: list[Instances], tfms: list[TransformList]) -> Tensor:
        """(D, 1, h, w) mean of the masks of each detection over the versions."""
        masks = [
            output.pred_masks.flip(dims=[3]) if _mirrors(tfm) else output.pred_masks
            for output, tfm in zip(outputs, tfms)
        ]
        return torch.stack(masks).mean(dim=0)


def _mirrors(tfm: TransformList) -> bool:
    return any(isinstance(t, HFlipTransform) for t in tfm.transforms)


def _transformed_boxes(boxes: Tensor, tfm: Transform) -> Tensor:
    """(D, 4) boxes of (D, 4), by a transform that works on arrays."""
    moved = tfm.apply_box(boxes.cpu().numpy())
    return torch.from_numpy(moved).to(boxes)
