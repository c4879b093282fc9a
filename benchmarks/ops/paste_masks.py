"""How long does mask pasting take, and how much memory?

100 masks on 800 x 1333, and 300 masks on a 12 megapixel image (memory beside the figure of
float masks of the full image, which is what a straightforward program holds).
"""

import resource
import subprocess
import sys

import torch
from measure import Row, arguments, milliseconds, print_table, under

from detectron2 import ops


def inputs(count: int, height: int, width: int, device: str):
    random = torch.Generator().manual_seed(0)
    size = torch.rand(count, 2, generator=random) * torch.tensor([width, height]) * 0.4 + 8
    corner = torch.rand(count, 2, generator=random) * (torch.tensor([width, height]) - size)
    masks = torch.rand(count, 28, 28, generator=random)
    return masks.to(device), torch.cat([corner, corner + size], 1).to(device)


def peak_memory(count: int, height: int, width: int) -> None:
    masks, boxes = inputs(count, height, width, "cpu")
    ops.paste_masks(masks[:1], boxes[:1], (8, 8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ops.paste_masks(masks, boxes, (height, width))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def table(options) -> list[Row]:
    rows = []
    for count, height, width in ((100, 800, 1333), (20, 800, 1333)):
        masks, boxes = inputs(count, height, width, options.device)
        run = lambda m=masks, b=boxes, s=(height, width): ops.paste_masks(m, b, s)  # noqa: E731
        candidates = {"kernel": run, "reference": under("reference", run)}
        case = f"paste_masks, {count} masks on {height} x {width}"
        rows.append((case, milliseconds(candidates, options)))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        peak_memory(300, 3000, 4000)
        sys.exit()
    options = arguments(__doc__)
    print_table(table(options), options)
    if options.device == "cpu":
        command = [sys.executable, __file__, "--memory"]
        kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        full = 300 * 3000 * 4000 * 4 / 2**30
        print(
            f"300 masks on 12 megapixels: {kilobytes / 2**20:.2f} GiB, float masks {full:.2f} GiB"
        )
