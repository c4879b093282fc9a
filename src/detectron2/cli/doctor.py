"""`detectron2 doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "Example: detectron2 doctor"


def doctor(
    warm: Annotated[
        bool, typer.Option(help="Compile the CPU kernels into the cache, if need be.")
    ] = True,
) -> None:
    """Print the environment and which kernel runs for each op and why; warm the kernel cache."""
    import time

    import torch
    from rich.console import Console
    from rich.table import Table

    from detectron2.ops import dispatch
    from detectron2.utils.collect_env import collect_env_info

    console = Console(highlight=False)
    console.print(collect_env_info(), markup=False, soft_wrap=True)
    table = Table(title="Kernels")
    table.add_column("op", no_wrap=True)  # a name that is cut cannot be looked up
    for column in ("device", "implementation", "why"):
        table.add_column(column)
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    for choice in dispatch.explain(devices):
        table.add_row(choice.op, choice.device, choice.implementation, choice.reason)
    console.print(table)
    if warm:
        start = time.perf_counter()
        with console.status("Compiling CPU kernels"):
            dispatch.warm_up()
        console.print(f"CPU kernels are ready ({time.perf_counter() - start:.1f} s).")
