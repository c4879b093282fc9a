"""Flops, activations, parameters and structure of the model of a config."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine._recipe import recipe_of
from detectron2.engine.defaults import default_argument_parser
from detectron2.engine.entry_points import setup
from detectron2.utils.analysis import (
    activation_count_operators,
    flop_count_operators,
    parameter_count_table,
)

__all__ = ["TASKS", "invoke_main", "main"]

logger = logging.getLogger("detectron2")

Count = Callable[[nn.Module, list[dict[str, Any]]], dict[str, float]]


def _model(cfg: Any) -> nn.Module:
    recipe = recipe_of(cfg)
    model = recipe.model().eval()
    DetectionCheckpointer(model).load(recipe.weights)
    return model


def _count(cfg: Any, num_inputs: int, count: Count, unit: str) -> str:
    """Table of a count over the first test images: mean and deviation by operator."""
    recipe = recipe_of(cfg)
    if not recipe.test_names:
        raise ValueError("The config names no test dataset (DATASETS.TEST), whose images to use.")
    model = _model(cfg)
    loader = recipe.test_loader(recipe.test_names[0])
    counts = [count(model, batch) for batch in islice(loader, num_inputs)]
    sums: Counter[str] = Counter()
    for one in counts:
        sums.update(one)
    totals = [sum(one.values()) for one in counts]
    lines = [f"  {name}: {value / len(counts):.4g}" for name, value in sums.most_common()]
    return "\n".join(
        [
            f"Average {unit} by operator, over {len(counts)} images:",
            *lines,
            f"Total {unit}: {np.mean(totals):.1f}±{np.std(totals):.1f}",
        ]
    )


def _flop(cfg: Any, num_inputs: int) -> str:
    return _count(cfg, num_inputs, flop_count_operators, "GFlops")


def _activation(cfg: Any, num_inputs: int) -> str:
    return _count(cfg, num_inputs, activation_count_operators, "million activations")


def _parameter(cfg: Any, num_inputs: int) -> str:
    return "Parameters:\n" + str(parameter_count_table(_model(cfg), max_depth=5))


def _structure(cfg: Any, num_inputs: int) -> str:
    return f"Structure:\n{_model(cfg)}"


TASKS: dict[str, Callable[[Any, int], str]] = {
    "flop": _flop,
    "activation": _activation,
    "parameter": _parameter,
    "structure": _structure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Log what ``--tasks`` asks for.

    Raises:
        ValueError: more than one GPU is asked for.
    """
    parser = default_argument_parser(
        "Example: analyze_model.py --tasks flop parameter --config-file ../configs/my_model.yaml"
    )
    parser.add_argument("--tasks", choices=TASKS, required=True, nargs="+", help="what to count")
    parser.add_argument("-n", "--num-inputs", default=100, type=int, help="images to count over")
    args: argparse.Namespace = parser.parse_args(arguments)
    if args.num_gpus > 1:
        raise ValueError(f"--num-gpus is {args.num_gpus}; one process counts as well as many.")
    cfg = setup(args)
    for task in args.tasks:
        logger.info("%s", TASKS[task](cfg, args.num_inputs))


def invoke_main() -> None:
    """Parse the command line and run `main`."""
    main()
