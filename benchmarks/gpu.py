"""What does a GPU say: are the numbers right there, how fast is it, and what is left to mend?

One script for a machine that is at hand for minutes. It prints Markdown tables for RESULTS.md:

* ops: every kernel beside its reference, with the largest difference;
* inference: Mask R-CNN R50-FPN plain, optimized and from CUDA graphs, in four precisions, and
  whether the detections are those of the plain model in float32;
* training: images per second of a trainer's step in mixed precision, how often the host waited,
  for which share of the time the GPU computed, and memory.

Weights are random (see `inference.py`), and pictures are noise: nothing is downloaded. Each part
runs in a process of its own, because after some errors a process can use its GPU no more; what
fails is printed in full, the rest goes on, and the exit code is 1.

    python benchmarks/gpu.py                         # about 8 minutes of an H200
    python benchmarks/gpu.py --parts training --train-batches 8,16,32 --steps 20
    python benchmarks/gpu.py --device cpu --height 96 --width 128 --batches 1,2 --repeat 2
        --train-batches 2 --train-precisions bf16 --steps 2 --ops nms_rotated
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from inference_forms import milliseconds, plain_model, waits

from detectron2.engine.benchmark import describe_machine
from detectron2.engine.inference import speed_up
from detectron2.engine.inference.graphs import TrunkGraphs
from detectron2.ops import dispatch
from detectron2.structures import Instances, pairwise_iou

HERE = Path(__file__).parent
MULTIPLE = 32  # that sides are padded to
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

FORMS = ("plain", "optimized", "CUDA graphs")

Cells = Sequence[object]


class Table:
    """Lines of a Markdown table, printed as they come; of those that fail the traceback.

    After some errors a process can use its GPU no more: then it is replaced by a new one, which
    goes on behind the line that failed.
    """

    def __init__(self, options: argparse.Namespace, title: str, *columns: str) -> None:
        self.failed = options.failed_before
        self._options = options
        self._lines = 0
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def add(self, name: str, measure: Callable[[], Cells], always: bool = False) -> None:
        """A line of the cells that `measure` returns.

        Args:
            always: also where an earlier process has had this line.
        """
        self._lines += 1
        if self._lines <= self._options.skip and not always:
            return
        try:
            self.print(measure())
        except Exception:
            self.failed += 1
            print(f"| {name} | failed |", flush=True)
            traceback.print_exc()
            is_new = self._lines > self._options.skip
            if is_new and self._options.device == "cuda" and gpu_is_lost():
                self._go_on_in_a_new_process()

    def print(self, cells: Cells) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    def _go_on_in_a_new_process(self) -> None:
        sys.stderr.flush()
        done = ["--skip", str(self._lines)]
        count = ["--failed-before", str(self.failed)]
        os.execv(sys.executable, [sys.executable, __file__, *sys.argv[1:], *done, *count])


def gpu_is_lost() -> bool:
    """Whether this process can use its GPU no more."""
    try:
        return torch.ones(1, device="cuda").item() != 1
    except RuntimeError:
        return True


def ops_part(options: argparse.Namespace) -> int:
    """How many benchmarks of ops failed; the kernels run beside their references."""
    set_precision("fp32")
    sys.path.insert(0, str(HERE / "ops"))
    known = sorted(path.stem for path in (HERE / "ops").glob("*.py") if path.stem != "measure")
    chosen = SimpleNamespace(
        device=options.device,
        repeats=options.repeat,
        clock=time.perf_counter,
        no_reference=False,
    )
    table = Table(
        options, "Ops", "op", "kernel, ms", "reference, ms", "ratio", "largest difference"
    )

    for name in options.ops or known:
        table.add(name, partial(op_lines, name, table, chosen))
    return table.failed


def op_lines(name: str, table: Table, options: SimpleNamespace) -> Cells:
    """Print the lines of one file of benchmarks but for the last, and return that."""
    *rows, last = (
        op_cells(case, times) for case, times in importlib.import_module(name).table(options)
    )
    for cells in rows:
        table.print(cells)
    return last


def op_cells(case: str, times: Any) -> Cells:
    middle = {each: statistics.median(values) for each, values in times.items()}
    ours, plain = middle["kernel"], middle.get("reference", middle.get("plain"))
    beside = ("", "") if plain is None else (f"{plain:.3f}", f"{plain / ours:.1f}")
    return [case, f"{ours:.3f}", *beside, times.difference]


def set_precision(name: str) -> None:
    """Let float32 be float32, or for "tf32" what a GPU makes of it with 11 bits."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"


def inference_part(options: argparse.Namespace) -> int:
    """How many measurements failed."""
    random = torch.Generator().manual_seed(1)
    shape = (3, options.height, options.width)
    table = Table(
        options,
        f"Inference, Mask R-CNN R50-FPN, {options.height} x {options.width}",
        "batch", "precision", "form", "ms", "median", "images/s", "waits", "peak GiB",
        "detections", "as in plain fp32", "scores differ by",
    )  # fmt: skip
    for batch in numbers(options.batches):
        pictures = [torch.rand(shape, generator=random) * 255 for _ in range(batch)]
        inputs = [{"image": picture.to(options.device)} for picture in pictures]
        expected: list[Instances] = []  # of the first, plain fp32
        for precision, form in product(options.precisions.split(","), FORMS):
            if form != "CUDA graphs" or options.device == "cuda":
                line = partial(inference_line, precision, form, inputs, expected, options)
                # The other lines of a batch are compared with this one.
                first = (precision, form) == ("fp32", "plain")
                table.add(f"{batch}, {precision}, {form}", line, always=first)
    return table.failed


def inference_line(
    precision: str,
    form: str,
    inputs: list[Any],
    expected: list[Instances],
    options: argparse.Namespace,
) -> Cells:
    run = runner(precision, form, inputs, options)
    found, cells = measured(run, len(inputs), options)
    if not expected:
        expected.extend(found)
    found_in_all = sum(map(len, found))
    return [len(inputs), precision, form, *cells, found_in_all, *agreement(found, expected)]


def runner(
    precision: str, form: str, inputs: list[Any], options: argparse.Namespace
) -> Callable[[], list[Instances]]:
    """Function that detects in the inputs, behind which is a model of its own."""
    set_precision(precision)
    model: Any = plain_model(options)
    half = DTYPES.get(precision)
    if form != "plain":
        speed_up(model, "fp32" if half is None else precision)
        model.fixed_shapes = True
    if form == "CUDA graphs":
        model.graphs = TrunkGraphs([tuple(s + -s % MULTIPLE for s in options_size(options))])

    calls: list[int] = []

    def run() -> list[Instances]:
        wanted = form == "plain" and half is not None
        with torch.inference_mode(), torch.autocast(options.device, half, enabled=wanted):
            found = [output["instances"] for output in model(inputs)]
        calls.append(len(found))
        graphs = getattr(model, "graphs", None)
        if graphs is not None and len(calls) > 1 and not graphs._recorded:
            raise RuntimeError("No CUDA graph was recorded; the log says why.")
        return found

    return run


def options_size(options: argparse.Namespace) -> tuple[int, int]:
    return options.height, options.width


def measured(
    run: Callable[[], list[Instances]], images: int, options: argparse.Namespace
) -> tuple[list[Instances], list[str]]:
    """What `run` finds; ms, their median, images/s, waits and memory."""
    on_gpu = options.device == "cuda"
    for _ in range(3):  # compiled, recorded, and warm
        found = run()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [milliseconds(run, options.device) for _ in range(options.repeat)]
    best, middle = min(times), statistics.median(times)
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.2f}" if on_gpu else "-"
    waited = waits(run, options.device)
    return found, [
        f"{best:.1f}", f"{middle:.1f}", f"{1000 * images / middle:.1f}", str(waited), peak,
    ]  # fmt: skip


def agreement(found: list[Instances], expected: list[Instances]) -> tuple[str, str]:
    """Share of expected detections that have one of their class and place (IoU 0.9), and the
    largest difference of scores between the two."""
    matched, total, largest = 0, 0, 0.0
    for ours, theirs in zip(found, expected, strict=True):
        total += len(theirs)
        if not len(ours) or not len(theirs):
            continue
        iou = pairwise_iou(theirs.pred_boxes, ours.pred_boxes)
        same = theirs.pred_classes[:, None] == ours.pred_classes
        best, place = iou.masked_fill(~same, 0).max(dim=1)
        is_there = best >= 0.9
        matched += int(is_there.sum())
        differences = (theirs.scores - ours.scores[place].to(theirs.scores)).abs()[is_there]
        largest = max([largest, *differences.tolist()])
    return (f"{matched / total:.1%}" if total else "none expected"), f"{largest:.1e}"


def training_part(options: argparse.Namespace) -> int:
    """How many measurements failed."""
    table = Table(
        options,
        f"Training, Mask R-CNN R50-FPN, {options.height} x {options.width}",
        "batch", "precision", "masks", "ms/step", "images/s", "waits/step", "GPU busy", "peak GiB",
    )  # fmt: skip
    precisions, masks = options.train_precisions.split(","), options.train_masks.split(",")
    for line in product(numbers(options.train_batches), precisions, masks):
        table.add(", ".join(map(str, line)), partial(training_line, *line, options))
    return table.failed


def training_line(batch: int, precision: str, masks: str, options: argparse.Namespace) -> Cells:
    import training

    set_precision(precision)
    chosen = SimpleNamespace(
        device=options.device,
        size=list(options_size(options)),
        batch=batch,
        amp=precision == "bf16",
        masks=masks,
    )
    return [batch, precision, masks, *step_cells(training.our_trainer(chosen), options, batch)]


def step_cells(step: Callable[[], Any], options: argparse.Namespace, batch: int) -> list[str]:
    """ms, images/s, waits, share of the time in which the GPU computed, and memory of a step."""
    on_gpu = options.device == "cuda"
    for _ in range(3):
        step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    middle = statistics.median(milliseconds(step, options.device) for _ in range(options.steps))
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if on_gpu else "-"
    busy = f"{busy_milliseconds(step) / middle:.0%}" if on_gpu else "-"
    waited = waits(step, options.device)
    return [f"{middle:.1f}", f"{1000 * batch / middle:.2f}", str(waited), busy, peak]


def busy_milliseconds(step: Callable[[], Any]) -> float:
    """How long the GPU computes for a step; what is left of it the GPU waits for the host."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(each.self_device_time_total for each in profile.key_averages()) / 1000


PARTS = {"training": training_part, "inference": inference_part, "ops": ops_part}


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--parts", default=",".join(PARTS), help="comma-separated")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)  # run it in this process
    add("--skip", type=int, default=0, help=argparse.SUPPRESS)  # so many lines of it
    add("--failed-before", type=int, default=0, help=argparse.SUPPRESS)
    add("--part-seconds", type=float, default=155, help="a part that takes longer is ended")
    add("--height", type=int, default=800)
    add("--width", type=int, default=1333)
    add("--repeat", type=int, default=10, help="runs that are timed")
    add("--ops", nargs="*", help="files of the folder ops; all by default")
    add("--batches", default="1,8", help="images of a batch in inference")
    add("--precisions", default="fp32,tf32,bf16,fp16", help="of inference, fp32 first")
    add("--train-batches", default="16", help="images per step")
    add("--train-precisions", default="bf16,tf32", help="bf16 is mixed precision")
    add("--train-masks", default="polygons,crops", help="crops: INPUT.MASK_FORMAT bitmask")
    add("--steps", type=int, default=10, help="of training, that are timed")
    options = parser.parse_args()
    unknown = sorted(set(options.parts.split(",")) - set(PARTS))
    if unknown:
        parser.error(f"There is no part {unknown[0]!r}; there are {', '.join(PARTS)}.")
    return options


def describe(options: argparse.Namespace) -> None:
    """Machine and versions, and the ops without a kernel there."""
    machine = describe_machine(torch.device(options.device))
    print(f"{date.today()}: " + ", ".join(f"{name} {value}" for name, value in machine.items()))
    wanted = dispatch.KERNEL_OF_DEVICE[options.device]
    for choice in dispatch.explain((options.device,)):
        if choice.implementation != wanted:
            print(f"{choice.op} runs its reference: {choice.reason}")


def run_in_a_process(part: str, options: argparse.Namespace) -> bool:
    """Whether all of a part succeeded."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    try:
        done = subprocess.run(command, timeout=options.part_seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"\n{part} took more than {options.part_seconds:g} s and was ended.", flush=True)
        return False
    if done.returncode:
        print(f"\nNot all of {part} succeeded (exit code {done.returncode}).", flush=True)
    return done.returncode == 0


def main() -> int:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here; `--device cpu` with small sizes tries the script out.")
        return 2
    if options.part:
        return min(PARTS[options.part](options), 1)
    describe(options)
    done = [run_in_a_process(part, options) for part in options.parts.split(",")]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
