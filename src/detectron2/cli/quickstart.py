"""`detectron2 quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: detectron2 quickstart --output my_first_model"


def quickstart(
    output: Annotated[
        Path, typer.Option(help="Folder for the model, the pictures and the report.")
    ] = Path("quickstart_output"),
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Shorter or longer training than the default.")
    ] = None,
) -> None:
    """Draw a dataset, train a small Mask R-CNN, evaluate it, write a report. No download."""
    from rich.console import Console

    from detectron2.engine.quickstart import run_quickstart

    result = run_quickstart(output, iterations=iterations)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for task, values in result.metrics.items():
        console.print(f"{task}: AP {values['AP']:.1f}, AP50 {values['AP50']:.1f}")
    steps = ", ".join(f"{step} {seconds:.0f}" for step, seconds in result.seconds.items())
    console.print(f"{sum(result.seconds.values()):.0f} seconds in all: {steps}")
    console.print(
        f"Report: {result.report} - next, on your own photographs: detectron2 predict PHOTOS "
        f"--config {result.config} --weights {result.checkpoint}"
    )
