"""Each prediction's best ground-truth element, and a label by how good it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_floating
from detectron2.ops.matcher.reference import matcher_reference

__all__ = ["matcher"]


def matcher(
    quality: Tensor,
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality_matches: bool = False,
) -> tuple[Tensor, Tensor]:
    """Match every column of a quality matrix. Not differentiable.

    Args:
        quality: (M, N) quality, such as IoU, of each of M ground-truth elements with each of N
            predictions; not negative.
        thresholds: ascending bounds between the labels; a bound belongs to the interval above.
        labels: one per interval, ``len(thresholds) + 1`` values that fit int8.
        allow_low_quality_matches: label 1 also, for each element, every prediction that reaches
            the element's highest quality, even if that is 0.

    Returns:
        (N,) int64 index of the best element, the first of equals, 0 where M is 0; and
        (N,) int8 label, that of the lowest interval where M is 0.

    Raises:
        ValueError: wrong shape, or labels that do not fit the thresholds.
        TypeError: the qualities are not floating point numbers.
    """
    if quality.dim() != 2:
        raise ValueError(f"quality has shape {tuple(quality.shape)}; expected (M, N).")
    check_floating(quality, "quality")
    if len(labels) != len(thresholds) + 1:
        raise ValueError(
            f"{len(thresholds)} thresholds make {len(thresholds) + 1} intervals, but there are "
            f"{len(labels)} labels: {list(labels)}."
        )
    return dispatch.call(
        "matcher",
        quality.detach(),
        [float(bound) for bound in thresholds],
        [int(label) for label in labels],
        bool(allow_low_quality_matches),
    )


def fake_matcher(
    quality: Tensor, thresholds: Sequence[float], labels: Sequence[int], low_quality: bool
) -> tuple[Tensor, Tensor]:
    count = quality.shape[1]
    return quality.new_empty(count, dtype=torch.int64), quality.new_empty(count, dtype=torch.int8)


dispatch.define(
    "matcher(Tensor quality, float[] thresholds, int[] labels, bool allow_low_quality_matches) "
    "-> (Tensor, Tensor)",
    reference=matcher_reference,
    fake=fake_matcher,
    numba="detectron2.ops.matcher.cpu:matcher",
    triton="detectron2.ops.matcher.gpu:matcher",
)
