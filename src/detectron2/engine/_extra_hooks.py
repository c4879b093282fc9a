"""Hooks and writers of a `DefaultTrainer` that the keys of TRAINING switch on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import nn

from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.engine.training_report import ReportWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.writers import CSVWriter, MLflowWriter, WandbWriter

__all__ = ["averaging_hook", "evaluation_hooks", "extra_writers", "progress_bar", "report_hook"]


def averaging_hook(recipe: Any, model: nn.Module) -> hooks.EMAHook | None:
    """The hook that averages the weights, if the config wants it."""
    options = recipe.training["EMA"]
    return hooks.EMAHook(model, options["DECAY"]) if options["ENABLED"] else None


def evaluation_hooks(trainer: Any, recipe: Any) -> list[hooks.HookBase]:
    """What happens after each evaluation besides it."""
    options, best = recipe.training, recipe.training["BEST"]
    result: list[hooks.HookBase] = []
    if options["VALIDATION_BATCHES"]:
        result.append(
            hooks.ValidationLoss(recipe.eval_period, trainer.model, recipe.validation_batches())
        )
    if best["METRIC"] and comm.is_main_process():
        result.append(
            hooks.BestCheckpointer(
                recipe.eval_period,
                trainer.checkpointer,
                best["METRIC"],
                best["MODE"],
                keep=best["KEEP"],
            )
        )
    if options["PATIENCE"]:
        if not best["METRIC"]:
            raise ValueError(
                "TRAINING.PATIENCE needs TRAINING.BEST.METRIC, such as 'bbox/AP', to see "
                "whether the model becomes better."
            )
        result.append(
            hooks.EarlyStopping(
                trainer.checkpointer, best["METRIC"], options["PATIENCE"], best["MODE"]
            )
        )
    return result


def progress_bar(recipe: Any) -> hooks.HookBase | None:
    """The bar, if the config wants it and somebody can see it."""
    if not (recipe.training["PROGRESS_BAR"] and sys.stderr.isatty()):
        return None
    return hooks.ProgressBar(recipe.images_per_iteration)


def report_hook(trainer: Any, recipe: Any, writers: list[EventWriter]) -> hooks.HookBase | None:
    """The hook that draws predictions for the report, if there is a report and a test dataset."""
    report = next((writer for writer in writers if isinstance(writer, ReportWriter)), None)
    if report is None or not recipe.test_names or recipe.metadata_name is None:
        return None
    loader = trainer.build_test_loader(trainer.cfg, recipe.test_names[0])
    metadata = MetadataCatalog.get(recipe.metadata_name)
    # The first images only, loaded once.
    inputs = list(islice(loader, 4))
    return hooks.SamplePredictions(
        recipe.eval_period, trainer.model, inputs, metadata, report=report
    )


def extra_writers(recipe: Any) -> list[EventWriter]:
    """The writers that TRAINING.WRITERS names.

    Raises:
        ValueError: there is no writer of a name.
        ImportError: a package is not installed.
    """
    folder = recipe.output_dir
    known: dict[str, Callable[[], EventWriter]] = {
        "csv": lambda: CSVWriter(os.path.join(folder, "metrics.csv")),
        "wandb": lambda: WandbWriter(dir=folder),
        "mlflow": MLflowWriter,
        "report": lambda: ReportWriter(folder, recipe.max_iter),
    }
    for name in recipe.training["WRITERS"]:
        if name not in known:
            raise ValueError(f"TRAINING.WRITERS names {name!r}; use some of {', '.join(known)}.")
    return [known[name]() for name in recipe.training["WRITERS"]]
