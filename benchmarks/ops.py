"""How long do all ops take, beside torchvision (where it is installed) and the reference?

One table of everything in the folder `ops`: median of five repeats, their range, and ratios.
`--only nms roi_align` runs some of them; `--no-reference` leaves out what takes longest.
"""

import importlib
import importlib.util
import platform
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "ops"
sys.path.insert(0, str(FOLDER))
measure = importlib.import_module("measure")


def versions() -> str:
    names = ["torch", "numba", "triton", "torchvision"]
    found = [
        f"{name} {importlib.import_module(name).__version__}"
        for name in names
        if importlib.util.find_spec(name)
    ]
    return f"{platform.machine()}, Python {platform.python_version()}, {', '.join(found)}"


def main() -> None:
    options = measure.arguments(__doc__)
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "measure")
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        sys.exit(f"There is no benchmark {unknown[0]!r}; there are {', '.join(names)}.")
    print(versions())
    if torch.device(options.device).type == "cuda":
        print(f"{torch.cuda.get_device_name(options.device)}, CUDA {torch.version.cuda}")
    rows = [
        row
        for name in options.only or names
        for row in importlib.import_module(name).table(options)
    ]
    measure.print_table(rows, options)


if __name__ == "__main__":
    main()
