"""Predictor, trainer and set-up with the defaults that suit most detection projects."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data.quarantine import LIST_FILE, report_list
from detectron2.engine import hooks
from detectron2.engine._default_predictor import ConfigSource, DefaultPredictor
from detectron2.engine._extra_hooks import (
    averaging_hook,
    evaluation_hooks,
    extra_writers,
    progress_bar,
    report_hook,
)
from detectron2.engine._interruption import Interruption, TrainingInterrupted
from detectron2.engine._prepare_model import prepare_model
from detectron2.engine._recipe import recipe_of
from detectron2.engine._run_state import RunState, begin_history_anew
from detectron2.engine._scale_workers import scale_to_workers
from detectron2.engine._setup import (
    _highlight,
    _try_get_key,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from detectron2.engine._sharded_checkpointer import ShardedCheckpointer, wants_shards
from detectron2.engine._test_dataset import test_dataset
from detectron2.engine._trainer_base import PassOnAfterBackward
from detectron2.engine.config_source import resolve_config
from detectron2.engine.integer_training import learnt_ranges
from detectron2.engine.sharding import gathered, shard_model
from detectron2.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.layers._fvcore_nn import get_bn_modules
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "_highlight",
    "_try_get_key",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

logger = logging.getLogger(__name__)


class DefaultTrainer(TrainerBase):
    """Model, data, optimizer, schedule, hooks, checkpoints and evaluation from one config.

    What differs between projects is one method each: override `build_train_loader`,
    `build_evaluator`, `build_hooks` ... and leave the rest. The loop itself belongs to
    ``_trainer``, a `SimpleTrainer` (or `AMPTrainer` with mixed precision).

    Attributes:
        cfg: the config, scaled to the number of processes if it asks for that.
        scheduler: of the learning rate.
        checkpointer: saves and loads all of it.
    """

    _last_eval_results: Any
    """There after the first evaluation; projects ask `hasattr`."""
    _start_time: float
    _run_state: RunState
    _interruption: Interruption

    def __new__(cls, *args: Any, **kwargs: Any) -> DefaultTrainer:
        """A trainer whose class may have an `__init__` that passes over the one below.

        Projects that train two models at once write one that builds the loop by itself.
        """
        self = super().__new__(cls)
        self._start_time = time.time()
        self._run_state = RunState()
        self._interruption = Interruption()
        return self

    def __init__(self, cfg: ConfigSource) -> None:
        """
        Args:
            cfg: a config, the path of a YAML or LazyConfig file, or a name of the model zoo.
        """
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # the script did not call default_setup
        source: Any = cfg if isinstance(cfg, (CfgNode, DictConfig)) else resolve_config(cfg)
        self.cfg: Any = self.auto_scale_workers(source, comm.get_world_size())
        recipe = recipe_of(self.cfg)

        model = self.build_model(self.cfg)
        prepare_model(model, recipe.training, recipe.mixed_precision)
        sharded = wants_shards(recipe.training)
        if sharded and comm.get_world_size() > 1:
            shard_model(model)
        optimizer = self.build_optimizer(self.cfg, model)
        data_loader = self.build_train_loader(self.cfg)
        if not sharded:
            model = create_ddp_model(model, **recipe.ddp_options)
        self._trainer = self._build_loop(model, data_loader, optimizer)
        self._trainer.register_hooks([PassOnAfterBackward(self)])
        self.scheduler = self.build_lr_scheduler(self.cfg, optimizer)
        checkpointer_class = ShardedCheckpointer if sharded else DetectionCheckpointer
        self.checkpointer = checkpointer_class(
            # A strong reference would close a circle, and the GPU memory would stay in use.
            model,
            recipe.output_dir,
            trainer=weakref.proxy(self),
            **learnt_ranges(model),
        )
        self.checkpointer.in_background = recipe.training["BACKGROUND_CHECKPOINTS"] and not sharded
        self.start_iter = 0
        self.max_iter = recipe.max_iter
        self.register_hooks(self.build_hooks())

    def _build_loop(
        self, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer
    ) -> SimpleTrainer:
        recipe = recipe_of(self.cfg)
        if recipe.mixed_precision:
            precision = recipe.precision(next(model.parameters()).device.type)
            loop: SimpleTrainer = AMPTrainer(model, data_loader, optimizer, precision=precision)
        else:
            loop = SimpleTrainer(model, data_loader, optimizer)
        loop.accumulation_steps = recipe.training["ACCUMULATION_STEPS"]
        loop.guard = recipe.guard()
        return loop

    @property
    def model(self) -> nn.Module:
        """The model that is trained, wrapped if there are several processes."""
        return self._trainer.model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._trainer.model = model

    @property
    def data_loader(self) -> Any:
        """The loader of training batches."""
        return self._trainer.data_loader

    @data_loader.setter
    def data_loader(self, data_loader: Any) -> None:
        self._trainer.data_loader = data_loader

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self._trainer.optimizer = optimizer

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of the output folder, or load initial weights.

        Args:
            resume: continue if there is a checkpoint: model, optimizer, schedule, iteration and
                random generators. Otherwise, and without one, load the weights that the config
                names and begin at iteration 0.
        """
        self.checkpointer.resume_or_load(recipe_of(self.cfg).weights, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            # The checkpoint holds the last finished iteration.
            self.start_iter = self.iter + 1
        elif resume:
            begin_history_anew(recipe_of(self.cfg).output_dir)

    def build_hooks(self) -> list[HookBase | None]:
        """Hooks of the training, in the order in which they run.

        A checkpoint comes before an evaluation, which may fail, and writers come last.
        """
        recipe = recipe_of(self.cfg)
        self._averaging = averaging_hook(recipe, self.model)
        result: list[HookBase | None] = [
            hooks.IterationTimer(images_per_iteration=recipe.images_per_iteration)
        ]
        result += [hooks.LRScheduler(), self._averaging]
        if recipe.precise_bn_batches and get_bn_modules(self.model):
            # Without worker processes: it runs rarely, they would hold memory all the time.
            loader = self.build_train_loader(recipe.without_loader_workers())
            result.append(
                hooks.PreciseBN(recipe.eval_period, self.model, loader, recipe.precise_bn_batches)
            )
        if comm.is_main_process() or recipe.training["FSDP"]["ENABLED"]:
            result.append(
                hooks.PeriodicCheckpointer(
                    self.checkpointer,
                    recipe.checkpoint_period,
                    max_to_keep=recipe.checkpoints_to_keep,
                )
            )
        result.append(hooks.EvalHook(recipe.eval_period, self._test_and_remember))
        result += evaluation_hooks(self, recipe)
        if comm.is_main_process():
            writers = self.build_writers()
            result.append(report_hook(self, recipe, writers))
            result.append(progress_bar(recipe))
            result.append(hooks.PeriodicWriter(writers, recipe.writer_period))
        return [hook for hook in result if hook is not None]

    def _test_and_remember(self) -> Any:
        averaged = self._averaging.applied() if self._averaging else nullcontext()
        with averaged, gathered(self.model):
            self._last_eval_results = self.test(self.cfg, self.model)
            if self._averaging and self.iter >= self.max_iter:
                self.checkpointer.save("model_ema.safetensors")
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Writers that get the scalars regularly: log, ``metrics.json``, TensorBoard, others."""
        recipe = recipe_of(self.cfg)
        return [*default_writers(recipe.output_dir, self.max_iter), *extra_writers(recipe)]

    def train(self) -> Any:  # type: ignore[override]
        """Run the training.

        Returns:
            The last evaluation's results if TEST.EXPECTED_RESULTS says what to expect, on the
            main process. Results that are worse end the program.

        Raises:
            SystemExit: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 came; the last iteration is saved, and
                the exit code is 85.
            FloatingPointError: losses or gradients are not finite too often; it says why.
        """
        with self._interruption.watched():
            super().train(self.start_iter, self.max_iter)
        expected = recipe_of(self.cfg).expected_results
        if not (len(expected) and comm.is_main_process()):
            return None
        from detectron2.evaluation import verify_results

        results = getattr(self, "_last_eval_results", {})
        verify_results(self.cfg, results)
        return results

    def before_train(self) -> None:
        """Run every hook's `before_train`, and continue the random numbers after a resume."""
        super().before_train()
        self._run_state.before_train(self)

    def after_step(self) -> None:
        """Run every hook's `after_step`; after a signal save a checkpoint and end."""
        recipe = recipe_of(self.cfg)
        done = self.iter + 1
        signal_name = "" if done == self.max_iter else self._interruption.agreed(self.iter)
        is_due = recipe.checkpoint_period > 0 and done % recipe.checkpoint_period == 0
        if is_due or signal_name or done == self.max_iter:
            self._run_state.gather(self)
        super().after_step()
        if signal_name:
            if not is_due:
                self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            self.checkpointer.wait()
            # Whoever started the processes ends all of them when the first is gone.
            comm.synchronize()
            raise TrainingInterrupted(signal_name, self.iter)

    def after_train(self) -> None:
        """Wait for the last losses to be recorded, then run every hook's `after_train`."""
        self._trainer.finish_metrics()
        if comm.is_main_process():
            list_file = os.path.join(recipe_of(self.cfg).output_dir, LIST_FILE)
            report_list(list_file, since=self._start_time)
        super().after_train()

    def run_step(self) -> None:
        """One iteration of the inner loop."""
        self._trainer.iter, self._trainer.max_iter = self.iter, self.max_iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, the inner loop (with the optimizer), random generators, scalars."""
        return {
            **super().state_dict(),
            "_trainer": self._trainer.state_dict(),
            **self._run_state.state_dict(self),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; one without random generators is fine."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        self._run_state.load_state_dict(state_dict, self._trainer)

    @classmethod
    def build_model(cls, cfg: Any) -> nn.Module:
        """The model, on its device."""
        model = recipe_of(cfg).model()
        logger.info("Model:\n%s", str(model))  # a record must not keep the model
        return model

    @classmethod
    def build_optimizer(cls, cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        return recipe_of(cfg).optimizer(model)

    @classmethod
    def build_lr_scheduler(cls, cfg: Any, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of the learning rate, which is stepped after every iteration."""
        return recipe_of(cfg).lr_scheduler(optimizer)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """Iterable of training batches without an end."""
        return recipe_of(cfg).train_loader()

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        """Iterable over every image of a test dataset once."""
        return recipe_of(cfg).test_loader(dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
        """Evaluator of a test dataset: what its ``MetadataCatalog`` entry's evaluator_type says."""
        return recipe_of(cfg).evaluator(dataset_name)

    @classmethod
    def test(cls, cfg: Any, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate a model on every test dataset of the config.

        Args:
            evaluators: one per test dataset; None builds them.

        Returns:
            Metrics by task, ``{"bbox": {"AP": ...}}``; with several datasets such a dictionary
            by the name of the dataset. Empty on processes other than the main one.

        Raises:
            ValueError: the number of evaluators is not that of the datasets.
        """
        names = recipe_of(cfg).test_names
        if evaluators is not None and not isinstance(evaluators, Sequence):
            evaluators = [evaluators]
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(f"{len(evaluators)} evaluators for {len(names)} datasets: {names}.")
        results: OrderedDict[str, Any] = OrderedDict()
        for number, name in enumerate(names):
            evaluator = None if evaluators is None else evaluators[number]
            results[name] = test_dataset(cls, cfg, model, name, evaluator)
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: Any, num_workers: int) -> Any:
        """The config for another number of processes than the one it was written for.

        With SOLVER.REFERENCE_WORLD_SIZE = 0, the default, and for LazyConfigs, nothing changes.
        Otherwise batch size and learning rate grow with the number of processes, and all
        lengths in iterations shrink (Goyal et al., arXiv:1706.02677), so that a process does
        the same work per iteration and the whole training sees the same number of images.

        Raises:
            AssertionError: the batch size is not a multiple of the reference number.
        """
        return scale_to_workers(cfg, num_workers) if isinstance(cfg, CfgNode) else cfg
