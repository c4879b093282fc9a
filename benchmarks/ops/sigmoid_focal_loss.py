"""How long does the focal loss of RetinaNet take, forward and with its gradient?

All anchors and 80 classes of one image of 800 x 1088, few of them positive. Beside torchvision's
loss of the rows that take part, with one-hot targets as it wants them.
"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under
from torch.nn.functional import one_hot

from detectron2 import ops

ANCHORS, CLASSES = 163_215, 80


def table(options) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(ANCHORS, CLASSES, generator=random) - 4.6
    labels = torch.full((ANCHORS,), CLASSES)
    chosen = torch.randint(ANCHORS, (800,), generator=random)
    labels[chosen[:400]] = -1
    labels[chosen[400:]] = torch.randint(CLASSES, (400,), generator=random)
    logits, labels = logits.to(options.device), labels.to(options.device)

    def theirs(rows):
        valid = labels >= 0
        targets = one_hot(labels[valid], CLASSES + 1)[:, :CLASSES].to(rows.dtype)
        return peer().sigmoid_focal_loss(rows[valid], targets, 0.25, 2.0, "sum")

    runs = {"kernel": lambda rows: ops.sigmoid_focal_loss(rows, labels)}
    runs["reference"] = runs["kernel"]
    if peer() is not None:
        runs["torchvision"] = theirs

    def with_gradient(run):
        leaf = logits.detach().requires_grad_(True)
        return torch.autograd.grad(run(leaf), leaf)

    result = []
    for what, wrap in (
        ("forward", lambda run: lambda: run(logits)),
        ("forward + backward", lambda run: lambda: with_gradient(run)),
    ):
        candidates = {
            name: under("reference" if name == "reference" else "auto", wrap(run))
            for name, run in runs.items()
        }
        case = f"sigmoid_focal_loss, {ANCHORS} x {CLASSES}, {what}"
        result.append((case, milliseconds(candidates, options)))
    return result


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
