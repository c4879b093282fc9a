"""`detectron2 compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 compare report_before report_after; "
    "detectron2 compare before.json after.json --data val.json --images photos/"
)


def compare(
    a: Annotated[
        Path, typer.Argument(help="Folder of `eval --report`, or COCO result file: before.")
    ],
    b: Annotated[Path, typer.Argument(help="The same: after.")],
    data: Annotated[
        Path | None, typer.Option(help="COCO file of the ground truth; result files need it.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    task: Annotated[
        str | None, typer.Option(help="bbox or segm; masks where both runs have them.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the comparison.")] = Path("comparison"),
) -> None:
    """Compare two evaluations: what became better, what worse, and whether it is chance."""
    from detectron2.engine.evaluate_command import run_compare

    page = run_compare(a, b, ground_truth=data, images=images, task=task, output=output)
    print(f"The comparison is {page}")
