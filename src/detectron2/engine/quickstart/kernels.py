"""Kernels that are ready when the quick start gets to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kernels_compiled_aside"]

# What the first step of the training needs last, then what only evaluation and prediction need:
# 25 s of compiling. The rest the training compiles itself meanwhile.
_OPS = ("roi_align", "winograd_conv", "mask_runs", "paste_masks")


@contextmanager
def kernels_compiled_aside() -> Iterator[None]:
    """Within this block a process on another core fills the on-disk cache of kernels.

    The training uses half of the cores. With a single core there is nothing to win.
    """
    if (os.cpu_count() or 1) < 2:
        yield
        return
    command = f"from detectron2.ops import dispatch; dispatch.warm_up({_OPS!r})"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()
