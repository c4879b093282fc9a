"""How much memory this process uses, where Linux tells it."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

__all__ = ["peak_memory", "reset_peak_memory"]

_PROCESS = Path("/proc/self")


def reset_peak_memory() -> int | None:
    """Give unused memory back and count the peak anew from here.

    Returns:
        Bytes that are in use now; None where the system cannot do that.
    """
    gc.collect()
    try:
        # What was freed stays with the C library otherwise, and the next peak is hidden in it.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")  # see proc(5)
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def peak_memory() -> int:
    """Bytes that were in use at the peak since `reset_peak_memory`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}.")
    return int(found.group(1)) * 1024
