"""How long does deformable convolution take, modulated, 3 x 3, forward and with gradients?

The three stages of ResNet-50 that use it, for an image of 800 x 1088.
"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under

from detectron2 import ops


def rows(channels: int, height: int, width: int, options) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    shapes = [
        (1, channels, height, width),
        (1, 18, height, width),
        (channels, channels, 3, 3),
        (1, 9, height, width),
    ]
    tensors = [torch.randn(shape, generator=random).to(options.device) for shape in shapes]
    tensors[3] = tensors[3].sigmoid()

    def ours(features, offset, weight, mask):
        return ops.deform_conv(features, offset, weight, None, mask, padding=1)

    def theirs(features, offset, weight, mask):
        return peer().deform_conv2d(features, offset, weight, None, 1, 1, 1, mask)

    def with_gradients(run):
        leaves = [tensor.detach().requires_grad_(True) for tensor in tensors]
        output = run(*leaves)
        return torch.autograd.grad(output, leaves, torch.ones_like(output))

    result = []
    for what, wrap in (
        ("forward", lambda run: lambda: run(*tensors)),
        ("forward + backward", lambda run: lambda: with_gradients(run)),
    ):
        candidates = {"kernel": wrap(ours), "reference": under("reference", wrap(ours))}
        if peer() is not None:
            candidates["torchvision"] = wrap(theirs)
        result.append(
            (
                f"deform_conv, {channels} x {height} x {width}, {what}",
                milliseconds(candidates, options),
            )
        )
    return result


def table(options) -> list[Row]:
    stages = ((128, 100, 136), (256, 50, 68), (512, 25, 34))
    return [row for stage in stages for row in rows(*stage, options)]


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
