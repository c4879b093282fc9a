"""From a dataset record to a model input."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import DATASET_MAPPER, RANDOM_CROP
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data._image_io import labels_as_shown
from detectron2.data.errors import SampleError
from detectron2.data.mixing import (
    Sample,
    SampleAugmentation,
    build_sample_augmentations,
    draw_sample,
    read_sample,
)
from detectron2.structures import Instances

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Reads the image of a record, augments it, and turns the annotations into tensors.

    The steps are methods, called in the order in which they are defined; a mapper with one more
    field overrides one of them:

    .. code-block:: python

        class MapperWithDepth(DatasetMapper):
            def _instances(self, annotations, image_shape):
                instances = super()._instances(annotations, image_shape)
                instances.gt_depth = torch.tensor([a["depth"] for a in annotations])
                return instances
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
        mixers: Sequence[SampleAugmentation] = (),
    ) -> None:
        """
        Args:
            is_train: False drops the annotations.
            augmentations: in the order in which they are applied.
            image_format: see `detection_utils.read_image`.
            use_instance_mask: whether the model wants masks; without it none are decoded.
            use_keypoint: whether the model wants keypoints.
            instance_mask_format: "polygon" or "bitmask".
            keypoint_hflip_indices: see `detection_utils.create_keypoint_hflip_indices`.
            precomputed_proposal_topk: how many precomputed proposals to keep; None ignores them.
            recompute_boxes: take the boxes around the transformed masks, which are tighter than
                the transformed boxes after a crop.
            mixers: augmentations that see several samples, applied before the others in
                training; see `detectron2.data.mixing`. They need `use_dataset`, which
                `build_detection_train_loader` calls.

        Raises:
            AssertionError: `recompute_boxes` without `use_instance_mask`.
            ValueError: a mixer does not go with masks as polygons, or with proposals.
        """
        if recompute_boxes and not use_instance_mask:
            raise AssertionError(
                "recompute_boxes takes boxes from masks, so it needs use_instance_mask=True."
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        self.mixers = list(mixers) if is_train else []
        self._check_mixers()
        self._dataset: Any = None
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, augmentations)

    def _check_mixers(self) -> None:
        if self.mixers and self.proposal_topk is not None:
            raise ValueError(
                "Precomputed proposals (MODEL.LOAD_PROPOSALS) know nothing of other samples; use "
                "no mosaic, mixup or copy-paste with them."
            )
        polygons = self.use_instance_mask and self.instance_mask_format == "polygon"
        if polygons and any(mixer.makes_masks for mixer in self.mixers):
            raise ValueError(
                "Copy-paste makes masks of polygons; set INPUT.MASK_FORMAT "
                "(instance_mask_format) to 'bitmask'."
            )

    def use_dataset(self, dataset: Any) -> None:
        """Draw the other samples that mixers want from `dataset`, of records by index."""
        self._dataset = dataset

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        augmentations = utils.build_augmentation(cfg, is_train)
        arguments = read_arguments(cfg, DATASET_MAPPER)
        crop = is_train and lookup(cfg, "INPUT.CROP.ENABLED")
        if crop:
            augmentations.insert(0, T.RandomCrop(**read_arguments(cfg, RANDOM_CROP)))
        arguments.update(
            is_train=is_train,
            augmentations=augmentations,
            recompute_boxes=crop and arguments["use_instance_mask"],
        )
        mixers = build_sample_augmentations(cfg) if is_train else []
        if mixers:
            arguments["mixers"] = mixers
        if arguments["use_keypoint"]:
            arguments["keypoint_hflip_indices"] = utils.create_keypoint_hflip_indices(
                lookup(cfg, "DATASETS.TRAIN")
            )
        if lookup(cfg, "MODEL.LOAD_PROPOSALS"):
            split = "TRAIN" if is_train else "TEST"
            arguments["precomputed_proposal_topk"] = lookup(
                cfg, f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{split}"
            )
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """
        Args:
            dataset_dict: a record; it is not changed.

        Returns:
            The record with "image", a (C, H, W) tensor, and, in training, "instances",
            "sem_seg" (H, W) int64 and "proposals" where the record has what they are made from.

        Raises:
            SampleError: the image or the annotations of this record cannot be used.
        """
        dataset_dict = self._copy_record(dataset_dict)
        image = self._read_image(dataset_dict)
        sem_seg = self._read_sem_seg(dataset_dict)
        if self.mixers:
            image, sem_seg = self._mix(dataset_dict, image, sem_seg)
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image_shape = aug_input.image.shape[:2]
        dataset_dict["image"] = self._image_tensor(aug_input.image)
        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            self._transform_proposals(dataset_dict, transforms, image_shape)
        if not self.is_train:
            dataset_dict.pop("annotations", None)
            dataset_dict.pop("sem_seg_file_name", None)
            return dataset_dict
        if "annotations" in dataset_dict:
            try:
                self._transform_annotations(dataset_dict, transforms, image_shape)
            except SampleError as e:
                raise SampleError(
                    f"In the annotations of {dataset_dict.get('file_name')!r}: {e}"
                ) from e
        return dataset_dict

    def _copy_record(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy whose entries, and whose annotations' entries, may be replaced.

        Nested lists are shared with the record. Copying them, too, would take longer than
        transforming them; no step changes them.
        """
        record = dict(dataset_dict)
        if "annotations" in record:
            record["annotations"] = [dict(annotation) for annotation in record["annotations"]]
        return record

    def _read_image(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        """(H, W, C) image of a record, checked against the size in the record."""
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        return image

    def _read_sem_seg(self, dataset_dict: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8 labels of a record, or None; removes "sem_seg_file_name"."""
        if "sem_seg_file_name" not in dataset_dict:
            return None
        labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)
        h, w = labels.shape
        size = dataset_dict.get("height", h), dataset_dict.get("width", w)
        return labels_as_shown(labels, size, dataset_dict["file_name"])

    def _mix(
        self, dataset_dict: dict[str, Any], image: np.ndarray, sem_seg: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Apply the mixers; the annotations and the size in the record are replaced."""
        sample = self._sample(dataset_dict, image, sem_seg)
        for mixer in self.mixers:
            sample = mixer(sample, self._draw_sample)
        dataset_dict["annotations"] = sample.annotations
        dataset_dict["height"], dataset_dict["width"] = sample.size
        return sample.image, sample.sem_seg

    def _sample(
        self, dataset_dict: dict[str, Any], image: np.ndarray, sem_seg: np.ndarray | None
    ) -> Sample:
        if not self.use_instance_mask and not any(mixer.makes_masks for mixer in self.mixers):
            # Reading a sample decodes masks, and every mixer would move them.
            for annotation in dataset_dict.get("annotations", []):
                annotation.pop("segmentation", None)
        return read_sample(dataset_dict, image, sem_seg, self.keypoint_hflip_indices)

    def _draw_sample(self) -> Sample:
        """Another sample of the dataset."""
        if self._dataset is None:
            raise ValueError(
                "Mosaic, mixup and copy-paste draw samples from the dataset: call "
                "mapper.use_dataset(dataset), or build the loader with "
                "build_detection_train_loader. An iterable dataset will not do."
            )
        return draw_sample(self._dataset, self._read_other)

    def _read_other(self, record: dict[str, Any]) -> Sample:
        dataset_dict = self._copy_record(record)
        image = self._read_image(dataset_dict)
        return self._sample(dataset_dict, image, self._read_sem_seg(dataset_dict))

    def _image_tensor(self, image: np.ndarray) -> torch.Tensor:
        """(C, H, W) tensor of an (H, W, C) image, in memory of its own."""
        # PyTorch shares tensors between processes through shared memory; arrays would be pickled.
        planes = image.transpose(2, 0, 1)
        # A mirrored view: PyTorch copies it ten times faster than NumPy.
        mirrored = tuple(axis for axis, stride in enumerate(planes.strides) if stride < 0)
        upright = np.flip(planes, mirrored)
        if mirrored and upright.flags.c_contiguous and upright.flags.writeable:
            return torch.from_numpy(upright).flip(mirrored)
        return torch.from_numpy(np.require(planes, requirements=["C", "W"]))

    def _transform_proposals(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        """Replace the precomputed proposals of a record by "proposals", in place."""
        utils.transform_proposals(
            dataset_dict, image_shape, transforms, proposal_topk=self.proposal_topk
        )

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        """Replace the annotations of a record by "instances", in place."""
        annotations = [
            self._transform_annotation(annotation, transforms, image_shape)
            for annotation in dataset_dict.pop("annotations")
            if annotation.get("iscrowd", 0) == 0
        ]
        instances = self._instances(annotations, image_shape)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def _transform_annotation(
        self, annotation: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> dict[str, Any]:
        """One annotation in pixels of the augmented image, only with what the model uses."""
        if not self.use_instance_mask:
            annotation.pop("segmentation", None)
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        return utils.transform_instance_annotations(
            annotation,
            transforms,
            image_shape,
            keypoint_hflip_indices=self.keypoint_hflip_indices,
        )

    def _instances(
        self, annotations: list[dict[str, Any]], image_shape: tuple[int, int]
    ) -> Instances:
        """Ground truth of transformed annotations, before empty objects are removed."""
        return utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
