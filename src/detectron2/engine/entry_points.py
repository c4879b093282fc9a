"""What training scripts do, as functions: a script of one's own is three lines.

    from detectron2.engine.entry_points import invoke_main

    if __name__ == "__main__":
        invoke_main()

A project with its own trainer or config keys passes them: ``invoke_main(MyTrainer, add_keys)``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.engine._recipe import recipe_of
from detectron2.engine.config_source import find_config_file
from detectron2.engine.defaults import (
    DefaultTrainer,
    default_argument_parser,
    default_setup,
)
from detectron2.engine.inference import speed_up
from detectron2.engine.launch import launch_as_asked
from detectron2.utils import comm

__all__ = ["evaluate", "invoke_main", "main", "setup", "test_with_TTA", "train"]

AddConfig = Callable[[CfgNode], Any]


def setup(args: argparse.Namespace, add_config: AddConfig | None = None) -> Any:
    """Config of the command line, frozen; logging and random seeds are set up with it.

    Args:
        args: what `default_argument_parser` parsed.
        add_config: adds the keys of a project to the defaults before the file is read.

    Raises:
        FileNotFoundError: ``--config-file`` names neither a file nor a config of the zoo.
    """
    path = find_config_file(args.config_file) if args.config_file else None
    if path is not None and path.endswith(".py"):
        lazy = LazyConfig.apply_overrides(LazyConfig.load(path), args.opts)
        default_setup(lazy, args)
        return lazy
    cfg = get_cfg()
    if add_config is not None:
        add_config(cfg)
    if path is not None:
        cfg.merge_from_file(path)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def train(cfg: Any, resume: bool = False, trainer_class: type[DefaultTrainer] | None = None) -> Any:
    """Train as the config says, and return what ``trainer.train()`` returns.

    Args:
        cfg: anything `DefaultTrainer` takes.
        resume: continue from the last checkpoint of the output folder, if there is one.
        trainer_class: None means `DefaultTrainer`.
    """
    trainer = (trainer_class or DefaultTrainer)(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def evaluate(
    cfg: Any, resume: bool = False, trainer_class: type[DefaultTrainer] | None = None
) -> dict[str, Any]:
    """Evaluate the weights that the config names, with test-time augmentation if it asks for it.

    Args:
        cfg: a config object.
        resume: evaluate the last checkpoint of the output folder instead, if there is one.
        trainer_class: whose `build_model` and `test` to use; None means `DefaultTrainer`.

    Returns:
        Metrics by task. Worse ones than TEST.EXPECTED_RESULTS end the program.
    """
    from detectron2.evaluation import verify_results

    trainer_class = trainer_class or DefaultTrainer
    recipe = recipe_of(cfg)
    model = trainer_class.build_model(cfg)
    checkpointer = DetectionCheckpointer(model, save_dir=recipe.output_dir)
    checkpointer.resume_or_load(recipe.weights, resume=resume)
    results = trainer_class.test(cfg, speed_up(model))
    if isinstance(cfg, CfgNode):
        if cfg.TEST.AUG.ENABLED:
            results.update(test_with_TTA(cfg, model, trainer_class))
        if comm.is_main_process():
            verify_results(cfg, results)
    return results


def test_with_TTA(
    cfg: CfgNode, model: nn.Module, trainer_class: type[DefaultTrainer] | None = None
) -> dict[str, Any]:
    """Metrics with test-time augmentation, ``{"bbox_TTA": {...}}``. R-CNN models only."""
    from detectron2.evaluation.default_evaluators import build_evaluator
    from detectron2.modeling import GeneralizedRCNNWithTTA

    folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
    evaluators = [build_evaluator(name, folder, cfg) for name in cfg.DATASETS.TEST]
    augmented = GeneralizedRCNNWithTTA(cfg, model)
    results = (trainer_class or DefaultTrainer).test(cfg, augmented, evaluators)
    return {f"{task}_TTA": metrics for task, metrics in results.items()}


# Test collectors take functions with this beginning for tests.
test_with_TTA.__test__ = False  # type: ignore[attr-defined]


def main(
    args: argparse.Namespace,
    trainer_class: type[DefaultTrainer] | None = None,
    add_config: AddConfig | None = None,
) -> Any:
    """Train, or evaluate with ``--eval-only``, in this process."""
    cfg = setup(args, add_config)
    run = evaluate if args.eval_only else train
    return run(cfg, resume=args.resume, trainer_class=trainer_class)


def invoke_main(
    trainer_class: type[DefaultTrainer] | None = None, add_config: AddConfig | None = None
) -> None:
    """Parse the command line and run `main` in as many processes as it asks for."""
    args = default_argument_parser().parse_args()
    launch_as_asked(partial(main, trainer_class=trainer_class, add_config=add_config), args)
