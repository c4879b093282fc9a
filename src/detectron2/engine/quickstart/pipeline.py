"""The steps of the quick start. Everything is computed on the spot; nothing is downloaded."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data.datasets.drawn_shapes import register_drawn_shapes, write_drawn_shapes
from detectron2.data.metadata_file import METADATA_FILE, save_metadata
from detectron2.engine.defaults import DefaultTrainer
from detectron2.engine.quickstart.kernels import kernels_compiled_aside
from detectron2.engine.quickstart.report import write_report
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, TensorboardXWriter
from detectron2.utils.files import atomic_write_text, require_writable_folder

__all__ = ["CONFIG_NAME", "QuickstartResult", "quickstart_config", "run_quickstart"]

CONFIG_NAME = "Quickstart/mask_rcnn_R_50_narrow_FPN.yaml"
_TRAIN_IMAGES, _VAL_IMAGES = 400, 60
_SEED = 7
_ADAMW_LR, _ADAMW_WEIGHT_DECAY = 1e-3, 0.01


@dataclass(frozen=True)
class QuickstartResult:
    """Files that were written, the COCO metrics (in percent) and the seconds of each step."""

    report: Path
    checkpoint: Path
    config: Path
    metrics: dict[str, dict[str, float]]
    seconds: dict[str, float]


class _Stopwatch:
    """Seconds of each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


class _ShowProgress(HookBase):
    """Moves a bar by one after each iteration and names the loss beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def after_step(self) -> None:
        loss = self.trainer.storage.latest_with_smoothing_hint(20).get("total_loss")
        note = f"loss {loss[0]:.2f}" if loss else ""
        self._progress.update(self._task, completed=self.trainer.iter + 1, note=note)


class _Trainer(DefaultTrainer):
    """The default trainer with a progress bar instead of log lines on the console."""

    progress: Progress
    task: TaskID

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        # An eighth faster on CPUs: convolutions need not reorder what they read.
        model = super().build_model(cfg)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW: within two minutes it gets much further than SGD from random weights."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.OPTIMIZER = "AdamW"
        return super().build_optimizer(cfg, model)

    def build_writers(self) -> list[EventWriter]:
        # The report shows the curves; event files of run after run would only pile up.
        return [w for w in super().build_writers() if not isinstance(w, TensorboardXWriter)]

    def build_hooks(self) -> list[HookBase | None]:
        return [*super().build_hooks(), _ShowProgress(self.progress, self.task)]


def quickstart_config(output: Path, train_name: str, val_name: str) -> CfgNode:
    """The zoo's small Mask R-CNN, bound to the drawn dataset."""
    cfg = model_zoo.get_config(CONFIG_NAME)
    assert isinstance(cfg, CfgNode), "the quick start's config is a YAML file"
    cfg.DATASETS.TRAIN = (train_name,)
    cfg.DATASETS.TEST = (val_name,)
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = _SEED
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = _ADAMW_LR, _ADAMW_WEIGHT_DECAY
    return cfg


def run_quickstart(output: str | Path, iterations: int | None = None) -> QuickstartResult:
    """Run every step and write the results below `output`.

    Args:
        output: folder, created if absent. Its files of an earlier run are replaced.
        iterations: length of the training; None takes that of the configuration.

    Raises:
        OSError: `output` cannot be written to.
    """
    output = Path(output).resolve()
    require_writable_folder(output)
    watch = _Stopwatch()
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with (
        _log_to_file(output / "log.txt"),
        _half_of_the_cores(),
        kernels_compiled_aside(),
        Progress(*columns) as progress,
    ):
        steps = _Steps(output, progress, watch, iterations)
        return steps.run()


class _Steps:
    """The quick start in the order in which it happens."""

    def __init__(
        self, output: Path, progress: Progress, watch: _Stopwatch, iterations: int | None
    ) -> None:
        self.output = output
        self.progress = progress
        self.watch = watch
        self.iterations = iterations

    def run(self) -> QuickstartResult:
        with self.watch.step("draw the dataset"):
            train_name, val_name = self._draw_dataset()
        cfg = quickstart_config(self.output, train_name, val_name)
        if self.iterations is not None:
            cfg.SOLVER.MAX_ITER = self.iterations
            cfg.SOLVER.STEPS = ()
        with self.watch.step("train"):
            trainer = self._train(cfg)
        checkpoint = self._save(cfg, trainer, train_name)
        with self.watch.step("evaluate"):
            metrics = self._evaluate(cfg, trainer, val_name)
        with self.watch.step("write the report"):
            report = self._report(cfg, checkpoint, metrics)
        result = QuickstartResult(
            report, checkpoint, self.output / "config.yaml", metrics, self.watch.seconds
        )
        summary = {"metrics": metrics, "seconds": result.seconds}
        atomic_write_text(self.output / "metrics_summary.json", json.dumps(summary, indent=2))
        return result

    def _task(self, description: str, total: int) -> TaskID:
        return self.progress.add_task(description, total=total, note="")

    def _draw_dataset(self) -> tuple[str, str]:
        task = self._task("Drawing the dataset", _TRAIN_IMAGES + _VAL_IMAGES)
        root = self.output / "dataset"
        write_drawn_shapes(
            root,
            train_images=_TRAIN_IMAGES,
            val_images=_VAL_IMAGES,
            on_image_done=lambda: self.progress.advance(task),
        )
        return register_drawn_shapes(root, prefix="quickstart")

    def _train(self, cfg: CfgNode) -> DefaultTrainer:
        seed_all_rng(_SEED)
        _Trainer.progress = self.progress
        _Trainer.task = self._task("Training Mask R-CNN", cfg.SOLVER.MAX_ITER)
        for old in ("metrics.json", "last_checkpoint"):
            (self.output / old).unlink(missing_ok=True)
        cfg = cfg.clone()
        cfg.DATASETS.TEST = ()  # evaluated in a step of its own
        trainer = _Trainer(cfg)
        trainer.train()
        return trainer

    def _save(self, cfg: CfgNode, trainer: DefaultTrainer, train_name: str) -> Path:
        atomic_write_text(self.output / "config.yaml", cfg.dump())
        save_metadata(train_name, self.output / METADATA_FILE)
        # Weights alone: half the size of the training state, and what predict needs.
        DetectionCheckpointer(trainer.model, str(self.output)).save("model")
        return self.output / "model.pth"

    def _evaluate(
        self, cfg: CfgNode, trainer: DefaultTrainer, val_name: str
    ) -> dict[str, dict[str, float]]:
        evaluator = COCOEvaluator(val_name, output_dir=str(self.output / "evaluation"))
        loader = trainer.build_test_loader(cfg, val_name)
        counted = self.progress.track(_Sized(loader), task_id=self._task("Evaluating", len(loader)))
        results: Any = inference_on_dataset(trainer.model, _Sized(counted, len(loader)), evaluator)
        return {task: dict(values) for task, values in results.items()}

    def _report(self, cfg: CfgNode, checkpoint: Path, metrics: dict[str, dict[str, float]]) -> Path:
        task = self._task("Drawing predictions", _VAL_IMAGES)
        cfg = cfg.clone()
        cfg.MODEL.WEIGHTS = str(checkpoint)
        return write_report(
            self.output,
            cfg,
            metrics,
            self.watch.seconds,
            on_image_done=lambda: self.progress.advance(task),
        )


class _Sized:
    """An iterable with a length, which `inference_on_dataset` needs for its estimate."""

    def __init__(self, items: Any, length: int | None = None) -> None:
        self._items = items
        self._length = len(items) if length is None else length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return self._length


@contextmanager
def _half_of_the_cores() -> Iterator[None]:
    """Convolutions this small gain a fifth from a second thread on an idle machine, and on a busy
    one become five times slower, because its threads wait for one another.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _log_to_file(path: Path) -> Iterator[None]:
    """Send the library's log to a file: the console belongs to the progress bar."""
    logger = logging.getLogger("detectron2")
    before = (logger.level, logger.propagate, list(logger.handlers))
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(levelname)s %(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        handler.close()
        logger.level, logger.propagate = before[0], before[1]
        logger.handlers[:] = before[2]
