"""What does importing cost beyond torch, and how long until the command line answers?

    python benchmarks/import_time.py

Each line is the median of fresh processes. "beyond torch" subtracts a process that only imports
torch; the command line does not load torch at all for its help.
"""

import argparse
import statistics
import subprocess
import sys
import time

LINES = {
    "import torch": ["-c", "import torch"],
    "import detectron2": ["-c", "import torch, detectron2"],
    "detectron2.structures": ["-c", "import torch, detectron2.structures"],
    "detectron2.config": ["-c", "import torch, detectron2.config"],
    "detectron2.data": ["-c", "import torch, detectron2.data"],
    "detectron2.modeling": ["-c", "import torch, detectron2.modeling"],
    "detectron2.engine": ["-c", "import torch, detectron2.engine"],
    "detectron2 --help": ["-m", "detectron2.cli.main", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    # In turn, so that a machine that slows down slows all lines down.
    runs = [{name: seconds(arguments) for name, arguments in LINES.items()} for _ in range(repeats)]
    medians = {name: statistics.median(run[name] for run in runs) for name in LINES}
    print(f"{'what':<24}{'seconds':>10}{'beyond torch':>15}")
    for name, value in medians.items():
        beyond = "" if name.startswith("detectron2 -") else f"{value - medians['import torch']:.2f}"
        print(f"{name:<24}{value:>10.2f}{beyond:>15}")


if __name__ == "__main__":
    main()
