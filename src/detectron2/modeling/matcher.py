"""Assign each prediction to a ground-truth element."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from detectron2.layers import nonzero_tuple as nonzero_tuple  # part of this module's address
from detectron2.ops import matcher

__all__ = ["Matcher"]


class Matcher:
    """Label predictions by the quality of their best ground-truth element.

    With ``thresholds=[0.3, 0.7]`` and ``labels=[0, -1, 1]`` a quality below 0.3 is negative (0),
    from 0.3 to 0.7 ignored (-1), from 0.7 upwards positive (1).

    Args:
        thresholds: ascending, positive bounds between the labels.
        labels: one per interval, ``len(thresholds) + 1`` values out of -1, 0 and 1.
        allow_low_quality_matches: also make positive, for each ground-truth element, every
            prediction that reaches that element's highest quality (Faster R-CNN, section 3.1.2,
            condition i), so that no element stays without a positive.

    Raises:
        AssertionError: the bounds do not ascend, or the labels do not fit them.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
    ) -> None:
        thresholds, labels = list(thresholds), list(labels)
        if not thresholds or thresholds[0] <= 0 or thresholds != sorted(thresholds):
            raise AssertionError(f"Matcher thresholds must be positive and ascend: {thresholds}.")
        if len(labels) != len(thresholds) + 1:
            raise AssertionError(
                f"{len(thresholds)} thresholds {thresholds} make {len(thresholds) + 1} intervals, "
                f"but there are {len(labels)} labels: {labels}."
            )
        if not set(labels) <= {-1, 0, 1}:
            raise AssertionError(f"Matcher labels are -1 (ignore), 0 or 1, not {labels}.")
        self.thresholds = [-math.inf, *thresholds, math.inf]
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match every column of a quality matrix.

        Args:
            match_quality_matrix: (M, N) quality, such as IoU, of each of M ground-truth elements
                with each of N predictions; not negative.

        Returns:
            (N,) int64 index of the best ground-truth element, 0 where M is 0; and
            (N,) int8 label. Without ground truth every label is the lowest interval's.
        """
        # A subclass may have its own idea of low-quality matches.
        in_op = type(self).set_low_quality_matches_ is Matcher.set_low_quality_matches_
        matches, match_labels = matcher(
            match_quality_matrix,
            self.thresholds[1:-1],
            self.labels,
            self.allow_low_quality_matches and in_op,
        )
        if self.allow_low_quality_matches and not in_op and match_quality_matrix.numel():
            self.set_low_quality_matches_(match_labels, match_quality_matrix)
        return matches, match_labels

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """Set `match_labels` to 1, in place, where a prediction is some element's best.

        Ties all count, and so does a best quality of zero. The matched index stays the
        prediction's own best element.
        """
        best_of_gt = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels.masked_fill_((match_quality_matrix == best_of_gt).any(dim=0), 1)
