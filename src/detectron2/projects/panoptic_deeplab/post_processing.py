"""From semantic classes, centres and offsets to a panoptic segmentation.

Shapes: H, W pixels of one image, K centres. Positions are (y, x) in pixels.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "find_instance_center",
    "get_instance_segmentation",
    "get_panoptic_segmentation",
    "group_pixels",
    "merge_semantic_and_instance",
]

# Distances that are held at once, 16 MB.
_DISTANCES_AT_ONCE = 2**22


def find_instance_center(
    center_heatmap: Tensor,
    threshold: float = 0.1,
    nms_kernel: int = 3,
    top_k: int | None = None,
) -> Tensor:
    """Positions of the local maxima of the centre probability.

    Args:
        center_heatmap: (1, H, W) probabilities.
        threshold: a centre's probability is above it.
        nms_kernel: side, odd, of the window whose maximum a centre is.
        top_k: only centres better than the `top_k`-th best one, which makes them at most
            ``top_k - 1`` where there are as many; None keeps all.

    Returns:
        (K, 2) int64, from top to bottom.

    Raises:
        ValueError: another shape, or an even window.
    """
    _check_shape("center_heatmap", center_heatmap, 1)
    if nms_kernel % 2 == 0:
        raise ValueError(f"nms_kernel is {nms_kernel}; a window around a pixel has an odd side.")
    # Rows and columns one after the other have the same maxima as the square, at 2k instead of
    # k * k comparisons for each pixel.
    pad = nms_kernel // 2
    peak = F.max_pool2d(center_heatmap[None], (nms_kernel, 1), stride=1, padding=(pad, 0))
    peak = F.max_pool2d(peak, (1, nms_kernel), stride=1, padding=(0, pad))[0]
    is_center = (center_heatmap > max(threshold, 0.0)) & (center_heatmap == peak)
    if top_k is not None:
        scores = center_heatmap[is_center]
        if len(scores) >= top_k:
            is_center &= center_heatmap > scores.topk(top_k).values[-1]
    return is_center[0].nonzero()


def group_pixels(center_points: Tensor, offsets: Tensor) -> Tensor:
    """The centre that each pixel belongs to: the one nearest to where its offset points.

    Args:
        center_points: (K, 2), K at least 1.
        offsets: (2, H, W) from each pixel to its centre, y first.

    Returns:
        (1, H, W) int64 from 1 to K.

    Raises:
        ValueError: another shape, or no centre.
    """
    _check_shape("offsets", offsets, 2)
    everywhere = torch.ones_like(offsets[0], dtype=torch.bool)
    return _grouped(center_points, offsets, everywhere)


def _grouped(center_points: Tensor, offsets: Tensor, selected: Tensor) -> Tensor:
    """(1, H, W): as `group_pixels` where `selected` (H, W) is True, 0 elsewhere."""
    if len(center_points) == 0:
        raise ValueError("group_pixels needs one centre at least; without any, no pixel has one.")
    pixels = selected.nonzero()
    pointed_at = pixels + offsets.permute(1, 2, 0)[selected].float()
    groups = torch.zeros(selected.shape, dtype=torch.int64, device=selected.device)
    groups[selected] = _nearest(pointed_at, center_points.float()) + 1
    return groups[None]


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """(P,) index of the nearest of `centers` (K, 2) for each of `points` (P, 2).

    In pieces: all P x K distances of a large photograph would take gigabytes.
    """
    size = max(_DISTANCES_AT_ONCE // len(centers), 1)
    center_y, center_x = centers.unbind(dim=1)
    found = []
    for piece in points.split(size):
        y_distance = piece[:, :1] - center_y
        x_distance = piece[:, 1:] - center_x
        squared = y_distance.square_().add_(x_distance.square_())
        # min is faster than argmin on a CPU.
        found.append(squared.min(dim=1).indices)
    return torch.cat(found) if found else points.new_zeros(0, dtype=torch.int64)


def get_instance_segmentation(
    sem_seg: Tensor,
    center_heatmap: Tensor,
    offsets: Tensor,
    thing_seg: Tensor | None,
    thing_ids: Collection[int],
    threshold: float = 0.1,
    nms_kernel: int = 3,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The things of an image, without their classes.

    Args:
        sem_seg: (1, H, W) class of each pixel.
        center_heatmap, threshold, nms_kernel, top_k: see `find_instance_center`.
        offsets: see `group_pixels`.
        thing_seg: (1, H, W), 1 for pixels of things, else 0; None is found by `thing_ids`.
        thing_ids: classes of things.

    Returns:
        (1, H, W) int64, 0 where there is no thing, else the number of its centre from 1 on; and
        the (1, K, 2) centres.
    """
    centers = find_instance_center(center_heatmap, threshold, nms_kernel, top_k)
    if len(centers) == 0:
        return torch.zeros_like(sem_seg, dtype=torch.int64), centers[None]
    is_thing = _thing_pixels(sem_seg, thing_ids) if thing_seg is None else thing_seg > 0
    return _grouped(centers, offsets, is_thing[0]), centers[None]


def _thing_pixels(sem_seg: Tensor, thing_ids: Collection[int]) -> Tensor:
    """(1, H, W) True where the class is one of things."""
    return torch.isin(sem_seg, torch.tensor(sorted(thing_ids), device=sem_seg.device))


def merge_semantic_and_instance(
    sem_seg: Tensor,
    ins_seg: Tensor,
    semantic_thing_seg: Tensor,
    label_divisor: int,
    thing_ids: Collection[int],
    stuff_area: int,
    void_label: int,
) -> Tensor:
    """One segment for each pixel: things get the class of most of their pixels, stuff the rest.

    Args:
        sem_seg: (1, H, W) class of each pixel, not negative.
        ins_seg: (1, H, W) thing of each pixel from 1 on, 0 without one.
        semantic_thing_seg: (1, H, W), 1 for pixels that can belong to a thing, else 0.
        label_divisor: an id is ``class * label_divisor + number``; things of a class are numbered
            from 1 on, stuff has number 0.
        thing_ids: classes of things.
        stuff_area: stuff of fewer pixels is void.
        void_label: id of void.

    Returns:
        (1, H, W) int64 ids.
    """
    sem_seg, ins_seg = sem_seg.long(), ins_seg.long()
    classes = int(sem_seg.max()) + 1
    is_thing = (ins_seg > 0) & (semantic_thing_seg > 0)
    thing_table = _thing_ids_of(ins_seg[is_thing], sem_seg[is_thing], classes, label_divisor)
    panoptic = torch.full_like(sem_seg, void_label)
    panoptic[is_thing] = thing_table[ins_seg[is_thing]]

    is_stuff = ins_seg == 0
    stuff = sem_seg[is_stuff]
    areas = torch.bincount(stuff, minlength=classes)
    stuff_table = torch.arange(classes, device=sem_seg.device) * label_divisor
    stuff_table[areas < stuff_area] = void_label
    stuff_table[[k for k in thing_ids if k < classes]] = void_label
    panoptic[is_stuff] = stuff_table[stuff]
    return panoptic


def _thing_ids_of(numbers: Tensor, labels: Tensor, classes: int, label_divisor: int) -> Tensor:
    """(largest number + 1,) panoptic id of each thing; things without pixels get any.

    Args:
        numbers: (P,) thing of each pixel.
        labels: (P,) class of each pixel, below `classes`.
    """
    if len(numbers) == 0:
        return numbers
    count = int(numbers.max()) + 1
    votes = torch.bincount(numbers * classes + labels, minlength=count * classes)
    votes = votes.view(count, classes)
    majority = votes.argmax(dim=1)  # of equal counts the smaller class
    present = votes.sum(dim=1) > 0
    is_of_class = F.one_hot(majority, classes) * present[:, None]
    rank = is_of_class.cumsum(dim=0).gather(1, majority[:, None])[:, 0]
    return majority * label_divisor + rank


def get_panoptic_segmentation(
    sem_seg: Tensor,
    center_heatmap: Tensor,
    offsets: Tensor,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
    foreground_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Panoptic segmentation of one image.

    Args:
        sem_seg: (1, H, W) class of each pixel.
        center_heatmap, threshold, nms_kernel, top_k: see `find_instance_center`.
        offsets: see `group_pixels`.
        thing_ids, label_divisor, stuff_area, void_label: see `merge_semantic_and_instance`.
        foreground_mask: (1, H, W), 1 for pixels of things; None takes those of `thing_ids`.

    Returns:
        (1, H, W) int64 ids, and the (1, K, 2) centres.

    Raises:
        ValueError: another shape.
    """
    _check_shape("sem_seg", sem_seg, 1)
    _check_shape("center_heatmap", center_heatmap, 1)
    _check_shape("offsets", offsets, 2)
    if foreground_mask is None:
        is_thing = _thing_pixels(sem_seg, thing_ids)
    else:
        _check_shape("foreground_mask", foreground_mask, 1)
        is_thing = foreground_mask > 0
    instances, centers = get_instance_segmentation(
        sem_seg, center_heatmap, offsets, is_thing, thing_ids, threshold, nms_kernel, top_k
    )
    panoptic = merge_semantic_and_instance(
        sem_seg, instances, is_thing, label_divisor, thing_ids, stuff_area, void_label
    )
    return panoptic, centers


def _check_shape(name: str, value: Tensor, channels: int) -> None:
    if value.dim() != 3 or value.shape[0] != channels:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it must be ({channels}, height, width), of "
            "one image."
        )
