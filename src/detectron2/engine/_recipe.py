"""The two kinds of configs behind one set of questions: how to build, how long, how often."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detectron2.config import CfgNode, instantiate
from detectron2.config.training_defaults import TRAINING
from detectron2.data.quarantine import LIST_FILE
from detectron2.engine._setup import _try_get_key
from detectron2.engine._step_guard import StepGuard
from detectron2.solver._fused import fused_runs_on, mend_fused_steps
from detectron2.utils.registry import locate

WRITER_PERIOD = 20
"""Iterations between two log lines, where the config has no key for it."""


_HAVE_FUSED_KERNELS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class _Recipe:
    """Answers that depend on the keys of `TRAINING` alone."""

    training: dict[str, Any]
    output_dir: str

    def precision(self, device_type: str) -> torch.dtype:
        """Dtype of mixed precision.

        Raises:
            ValueError: TRAINING.AMP_DTYPE is no such dtype.
        """
        name = self.training["AMP_DTYPE"] or ("bfloat16" if device_type == "cpu" else "float16")
        if name not in ("float16", "bfloat16"):
            raise ValueError(f"TRAINING.AMP_DTYPE is {name!r}; use 'float16' or 'bfloat16'.")
        return getattr(torch, name)

    def guard(self) -> StepGuard | None:
        options = self.training["GUARD"]
        if not options["ENABLED"]:
            return None
        return StepGuard(self.output_dir, options["WINDOW"], self.config_text())

    def validation_batches(self) -> list[Any]:
        """Annotated batches for a validation loss.

        Raises:
            ValueError: the config does not say where they come from.
        """
        raise ValueError(
            "TRAINING.VALIDATION_BATCHES is for YAML configs; with a LazyConfig register "
            "hooks.ValidationLoss with batches of your own."
        )

    def config_text(self) -> str:
        """The config for `detectron2 debug-batch`; empty if it cannot be rebuilt from a text."""
        return ""


class YacsRecipe(_Recipe):
    """Answers from a `CfgNode`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.training = _merged(TRAINING, cfg.get("TRAINING", {}))
        self.output_dir: str = cfg.OUTPUT_DIR
        self.weights: str = cfg.MODEL.WEIGHTS
        self.max_iter: int = cfg.SOLVER.MAX_ITER
        self.mixed_precision: bool = cfg.SOLVER.AMP.ENABLED
        self.checkpoint_period: int = cfg.SOLVER.CHECKPOINT_PERIOD
        self.checkpoints_to_keep: int | None
        self.images_per_iteration: int = (
            cfg.SOLVER.IMS_PER_BATCH * self.training["ACCUMULATION_STEPS"]
        )
        self.eval_period: int = cfg.TEST.EVAL_PERIOD
        self.writer_period = WRITER_PERIOD
        self.expected_results: list[Any] = cfg.TEST.EXPECTED_RESULTS
        self.checkpoints_to_keep = self.training["CHECKPOINTS_TO_KEEP"] or None
        self.ddp_options: dict[str, Any] = {
            "broadcast_buffers": False,
            "static_graph": self.training["DDP"]["STATIC_GRAPH"],
            "gradient_as_bucket_view": self.training["DDP"]["BUCKET_VIEW"],
        }
        self.test_names: list[str] = list(cfg.DATASETS.TEST)
        self.metadata_name: str | None = self.test_names[0] if self.test_names else None
        self.precise_bn_batches: int = (
            cfg.TEST.PRECISE_BN.NUM_ITER if cfg.TEST.PRECISE_BN.ENABLED else 0
        )

    def config_text(self) -> str:
        return str(self.cfg.dump())

    def model(self) -> nn.Module:
        from detectron2.modeling import build_model

        return build_model(self.cfg)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        from detectron2.solver import build_optimizer

        return build_optimizer(self.cfg, model)

    def lr_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        from detectron2.solver import build_lr_scheduler

        return build_lr_scheduler(self.cfg, optimizer)

    def train_loader(self) -> Any:
        from detectron2.data import build_detection_train_loader

        return build_detection_train_loader(self.cfg)

    def test_loader(self, dataset_name: str) -> Any:
        from detectron2.data import build_detection_test_loader

        return build_detection_test_loader(self.cfg, dataset_name)

    def evaluator(self, dataset_name: str) -> Any:
        from detectron2.evaluation.default_evaluators import build_evaluator

        folder = os.path.join(self.output_dir, "inference")
        return build_evaluator(dataset_name, output_dir=folder, cfg=self.cfg)

    def validation_batches(self) -> list[Any]:
        """Annotated batches of the first test dataset, as many as TRAINING says, of one image."""
        from detectron2.data import (
            DatasetMapper,
            build_detection_test_loader,
            get_detection_dataset_dicts,
        )

        records = get_detection_dataset_dicts(
            self.test_names[0], filter_empty=self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        options = DatasetMapper.from_config(self.cfg, is_train=True)
        options["augmentations"] = [self.test_augmentation()]
        mapper = DatasetMapper(**options)
        loader = build_detection_test_loader(dataset=records, mapper=mapper)
        return list(islice(loader, self.training["VALIDATION_BATCHES"]))

    def without_loader_workers(self) -> CfgNode:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        return cfg

    def test_augmentation(self) -> Any:
        from detectron2.data import transforms as T

        shorter = self.cfg.INPUT.MIN_SIZE_TEST
        return T.ResizeShortestEdge([shorter, shorter], self.cfg.INPUT.MAX_SIZE_TEST)

    def input_format(self) -> str:
        return self.cfg.INPUT.FORMAT


class LazyRecipe(_Recipe):
    """Answers from a LazyConfig: model, dataloader, optimizer, lr_multiplier and train.*."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.output_dir: str = self._train("output_dir", "./output")
        self.weights: str = self._train("init_checkpoint", "")
        self.max_iter: int = self._train("max_iter", 90000)
        self.mixed_precision: bool = self._train("amp.enabled", False)
        self.checkpoint_period: int = self._train("checkpointer.period", 5000)
        self.checkpoints_to_keep: int | None = self._train("checkpointer.max_to_keep", 100)
        self.eval_period: int = self._train("eval_period", 5000)
        self.writer_period: int = self._train("log_period", WRITER_PERIOD)
        self.expected_results: list[Any] = []
        self.ddp_options: dict[str, Any] = dict(self._train("ddp", {}))
        self.precise_bn_batches = 0
        self.training = _merged(TRAINING, _try_get_key(cfg, "train", default={}))
        batch = _try_get_key(cfg, "dataloader.train.total_batch_size", default=0)
        self.images_per_iteration: int = batch * self.training["ACCUMULATION_STEPS"]
        names = _try_get_key(cfg, "dataloader.test.dataset.names", default=[])
        names = [names] if isinstance(names, str) else list(names)
        self.metadata_name: str | None = names[0] if names else None
        # Several names in a LazyConfig are one dataset, read by one loader.
        has_evaluator = _try_get_key(cfg, "dataloader.evaluator") is not None
        self.test_names: list[str] = [",".join(names) or "test"] if has_evaluator else []

    def _train(self, key: str, default: Any) -> Any:
        value = _try_get_key(self.cfg, f"train.{key}", default=default)
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value

    def model(self) -> nn.Module:
        return instantiate(self.cfg.model).to(self._train("device", "cuda"))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        # A copy: the config itself is saved and sent around, which the model must not be.
        options = self.cfg.optimizer.copy()
        options.params.model = model
        target = options.get("_target_")
        target = locate(target) if isinstance(target, str) else target
        decided = {"fused", "foreach", "capturable", "differentiable"} & set(options)
        if target in _HAVE_FUSED_KERNELS and not decided:
            options.fused = fused_runs_on([{"params": list(model.parameters())}])
        optimizer = instantiate(options)
        if isinstance(optimizer, torch.optim.Optimizer):
            mend_fused_steps(optimizer)
        return optimizer

    def lr_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        from detectron2.solver import LRMultiplier

        return LRMultiplier(optimizer, instantiate(self.cfg.lr_multiplier), self.max_iter)

    def train_loader(self) -> Any:
        options = self.cfg.dataloader.train.copy()
        name = _name_of_target(options)
        if name == "build_detection_train_loader" and "unreadable_list" not in options:
            options.unreadable_list = os.path.join(self.output_dir, LIST_FILE)
        dataset = options.get("dataset")
        if _name_of_target(dataset) == "get_detection_dataset_dicts":
            if dataset.get("check"):
                dataset.setdefault("check_output", self.output_dir)
            dataset._target_ = "detectron2.data.shared_dicts.shared_detection_dicts"
        return instantiate(options)

    def test_loader(self, dataset_name: str) -> Any:
        options = self.cfg.dataloader.test.copy()
        if _name_of_target(options.get("dataset")) == "get_detection_dataset_dicts":
            options.dataset._target_ = "detectron2.data.shared_dicts.shared_test_dicts"
        return instantiate(options)

    def evaluator(self, dataset_name: str) -> Any:
        return instantiate(self.cfg.dataloader.evaluator)

    def without_loader_workers(self) -> DictConfig:
        cfg = self.cfg.copy()
        cfg.dataloader.train.num_workers = 0
        return cfg

    def test_augmentation(self) -> Any:
        from detectron2.data import transforms as T

        return T.AugmentationList(instantiate(self.cfg.dataloader.test.mapper.augmentations))

    def input_format(self) -> str:
        return str(_try_get_key(self.cfg, "dataloader.test.mapper.image_format", default="BGR"))


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with what a config says; keys in upper case, or in lower case (LazyConfig)."""
    result = {}
    for key, default in defaults.items():
        value: Any = given.get(key, given.get(key.lower(), default))
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        if isinstance(default, Mapping):
            value = _merged(default, value)
        result[key] = value
    return result


def _name_of_target(options: Any) -> str:
    """Name of the function that a lazy call stands for, "" if `options` is none."""
    target = options.get("_target_", "") if isinstance(options, DictConfig) else ""
    return str(getattr(target, "__name__", target)).rpartition(".")[2]


Recipe = YacsRecipe | LazyRecipe


def recipe_of(cfg: CfgNode | DictConfig | Mapping[str, Any]) -> Recipe:
    """The answers of a config object.

    Raises:
        TypeError: it is no config.
    """
    if isinstance(cfg, CfgNode):
        return YacsRecipe(cfg)
    if isinstance(cfg, DictConfig):
        return LazyRecipe(cfg)
    raise TypeError(f"{type(cfg).__name__} is neither a CfgNode nor a LazyConfig.")
