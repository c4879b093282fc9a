"""How long does non-maximum suppression take?

Random boxes, of which few or many overlap; all of one class, and of 80 classes.
"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under

from detectron2 import ops


def random_boxes(count: int, extent: float, largest: float, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=random) * extent
    size = torch.rand(count, 2, generator=random) * largest
    return torch.cat([corner, corner + size], 1).to(device)


def rows(count: int, extent: float, largest: float, options) -> list[Row]:
    random = torch.Generator().manual_seed(1)
    boxes = random_boxes(count, extent, largest, options.device)
    scores = torch.rand(count, generator=random).to(options.device)
    classes = torch.randint(80, (count,), generator=random).to(options.device)
    kept = len(ops.nms(boxes, scores, 0.5))
    result = []
    for name, args in (("nms", (boxes, scores, 0.5)), ("batched", (boxes, scores, classes, 0.5))):
        function = "nms" if name == "nms" else "batched_nms"
        ours = getattr(ops, function)
        candidates = {"kernel": lambda ours=ours, args=args: ours(*args)}
        if count <= 5000:
            candidates["reference"] = under("reference", candidates["kernel"])
        if peer() is not None:
            theirs = getattr(peer(), function)
            candidates["torchvision"] = lambda theirs=theirs, args=args: theirs(*args)
        times = milliseconds(candidates, options)
        result.append((f"{name}, {count} boxes, {kept} survive among one class", times))
    return result


def table(options) -> list[Row]:
    cases = (
        (100, 800, 100),
        (1000, 800, 100),
        (5000, 800, 100),
        (5000, 800, 400),
        (20000, 800, 100),
    )
    return [row for case in cases for row in rows(*case, options)]


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
