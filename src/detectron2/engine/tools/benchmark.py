"""How fast training, inference and data loading of a config are."""

from __future__ import annotations

import argparse
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import build_detection_train_loader
from detectron2.data.benchmark import DataLoaderBenchmark
from detectron2.engine import hooks
from detectron2.engine._recipe import YacsRecipe, recipe_of
from detectron2.engine.defaults import create_ddp_model, default_argument_parser
from detectron2.engine.entry_points import setup
from detectron2.engine.launch import launch_as_asked
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import CommonMetricPrinter

__all__ = ["TASKS", "invoke_main", "main"]

logger = logging.getLogger("detectron2")

_CACHED_BATCHES = 100
_TRAIN_ITERATIONS = 400
_EVAL_WARMUP, _EVAL_ITERATIONS = 5, 300
_DATA_ITERATIONS = 250


def _cached(loader: Any, count: int) -> list[Any]:
    """The first batches, so that loading is not timed."""
    return list(itertools.islice(loader, count))


def _train(cfg: Any) -> None:
    if not isinstance(recipe_of(cfg), YacsRecipe):
        raise ValueError("--task train takes a YAML config.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BASE_LR = 0.001  # the weights may be random
    recipe = recipe_of(cfg)
    model = recipe.model()
    optimizer = recipe.optimizer(model)
    DetectionCheckpointer(model, optimizer=optimizer).load(recipe.weights)
    model = create_ddp_model(model, **recipe.ddp_options)
    batches = itertools.cycle(_cached(build_detection_train_loader(cfg), _CACHED_BATCHES))
    trainer = SimpleTrainer(model, batches, optimizer)
    last = _TRAIN_ITERATIONS - 1
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.PeriodicWriter([CommonMetricPrinter(_TRAIN_ITERATIONS)]),
            hooks.TorchProfiler(lambda trainer: trainer.iter == last, recipe.output_dir),
        ]
        if comm.is_main_process()
        else []
    )
    trainer.train(0, _TRAIN_ITERATIONS)


@torch.no_grad()
def _eval(cfg: Any) -> None:
    if comm.get_world_size() > 1:
        raise ValueError("--task eval runs in one process; use --num-gpus 1.")
    recipe = recipe_of(cfg)
    model = recipe.model().eval()
    DetectionCheckpointer(model).load(recipe.weights)
    loader = recipe.test_loader(recipe.test_names[0])
    batches = itertools.cycle(_cached(loader, _CACHED_BATCHES))
    _run(model, batches, _EVAL_WARMUP)
    seconds = _run(model, batches, _EVAL_ITERATIONS)
    logger.info("%d iterations in %.1f seconds.", _EVAL_ITERATIONS, seconds)
    logger.info("%.4f s / iteration", seconds / _EVAL_ITERATIONS)


def _run(model: Any, batches: Iterator[Any], count: int) -> float:
    start = time.perf_counter()
    for batch in itertools.islice(batches, count):
        model(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _benchmark_of(cfg: Any) -> DataLoaderBenchmark:
    if isinstance(recipe_of(cfg), YacsRecipe):
        options = build_detection_train_loader.from_config(cfg)  # type: ignore[attr-defined]
        return DataLoaderBenchmark(
            options["dataset"],
            mapper=options["mapper"],
            sampler=options["sampler"],
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    options = dict(cfg.dataloader.train)
    options.pop("_target_")
    known = ("dataset", "mapper", "sampler", "total_batch_size", "num_workers")
    return DataLoaderBenchmark(**{k: instantiate(options[k]) for k in known if k in options})


def _data(cfg: Any) -> None:
    benchmark = _benchmark_of(cfg)
    benchmark.benchmark_distributed(_DATA_ITERATIONS)
    for _ in range(10):
        benchmark.benchmark_distributed(_DATA_ITERATIONS, 1)


def _data_advanced(cfg: Any) -> None:
    benchmark = _benchmark_of(cfg)
    for part in ("dataset", "mapper", "workers", "IPC"):
        getattr(benchmark, f"benchmark_{part}")(100)
    if comm.get_world_size() > 1:
        benchmark.benchmark_distributed(100)


TASKS: dict[str, Callable[[Any], None]] = {
    "train": _train,
    "eval": _eval,
    "data": _data,
    "data_advanced": _data_advanced,
}


def main(args: argparse.Namespace) -> None:
    """Run one task in this process."""
    cfg = setup(args)
    logger.info("Environment info:\n%s", collect_env_info())
    TASKS[args.task](cfg)


def invoke_main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run `main` in as many processes as it asks for."""
    parser = default_argument_parser()
    parser.add_argument("--task", choices=TASKS, required=True, help="what to time")
    args = parser.parse_args(arguments)
    if args.eval_only:
        raise ValueError("--eval-only means nothing here; use --task eval.")
    launch_as_asked(main, args)
