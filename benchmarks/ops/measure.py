"""Shared by the benchmarks of this folder: time candidates side by side, print a table."""

import argparse
import time
from collections.abc import Callable
from types import ModuleType

import torch

from detectron2.ops import dispatch


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--busy-machine",
        action="store_true",
        help="one thread, and its processor time instead of wall time: others share the cores",
    )
    parsed = parser.parse_args()
    parsed.clock = time.thread_time if parsed.busy_machine else time.perf_counter
    if parsed.busy_machine:
        parsed.threads = 1
    torch.set_num_threads(parsed.threads)
    return parsed


def peer() -> ModuleType | None:
    """torchvision, whose kernels are C++ and CUDA, if it is installed."""
    try:
        import torchvision.ops
    except ImportError:
        return None
    return torchvision.ops


def under(implementation: str, function: Callable[[], object]) -> Callable[[], object]:
    """The function with one implementation of our ops."""

    def run() -> object:
        with dispatch.use_implementation(implementation):
            return function()

    return run


def milliseconds(
    candidates: dict[str, Callable[[], object]], options: argparse.Namespace
) -> dict[str, float]:
    """Fastest run of each candidate; they take turns, so that noise hits all alike."""
    best = dict.fromkeys(candidates, float("inf"))
    for turn in range(options.repeats + 1):  # the first turn warms up: it compiles
        for name, run in candidates.items():
            synchronize(options.device)
            start = options.clock()
            run()
            synchronize(options.device)
            if turn:
                best[name] = min(best[name], 1e3 * (options.clock() - start))
    return best


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def print_table(rows: list[tuple[str, dict[str, float]]], options: argparse.Namespace) -> None:
    """One line per case: milliseconds of every candidate, and its ratio to the first."""
    clock = "processor time" if options.busy_machine else "wall time"
    print(
        f"{options.device}, {options.threads} threads, float32, {clock}, best of {options.repeats}"
    )
    names = list(rows[0][1])
    width = max(len(case) for case, _ in rows)
    print(" " * width, *(f"{name:>24}" for name in names))
    for case, times in rows:
        first = times[names[0]]
        cells = (
            f"{times[name]:12.2f} ms {times[name] / first:6.1f} x" if name in times else " " * 24
            for name in names
        )
        print(f"{case:<{width}}", *cells)
