"""The changes that the command line makes to a config, for both kinds of configs."""

from __future__ import annotations

from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from detectron2.config import CfgNode

__all__ = ["ConfigEdits", "edits_of"]


class ConfigEdits(Protocol):
    """Sets a value at the place where this kind of config keeps it."""

    @property
    def output_dir(self) -> str: ...

    def set_output_dir(self, folder: str) -> None: ...

    def set_weights(self, path: str) -> None: ...

    def set_device(self, device: str) -> None: ...

    def set_datasets(self, *, train: str | None = None, test: str | None = None) -> None:
        """Train or test on one registered dataset; None leaves the config's own."""

    def set_categories(self, categories: list[dict[str, Any]]) -> None:
        """Fit the heads to COCO categories: number of classes and of keypoints."""

    def set_mask_format(self, name: str) -> None:
        """What the data loader makes of masks, "polygon" or "bitmask"."""

    def wants_masks(self) -> bool:
        """Whether the model learns masks."""

    def wants_keypoints(self) -> bool: ...

    def has_rotated_boxes(self) -> bool: ...

    def train_dataset(self) -> str | None: ...

    def test_dataset(self) -> str | None: ...

    def num_classes(self) -> int: ...


def edits_of(cfg: Any) -> ConfigEdits:
    """Edits that change `cfg` itself, a `CfgNode` or a LazyConfig."""
    return YacsEdits(cfg) if isinstance(cfg, CfgNode) else LazyEdits(cfg)


class YacsEdits:
    """Edits of a `CfgNode`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    @property
    def output_dir(self) -> str:
        return self.cfg.OUTPUT_DIR

    def set_output_dir(self, folder: str) -> None:
        self.cfg.OUTPUT_DIR = folder

    def set_weights(self, path: str) -> None:
        self.cfg.MODEL.WEIGHTS = path

    def set_device(self, device: str) -> None:
        self.cfg.MODEL.DEVICE = device

    def set_datasets(self, *, train: str | None = None, test: str | None = None) -> None:
        if train is not None:
            # The config's own test sets have other categories.
            self.cfg.DATASETS.TRAIN, self.cfg.DATASETS.TEST = (train,), ()
        if test is not None:
            self.cfg.DATASETS.TEST = (test,)

    def set_categories(self, categories: list[dict[str, Any]]) -> None:
        model = self.cfg.MODEL
        model.ROI_HEADS.NUM_CLASSES = model.RETINANET.NUM_CLASSES = len(categories)
        keypoints = categories[0].get("keypoints")
        if model.KEYPOINT_ON and keypoints:
            model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(keypoints)
            # 0.05 is about the mean of the constants that COCO measured for people.
            self.cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * len(keypoints)

    def set_mask_format(self, name: str) -> None:
        self.cfg.INPUT.MASK_FORMAT = name

    def wants_masks(self) -> bool:
        return self.cfg.MODEL.MASK_ON

    def wants_keypoints(self) -> bool:
        return self.cfg.MODEL.KEYPOINT_ON

    def has_rotated_boxes(self) -> bool:
        return self.cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN"

    def train_dataset(self) -> str | None:
        return next(iter(self.cfg.DATASETS.TRAIN), None)

    def test_dataset(self) -> str | None:
        return next(iter(self.cfg.DATASETS.TEST), None)

    def num_classes(self) -> int:
        if self.cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
            return self.cfg.MODEL.RETINANET.NUM_CLASSES
        return self.cfg.MODEL.ROI_HEADS.NUM_CLASSES


class LazyEdits:
    """Edits of a LazyConfig with the sections of the zoo: model, dataloader, train."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    @property
    def output_dir(self) -> str:
        return OmegaConf.select(self.cfg, "train.output_dir", default="./output")

    def set_output_dir(self, folder: str) -> None:
        self.cfg.train.output_dir = folder

    def set_weights(self, path: str) -> None:
        OmegaConf.update(self.cfg, "train.init_checkpoint", path)

    def set_device(self, device: str) -> None:
        OmegaConf.update(self.cfg, "train.device", device)

    def set_datasets(self, *, train: str | None = None, test: str | None = None) -> None:
        if train is not None:
            self.cfg.dataloader.train.dataset.names = train
        if test is not None:
            self.cfg.dataloader.test.dataset.names = test

    def set_categories(self, categories: list[dict[str, Any]]) -> None:
        count = len(categories)
        key = self._num_classes_key()
        if key is None:
            raise ValueError(
                "This LazyConfig keeps its number of classes at a place that the command line does "
                f"not know; the data has {count}: set it with --set."
            )
        OmegaConf.update(self.cfg, key, count)

    def set_mask_format(self, name: str) -> None:
        OmegaConf.update(self.cfg, "dataloader.train.mapper.instance_mask_format", name)

    def wants_masks(self) -> bool:
        return bool(self._of_mapper("use_instance_mask"))

    def wants_keypoints(self) -> bool:
        return bool(self._of_mapper("use_keypoint"))

    def has_rotated_boxes(self) -> bool:
        return False

    def _of_mapper(self, key: str) -> Any:
        return OmegaConf.select(self.cfg, f"dataloader.train.mapper.{key}", default=None)

    def train_dataset(self) -> str | None:
        return self._dataset("train")

    def test_dataset(self) -> str | None:
        return self._dataset("test")

    def num_classes(self) -> int:
        key = self._num_classes_key()
        return 0 if key is None else OmegaConf.select(self.cfg, key)

    def _dataset(self, split: str) -> str | None:
        names = OmegaConf.select(self.cfg, f"dataloader.{split}.dataset.names", default=None)
        return names if isinstance(names, str) or names is None else next(iter(names), None)

    def _num_classes_key(self) -> str | None:
        for key in ("model.roi_heads.num_classes", "model.num_classes"):
            if OmegaConf.select(self.cfg, key, default=None) is not None:
                return key
        return None
