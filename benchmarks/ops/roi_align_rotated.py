"""How long does ROIAlign of rotated boxes take, forward and with its gradient?

1000 boxes of 7 x 7 bins on one 256-channel map of 200 x 272 (stride 4 of an 800 x 1088 image).
"""

import torch
from measure import Row, arguments, milliseconds, print_table, under

from detectron2 import ops


def rows(memory_format: torch.memory_format, options) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(1, 256, 200, 272, device=options.device)
    features = features.contiguous(memory_format=memory_format)
    center = torch.rand(1000, 2, generator=random) * torch.tensor([1088.0, 800.0])
    size = torch.rand(1000, 2, generator=random) * 112 + 4
    angle = torch.rand(1000, 1, generator=random) * 360
    rois = torch.cat([torch.zeros(1000, 1), center, size, angle], 1).to(options.device)

    def pool(feature):
        return ops.roi_align_rotated(feature, rois, 7, 0.25, 2)

    def with_gradient():
        leaf = features.detach().requires_grad_(True)
        pooled = pool(leaf)
        return torch.autograd.grad(pooled, leaf, torch.ones_like(pooled))

    result = []
    for what, run in (("forward", lambda: pool(features)), ("forward + backward", with_gradient)):
        candidates = {"kernel": run, "reference": under("reference", run)}
        result.append(
            (f"roi_align_rotated, {memory_format}, {what}", milliseconds(candidates, options))
        )
    return result


def table(options) -> list[Row]:
    formats = (torch.contiguous_format, torch.channels_last)
    return [row for memory_format in formats for row in rows(memory_format, options)]


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
