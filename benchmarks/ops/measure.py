"""Shared by the benchmarks of this folder: time candidates side by side, print a table."""

import argparse
import statistics
import time
from collections.abc import Callable
from types import ModuleType

import torch
from torch.utils._pytree import tree_leaves

from detectron2.ops import dispatch


class Times(dict[str, list[float]]):
    """For each candidate the milliseconds of one run in every repeat.

    Attributes:
        difference: between the results of kernel and reference, if both took part.
    """

    difference: str = ""


Row = tuple[str, Times]
"""A case, and its times."""

# Short runs are repeated until they take this long together.
SECONDS_PER_REPEAT = 0.02
# A candidate whose first run takes longer is timed twice only.
SLOW_SECONDS = 1.0


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-reference", action="store_true", help="leave out the slow reference")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="run these benchmarks only")
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


def milliseconds(candidates: dict[str, Callable[[], object]], options: argparse.Namespace) -> Times:
    """Times of each candidate, one per repeat; they take turns, so that noise hits all alike."""
    if options.no_reference:
        candidates = {name: run for name, run in candidates.items() if name != "reference"}
    loops, repeats, results = {}, {}, {}
    for name, run in candidates.items():
        results[name] = run()  # compiles, and touches the memory
        seconds = one_run(run, 1, options)
        loops[name] = max(1, int(SECONDS_PER_REPEAT / max(seconds, 1e-6)))
        repeats[name] = 2 if seconds > SLOW_SECONDS else options.repeats
    times = Times({name: [] for name in candidates})
    if "reference" in results:
        times.difference = difference(results["kernel"], results["reference"])
    del results
    for repeat in range(options.repeats):
        for name, run in candidates.items():
            if repeat < repeats[name]:
                times[name].append(1e3 * one_run(run, loops[name], options))
    return times


def difference(kernel: object, reference: object) -> str:
    """Largest difference of floats, beside their largest size; how many other values differ."""
    ours, theirs = (
        [x for x in tree_leaves(each) if isinstance(x, torch.Tensor)]
        for each in (kernel, reference)
    )
    shapes = [tuple(x.shape) for x in ours], [tuple(x.shape) for x in theirs]
    if shapes[0] != shapes[1]:
        return f"shapes {shapes[0]} and {shapes[1]}"
    parts, differences, sizes, others = [], [0.0], [0.0], 0
    for one, other in zip(ours, theirs, strict=True):
        if not one.numel():
            continue
        if one.is_floating_point():
            same = (one == other) | (one.isnan() & other.isnan())
            apart = (one.double() - other.double()).abs().masked_fill(same, 0)
            differences.append(apart.max().item())
            sizes.append(other.double().abs().max().item())
        else:
            others += int((one != other).sum())
    if any(x.is_floating_point() for x in ours):
        # Python's max passes over a NaN.
        largest, size = (torch.tensor(each).max() for each in (differences, sizes))
        parts.append(f"{largest:.1e} of {size:.3g}")
    if any(not x.is_floating_point() for x in ours):
        parts.append(f"{others} other values")
    return ", ".join(parts)


def one_run(run: Callable[[], object], loops: int, options: argparse.Namespace) -> float:
    """Seconds of one out of several runs."""
    synchronize(options.device)
    start = options.clock()
    for _ in range(loops):
        run()
    synchronize(options.device)
    return (options.clock() - start) / loops


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def print_table(rows: list[Row], options: argparse.Namespace) -> None:
    """One line per case: median of every candidate, its range, and its ratio to the kernel."""
    clock = "processor time" if options.busy_machine else "wall time"
    print(
        f"{options.device}, {options.threads} threads, float32, {clock}: median of "
        f"{options.repeats} repeats in ms (lowest to highest), and ratio to the kernel"
    )
    names = ["kernel", "plain", "torchvision", "reference"]
    names = [name for name in names if any(name in times for _, times in rows)]
    width = max(len(case) for case, _ in rows)
    print(" " * width, *(f"{name:>34}" for name in names))
    for case, times in rows:
        first = statistics.median(times["kernel"])
        cells = (cell(times[name], first) if name in times else " " * 34 for name in names)
        differs = f"  differs by {times.difference}" if times.difference else ""
        print(f"{case:<{width}}", *cells, differs, flush=True)


def cell(times: list[float], first: float) -> str:
    middle = statistics.median(times)
    text = (
        f"{digits(middle)} ({digits(min(times))} to {digits(max(times))}) {middle / first:6.1f} x"
    )
    return f"{text:>34}"


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3f}" if value < 1 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
