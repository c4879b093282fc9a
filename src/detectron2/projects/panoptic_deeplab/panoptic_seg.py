"""The model of Panoptic-DeepLab."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.data import MetadataCatalog
from detectron2.layers import move_device_like
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch._inputs import InputDict, output_size, pixel_statistics
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.panoptic_deeplab.config import PANOPTIC_DEEPLAB
from detectron2.projects.panoptic_deeplab.heads import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    build_ins_embed_branch,
)
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from detectron2.structures import BitMasks, ImageList, Instances

__all__ = [
    "INS_EMBED_BRANCHES_REGISTRY",
    "PanopticDeepLab",
    "PanopticDeepLabInsEmbedHead",
    "PanopticDeepLabSemSegHead",
    "build_ins_embed_branch",
]

VOID = -1


@META_ARCH_REGISTRY.register()
class PanopticDeepLab(nn.Module):
    """Backbone, semantic head and a head for the centres and offsets of things.

    Input: one dictionary for each image, with
        image: (C, H, W), not normalised;
        height, width: size the results are wanted for, in pixels (default: that of `image`);
        what `PanopticDeepLabTargetGenerator` makes, for training; weights may be left out.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        ins_embed_head: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        thing_ids: Collection[int],
        label_divisor: int,
        size_divisibility: int = -1,
        stuff_area: int = 2048,
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k_instances: int = 200,
        predict_instances: bool = True,
        benchmark_network_speed: bool = False,
    ) -> None:
        """
        Args:
            thing_ids: classes of things.
            label_divisor: the id of a segment is ``class * label_divisor + number``.
            size_divisibility: batches are padded to multiples of it; not above 0 means what the
                backbone asks for.
            stuff_area: stuff of fewer pixels is void.
            center_threshold, nms_kernel, top_k_instances: see `find_instance_center`.
            predict_instances: results have "instances".
            benchmark_network_speed: return an empty list instead of results.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.thing_ids = frozenset(thing_ids)
        self.label_divisor = label_divisor
        self.size_divisibility = (
            size_divisibility if size_divisibility > 0 else backbone.size_divisibility
        )
        self.stuff_area = stuff_area
        self.center_threshold = center_threshold
        self.nms_kernel = nms_kernel
        self.top_k_instances = top_k_instances
        self.predict_instances = predict_instances
        self.benchmark_network_speed = benchmark_network_speed

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        _check_convolutions(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, shapes),
            "ins_embed_head": build_ins_embed_branch(cfg, shapes),
            **_numbering(cfg),
            **read_arguments(cfg, PANOPTIC_DEEPLAB),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training; else a dictionary for each image.

        It has `sem_seg` (C, height, width) scores; `panoptic_seg`, a pair of (height, width) int64
        ids, -1 for void, and None; and, if they are predicted, `instances`.
        """
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        normalized = [(x - self.pixel_mean) / self.pixel_std for x in images]
        batch = ImageList.from_tensors(normalized, self.size_divisibility)
        features = self.backbone(batch.tensor)
        if self.training:
            return self._losses(features, batched_inputs)
        scores, _ = self.sem_seg_head(features)
        centers, offsets, _, _ = self.ins_embed_head(features)
        if self.benchmark_network_speed:
            return []
        return [
            self._result(*maps, image_size, output_size(input_dict, image_size))
            for *maps, input_dict, image_size in zip(
                scores, centers, offsets, batched_inputs, batch.image_sizes
            )
        ]

    def _losses(
        self, features: dict[str, Tensor], batched_inputs: list[InputDict]
    ) -> dict[str, Tensor]:
        classes = self._batch(batched_inputs, "sem_seg", self.sem_seg_head.ignore_value)
        weights = None
        if "sem_seg_weights" in batched_inputs[0]:
            weights = self._batch(batched_inputs, "sem_seg_weights")
        centers = self._batch(batched_inputs, "center")[:, None]
        offsets = self._batch(batched_inputs, "offset")
        center_weights = offset_weights = torch.ones_like(centers)
        if "center_weights" in batched_inputs[0]:
            center_weights = self._batch(batched_inputs, "center_weights")
        if "offset_weights" in batched_inputs[0]:
            offset_weights = self._batch(batched_inputs, "offset_weights")
        _, sem_seg_losses = self.sem_seg_head(features, classes, weights)
        _, _, center_losses, offset_losses = self.ins_embed_head(
            features, centers, center_weights, offsets, offset_weights
        )
        return {**sem_seg_losses, **center_losses, **offset_losses}

    def _batch(self, batched_inputs: list[InputDict], key: str, pad_value: float = 0.0) -> Tensor:
        """One target of all images, padded as the images are.

        Raises:
            ValueError: an input has none.
        """
        if any(key not in x for x in batched_inputs):
            raise ValueError(
                f"Training Panoptic-DeepLab needs {key!r} in every input; read the data with "
                "PanopticDeeplabDatasetMapper, as PanopticDeepLabTrainer does."
            )
        maps = [move_device_like(x[key], self.pixel_mean) for x in batched_inputs]
        return ImageList.from_tensors(maps, self.size_divisibility, pad_value=pad_value).tensor

    def _result(
        self,
        scores: Tensor,
        center: Tensor,
        offset: Tensor,
        image_size: tuple[int, int],
        wanted_size: tuple[int, int],
    ) -> dict[str, Any]:
        """Result of one image, at the size wanted, from maps of the padded network's input."""
        scores = sem_seg_postprocess(scores, image_size, *wanted_size)
        center = sem_seg_postprocess(center, image_size, *wanted_size)
        offset = sem_seg_postprocess(offset, image_size, *wanted_size)
        # An offset is a number of pixels, which have another size now.
        scale = [wanted / was for wanted, was in zip(wanted_size, image_size)]
        offset = offset * offset.new_tensor(scale)[:, None, None]
        panoptic, _ = get_panoptic_segmentation(
            scores.argmax(dim=0, keepdim=True),
            center,
            offset,
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
            stuff_area=self.stuff_area,
            void_label=VOID,
            threshold=self.center_threshold,
            nms_kernel=self.nms_kernel,
            top_k=self.top_k_instances,
        )
        result: dict[str, Any] = {"sem_seg": scores, "panoptic_seg": (panoptic[0], None)}
        if self.predict_instances:
            result["instances"] = self._instances(panoptic[0], scores, center[0])
        return result

    def _instances(self, panoptic: Tensor, scores: Tensor, center: Tensor) -> Instances:
        """The things of a segmentation, by class and number.

        Their score is the mean probability of their class times the probability that the middle
        of their pixels is a centre.

        Args:
            panoptic: (H, W) ids.
            scores: (C, H, W) of the classes.
            center: (H, W) probabilities.
        """
        of_pixels = panoptic.div(self.label_divisor, rounding_mode="floor")
        things = of_pixels.new_tensor(sorted(self.thing_ids))
        rows, columns = torch.isin(of_pixels, things).nonzero(as_tuple=True)
        ids, owner = panoptic[rows, columns].unique(return_inverse=True)
        classes = ids.div(self.label_divisor, rounding_mode="floor")
        areas = torch.bincount(owner, minlength=len(ids))

        def mean(values: Tensor) -> Tensor:
            """(N,) mean over the pixels of each thing."""
            return torch.bincount(owner, values.double(), minlength=len(ids)) / areas

        # Of all classes only a pixel's sum is needed: no copy of the scores of these pixels.
        total = scores.float().logsumexp(dim=0)[rows, columns]
        class_scores = mean((scores[classes[owner], rows, columns].float() - total).exp())
        center_scores = center[mean(rows).long(), mean(columns).long()]
        masks = torch.zeros((len(ids), *panoptic.shape), dtype=torch.bool, device=center.device)
        masks[owner, rows, columns] = True
        return Instances(
            (panoptic.shape[0], panoptic.shape[1]),
            pred_classes=classes,
            pred_masks=masks,
            scores=class_scores.to(center.dtype) * center_scores,
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
        )


def _check_convolutions(cfg: Any) -> None:
    keys = [
        f"MODEL.{node}.USE_DEPTHWISE_SEPARABLE_CONV"
        for node in ("SEM_SEG_HEAD", "PANOPTIC_DEEPLAB")
    ]
    values = [lookup(cfg, key) for key in keys]
    if values[0] != values[1]:
        raise ValueError(
            f"{keys[0]} is {values[0]} and {keys[1]} is {values[1]}; set both to the same."
        )


def _numbering(cfg: Any) -> dict[str, Any]:
    """Numbers of the classes of the training dataset, from its metadata.

    Raises:
        ValueError: there is none, or its metadata say nothing of panoptic segmentation.
    """
    names = lookup(cfg, "DATASETS.TRAIN")
    if not names:
        raise ValueError(
            "DATASETS.TRAIN is empty; PanopticDeepLab takes the numbers of its classes from that "
            "dataset's metadata, in inference too."
        )
    metadata = MetadataCatalog.get(names[0])
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    divisor = metadata.get("label_divisor")
    if things is None or divisor is None:
        raise ValueError(
            f"The metadata of {names[0]!r} lack thing_dataset_id_to_contiguous_id or "
            "label_divisor, which number the classes and segments; set them with "
            f"MetadataCatalog.get({names[0]!r}).set(...)."
        )
    return {"thing_ids": list(things.values()), "label_divisor": divisor}
