"""How long does ROIAlign take, forward and with its gradient?

1000 boxes of 7 x 7 bins on one 256-channel map of 200 x 272 (stride 4 of an 800 x 1088 image),
and 512 boxes over the four levels of a pyramid, in both memory formats.
"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under

from detectron2 import ops


def boxes_on_image(count: int, largest: float, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    size = 4 + torch.rand(count, 2, generator=random) * largest
    corner = torch.rand(count, 2, generator=random) * (torch.tensor([1088.0, 800.0]) - size)
    index = torch.zeros(count, 1)
    return torch.cat([index, corner, corner + size], 1).to(device)


def with_gradient(run, features: list[torch.Tensor]):
    def both():
        leaves = [feature.detach().requires_grad_(True) for feature in features]
        pooled = run(leaves)
        return torch.autograd.grad(pooled, leaves, torch.ones_like(pooled))

    return both


def one_level(memory_format: torch.memory_format, ratio: int, options) -> list[Row]:
    features = torch.randn(1, 256, 200, 272, device=options.device)
    features = [features.contiguous(memory_format=memory_format)]
    rois = boxes_on_image(1000, 112, options.device)

    def ours(maps):
        return ops.roi_align(maps[0], rois, 7, 0.25, ratio, True)

    runs = {"kernel": ours, "reference": ours}
    if peer() is not None:
        runs["torchvision"] = lambda maps: peer().roi_align(maps[0], rois, 7, 0.25, ratio, True)
    return rows_of(
        f"roi_align, 1000 boxes, ratio {ratio}, {memory_format}", runs, features, options
    )


def pyramid(memory_format: torch.memory_format, options) -> list[Row]:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    features = [
        torch.randn(1, 256, 200 >> level, 272 >> level, device=options.device).contiguous(
            memory_format=memory_format
        )
        for level in range(4)
    ]
    rois = boxes_on_image(512, 600, options.device)
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    levels = (torch.log2(area.sqrt() / 224).floor() + 2).clamp(0, 3).long()

    def ours(maps):
        return ops.multilevel_roi_align(maps, rois, levels, 7, scales, 0, True)

    def loop(maps):
        pooled = maps[0].new_zeros(len(rois), 256, 7, 7)
        for level, (feature, scale) in enumerate(zip(maps, scales, strict=True)):
            (members,) = torch.nonzero(levels == level, as_tuple=True)
            one = peer().roi_align(feature, rois[members], 7, scale, -1, True)
            pooled = pooled.index_put((members,), one)
        return pooled

    runs = {"kernel": ours, "reference": ours}
    if peer() is not None:
        runs["torchvision"] = loop
    return rows_of(f"roi_align, 512 boxes, 4 levels, {memory_format}", runs, features, options)


def rows_of(case: str, runs: dict, features: list[torch.Tensor], options) -> list[Row]:
    rows = []
    for what, wrap in (
        ("forward", lambda run: lambda: run(features)),
        ("forward + backward", lambda run: with_gradient(run, features)),
    ):
        candidates = {
            name: under("reference" if name == "reference" else "auto", wrap(run))
            for name, run in runs.items()
        }
        rows.append((f"{case}, {what}", milliseconds(candidates, options)))
    return rows


def table(options) -> list[Row]:
    rows = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        rows += one_level(memory_format, 2, options)
        rows += one_level(memory_format, 0, options)
        rows += pyramid(memory_format, options)
    return rows


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
