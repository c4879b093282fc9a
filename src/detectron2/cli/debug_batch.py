"""`detectron2 debug-batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: detectron2 debug-batch output/bad_batches/iteration_0000123_rank0.pth"


def debug_batch(
    file: Annotated[Path, typer.Argument(help="File of the folder bad_batches of a training.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    config: Annotated[
        str | None, typer.Option(help="LazyConfig of the training; YAML configs are in the file.")
    ] = None,
) -> None:
    """Repeat a training step that went wrong: losses, boxes, the first bad tensor."""
    from detectron2.engine.replay_batch import replay

    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} does not exist.")
    print(replay(str(file), device, config))
