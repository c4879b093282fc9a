"""Cross entropy over the hardest pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DeepLabCE"]


class DeepLabCE(nn.Module):
    """Mean cross entropy of those pixels whose loss is largest ("DeeperLab", arXiv:1902.05093,
    section 3.2).

    Args:
        ignore_label: label of pixels whose loss is 0. They are counted in the mean all the same.
        top_k_percent_pixels: share of the pixels of the batch that counts, in (0, 1]; despite the
            name it is no percentage.
        weight: (C,) weight of each class.

    Raises:
        ValueError: a share outside (0, 1].
    """

    def __init__(
        self,
        ignore_label: int = -1,
        top_k_percent_pixels: float = 1.0,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not 0 < top_k_percent_pixels <= 1:
            raise ValueError(
                f"top_k_percent_pixels is {top_k_percent_pixels}; it is a share between 0 and 1, "
                "such as 0.2 for the hardest fifth of the pixels."
            )
        self.ignore_label = ignore_label
        self.top_k_percent_pixels = top_k_percent_pixels
        # A buffer, so that it follows the module to its device; not part of a checkpoint.
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """
        Args:
            logits: (N, C, H, W) scores.
            labels: (N, H, W) int64 class of each pixel.
            weights: (N, H, W) factor of the loss of each pixel.

        Returns:
            Scalar loss.
        """
        losses = F.cross_entropy(
            logits, labels, self.weight, ignore_index=self.ignore_label, reduction="none"
        )
        if weights is not None:
            losses = losses * weights
        if self.top_k_percent_pixels == 1.0:
            return losses.mean()
        count = max(int(self.top_k_percent_pixels * losses.numel()), 1)
        return losses.flatten().topk(count, sorted=False).values.mean()
