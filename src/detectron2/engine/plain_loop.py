"""Training without a trainer class, for people who want the whole loop before their eyes.

It trains what `DefaultTrainer` trains: copy it, and change what your research changes.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine.defaults import create_ddp_model, default_argument_parser, default_writers
from detectron2.engine.entry_points import setup
from detectron2.engine.launch import launch_as_asked
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

__all__ = ["do_test", "do_train", "get_evaluator", "invoke_main", "main"]

logger = logging.getLogger(__name__)


def get_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> Any:
    """Evaluator of a test dataset, by the evaluator_type of its metadata."""
    from detectron2.evaluation.default_evaluators import build_evaluator

    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    return build_evaluator(dataset_name, output_dir=folder, cfg=cfg)


def do_test(cfg: CfgNode, model: nn.Module) -> Any:
    """Metrics of every test dataset of the config."""
    from detectron2.evaluation import inference_on_dataset, print_csv_format

    results: OrderedDict[str, Any] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        loader = build_detection_test_loader(cfg, name)
        results[name] = inference_on_dataset(model, loader, get_evaluator(cfg, name))
        if comm.is_main_process():
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results[name])
    return next(iter(results.values())) if len(results) == 1 else results


def do_train(cfg: CfgNode, model: nn.Module, resume: bool = False) -> None:
    """Train `model`, continuing from the last checkpoint if `resume` is set.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    model.train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(
        model, cfg.OUTPUT_DIR, optimizer=optimizer, scheduler=scheduler
    )
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    resumed = resume and checkpointer.has_checkpoint()
    start_iter = loaded.get("iteration", -1) + 1 if resumed else 0
    max_iter = cfg.SOLVER.MAX_ITER
    saver = PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_iter=max_iter)
    writers = default_writers(cfg.OUTPUT_DIR, max_iter) if comm.is_main_process() else []

    loader = build_detection_train_loader(cfg)
    logger.info("Starting training from iteration %d", start_iter)
    with EventStorage(start_iter) as storage:
        for iteration, data in zip(range(start_iter, max_iter), loader):
            storage.iter = iteration
            loss_dict = model(data)
            losses = sum(loss_dict.values())
            _record(storage, loss_dict, iteration)

            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            scheduler.step()

            done = iteration + 1
            if cfg.TEST.EVAL_PERIOD > 0 and done % cfg.TEST.EVAL_PERIOD == 0 and done != max_iter:
                do_test(cfg, model)
                comm.synchronize()
            if done - start_iter > 5 and (done % 20 == 0 or done == max_iter):
                for writer in writers:
                    writer.write()
            saver.step(iteration)
    for writer in writers:
        writer.close()


def _record(storage: EventStorage, loss_dict: dict[str, torch.Tensor], iteration: int) -> None:
    reduced = {name: value.item() for name, value in comm.reduce_dict(loss_dict).items()}
    total = sum(reduced.values())
    if not math.isfinite(total):
        raise FloatingPointError(f"The loss is not finite at iteration {iteration}: {reduced}.")
    if comm.is_main_process():
        for name, value in {"total_loss": total, **reduced}.items():
            storage.put_scalar(name, value)


def main(args: argparse.Namespace) -> Any:
    """Train, or evaluate with ``--eval-only``, in this process."""
    cfg = setup(args)
    model = build_model(cfg)
    logger.info("Model:\n%s", str(model))
    if args.eval_only:
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return do_test(cfg, model)
    model = create_ddp_model(model, broadcast_buffers=False)
    do_train(cfg, model, resume=args.resume)
    return do_test(cfg, model)


def invoke_main() -> None:
    """Parse the command line and run `main` in as many processes as it asks for."""
    args = default_argument_parser().parse_args()
    launch_as_asked(main, args)
