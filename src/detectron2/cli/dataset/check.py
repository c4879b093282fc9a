"""`detectron2 dataset check`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from detectron2.cli.dataset._common import SOURCE_HELP

EXAMPLE = (
    "Examples: detectron2 dataset check my_photos/; "
    "detectron2 dataset check train.json photos/ --against val.json val_photos/; "
    "detectron2 dataset check train.json photos/ --policy fix --write mended.json"
)


class Policy(str, Enum):
    """What is done about errors."""

    report = "report"
    fail = "fail"
    skip = "skip"
    fix = "fix"


def command(
    dataset: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    images: Annotated[
        Path | None, typer.Argument(help="Folder of the images of a JSON file.")
    ] = None,
    against: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="JSON file and image folder that should share no image with it."),
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option(help="report; fail with exit code 1; skip what is wrong; fix what can be."),
    ] = Policy.report,
    write: Annotated[
        Path | None, typer.Option(help="JSON file for what policy skip or fix leaves.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("dataset_check"),
    annotations_only: Annotated[
        bool, typer.Option("--annotations-only", help="Do not open any image.")
    ] = False,
    cache: Annotated[
        bool, typer.Option(help="Remember the outcome, and read only files that changed.")
    ] = True,
) -> None:
    """Find broken images and annotations, duplicates and leaks; leave them out or mend them."""
    from detectron2.data.check.command import CheckOptions, run_check

    run_check(
        CheckOptions(
            dataset=dataset,
            images=images,
            against=against,
            policy=policy.value,
            write=write,
            output=output,
            annotations_only=annotations_only,
            cache=cache,
        )
    )
