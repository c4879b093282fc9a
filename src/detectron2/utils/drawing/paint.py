"""Coverage of shapes, and the one way of painting: blend a colour where a coverage says so.

Coordinates are those of the canvas: x to the right, y down, pixel (0, 0) spans [0, 1) x [0, 1).
A `Patch` is a coverage with the canvas pixel of its top-left corner.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

__all__ = [
    "Patch",
    "blend",
    "box_frame",
    "disk",
    "mask_outline",
    "polygon",
    "resample_mask",
    "stroke",
]

# Lengths of dash and gap in multiples of the line width.
_DASHES: dict[str, tuple[float, ...]] = {
    "--": (3.7, 1.6),
    "dashed": (3.7, 1.6),
    "-.": (6.4, 1.6, 1.0, 1.6),
    "dashdot": (6.4, 1.6, 1.0, 1.6),
    ":": (1.0, 1.65),
    "dotted": (1.0, 1.65),
}
_FINE, _COARSE = 4, 2  # samples per pixel side
_FINE_LIMIT = 1_000_000  # pixels; a larger shape is sampled coarsely, nobody sees the difference
_JOINT_LIMIT = 64  # points; a denser line bends too little for its joints to show


@dataclass(frozen=True)
class Patch:
    """coverage: (h, w) uint8, 0 untouched to 255 covered, or bool. left, top: pixel of [0, 0]."""

    coverage: np.ndarray
    left: int
    top: int


def blend(
    canvas: Image.Image, patch: Patch, color: tuple[int, int, int], alpha: float = 1.0
) -> None:
    """Paint `color` over `canvas` with opacity ``alpha * coverage / 255``, in place."""
    height, width = patch.coverage.shape
    left, top = max(patch.left, 0), max(patch.top, 0)
    right = min(patch.left + width, canvas.width)
    bottom = min(patch.top + height, canvas.height)
    if left >= right or top >= bottom or alpha <= 0:
        return
    visible = patch.coverage[
        top - patch.top : bottom - patch.top, left - patch.left : right - patch.left
    ]
    if visible.dtype == np.bool_:
        opacity = visible * np.uint8(round(255 * alpha))
    else:
        opacity = visible if alpha == 1 else _scaled_levels(alpha)[visible]
    opacity = np.ascontiguousarray(opacity)
    canvas.paste(color, (left, top, right, bottom), Image.fromarray(opacity))


@functools.lru_cache(maxsize=64)
def _scaled_levels(alpha: float) -> np.ndarray:
    """(256,) uint8 table that multiplies an 8-bit coverage by `alpha`."""
    return np.rint(alpha * np.arange(256)).astype(np.uint8)


# ------------------------------------------------------------------------------ masks


def resample_mask(
    mask: np.ndarray, canvas_size: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """The occupied part of a mask at the resolution of the canvas.

    Args:
        mask: (H, W) bool, in the frame of the picture before scaling.
        canvas_size: (height, width).

    Returns:
        (h, w) bool and the canvas pixel (left, top) of its corner; (0, 0) in size if empty.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return np.zeros((0, 0), dtype=bool), (0, 0)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    if mask.shape == canvas_size:
        return mask[top:bottom, left:right], (left, top)
    y_scale, x_scale = (new / old for new, old in zip(canvas_size, mask.shape))
    out_left, out_top = math.floor(left * x_scale), math.floor(top * y_scale)
    out_right = min(math.ceil(right * x_scale), canvas_size[1])
    out_bottom = min(math.ceil(bottom * y_scale), canvas_size[0])
    # Only the source window of the output box is read; interpolating and cutting at one half
    # rounds the stairs that enlarged pixels would show.
    window = (out_left / x_scale, out_top / y_scale, out_right / x_scale, out_bottom / y_scale)
    window = (window[0], window[1], min(window[2], mask.shape[1]), min(window[3], mask.shape[0]))
    x0, y0 = max(left - 2, 0), max(top - 2, 0)
    crop = mask[y0 : bottom + 2, x0 : right + 2]
    source = Image.fromarray(crop.astype(np.uint8) * 255)
    box = tuple(
        min(max(edge - origin, 0), limit)
        for edge, origin, limit in zip(window, (x0, y0, x0, y0), source.size * 2)
    )
    size = (out_right - out_left, out_bottom - out_top)
    resized = source.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized) >= 128, (out_left, out_top)


def mask_outline(mask: np.ndarray, origin: tuple[int, int], width: float) -> Patch:
    """A line of `width` pixels along the border pixels of an (h, w) bool mask.

    The border pixels themselves are covered fully and rings around them by what is left of the
    width, so a line of 1.4 pixels is one pixel and a soft 0.2 on either side.
    """
    margin = max(math.ceil((width - 1) / 2), 1)
    inside = np.pad(mask, margin + 1)
    core = inside[1:-1, 1:-1]
    interior = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    line = (core & ~interior).astype(np.uint8) * 255
    ring = (width - 1) / 2
    while ring > 0:
        line = _add_ring(line, min(ring, 1.0))
        ring -= 1
    return Patch(line, origin[0] - margin, origin[1] - margin)


def _add_ring(line: np.ndarray, strength: float) -> np.ndarray:
    """`line` with the pixels beside fully covered ones raised by `strength` per neighbour."""
    full = (line == 255).astype(np.uint8) * np.uint8(round(strength * 255 / 2))
    spread = np.zeros(line.shape, dtype=np.uint16)
    spread[1:] += full[:-1]
    spread[:-1] += full[1:]
    spread[:, 1:] += full[:, :-1]
    spread[:, :-1] += full[:, 1:]
    # One neighbour gives `strength`, two (a diagonal step) up to twice as much.
    return np.maximum(line, np.minimum(2 * spread, 255).astype(np.uint8))


# ------------------------------------------------------------------------------ shapes


def _sampled(
    bounds: tuple[float, float, float, float],
    canvas_size: tuple[int, int],
    draw: Callable[
        [ImageDraw.ImageDraw, Callable[[np.ndarray], list[tuple[float, float]]], int], None
    ],
) -> Patch | None:
    """Coverage of what `draw` draws, by drawing it several times larger and averaging.

    Args:
        bounds: (x0, y0, x1, y1) that the shape stays within.
        canvas_size: (height, width); nothing outside is computed.
        draw: called with the drawing, a function from (P, 2) canvas points to drawing points,
            and the number of samples per pixel side.
    """
    left, top = max(math.floor(bounds[0]), 0), max(math.floor(bounds[1]), 0)
    right = min(math.ceil(bounds[2]), canvas_size[1])
    bottom = min(math.ceil(bounds[3]), canvas_size[0])
    if left >= right or top >= bottom:
        return None
    width, height = right - left, bottom - top
    samples = _FINE if width * height <= _FINE_LIMIT else _COARSE
    large = Image.new("L", (width * samples, height * samples))

    def to_drawing(points: np.ndarray) -> list[tuple[float, float]]:
        # Pillow addresses the centres of pixels, hence the half sample.
        scaled = (points - (left, top)) * samples - 0.5
        return [(float(x), float(y)) for x, y in scaled]

    draw(ImageDraw.Draw(large), to_drawing, samples)
    return Patch(np.asarray(large.reduce(samples)), left, top)


def polygon(points: np.ndarray, canvas_size: tuple[int, int]) -> Patch | None:
    """The inside of a closed (P, 2) polygon; None if it lies off the canvas."""
    low, high = points.min(axis=0), points.max(axis=0)
    return _sampled(
        (low[0], low[1], high[0], high[1]),
        canvas_size,
        lambda drawing, place, _: drawing.polygon(place(points), fill=255),
    )


def disk(center: tuple[float, float], radius: float, canvas_size: tuple[int, int]) -> Patch | None:
    """A filled circle; None if it lies off the canvas."""
    corners = np.array([center, center]) + radius * np.array([[-1.0, -1.0], [1.0, 1.0]])
    return _sampled(
        (*corners[0], *corners[1]),
        canvas_size,
        lambda drawing, place, _: drawing.ellipse(place(corners), fill=255),
    )


def stroke(
    points: np.ndarray, width: float, canvas_size: tuple[int, int], style: str = "-"
) -> Patch | None:
    """A line of `width` pixels through (P, 2) points; None if it lies off the canvas.

    Raises:
        ValueError: unknown `style`.
    """
    pieces = [points] if style in ("-", "solid") else _dashes(points, width, style)
    low, high = points.min(axis=0) - width, points.max(axis=0) + width
    joint = "curve" if 2 < len(points) <= _JOINT_LIMIT else None

    def draw(drawing: ImageDraw.ImageDraw, place: Callable, samples: int) -> None:
        for piece in pieces:
            drawing.line(place(piece), fill=255, width=max(round(width * samples), 1), joint=joint)

    return _sampled((low[0], low[1], high[0], high[1]), canvas_size, draw)


def _dashes(points: np.ndarray, width: float, style: str) -> list[np.ndarray]:
    """The pieces of a polyline that a dashed line leaves visible."""
    if style not in _DASHES:
        raise ValueError(f"Unknown line style {style!r}; use '-' or one of {sorted(_DASHES)}.")
    pattern = np.array(_DASHES[style]) * width
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    repeats = math.ceil(along[-1] / pattern.sum()) if along[-1] > 0 else 0
    marks = np.concatenate([[0.0], np.cumsum(np.tile(pattern, repeats))])
    pieces = []
    for start, stop in zip(marks[:-1:2], marks[1::2]):
        if start >= along[-1]:
            break
        stop = min(stop, along[-1])
        inner = points[(along > start) & (along < stop)]
        ends = [[np.interp(at, along, points[:, axis]) for axis in (0, 1)] for at in (start, stop)]
        pieces.append(np.vstack([ends[:1], inner, ends[1:]]))
    return pieces


def _span(start: float, stop: float, limit: int) -> tuple[np.ndarray, int]:
    """How much of each pixel of [0, limit) the interval covers, and the first such pixel."""
    start, stop = max(start, 0.0), min(stop, float(limit))
    first, last = math.floor(start), math.ceil(stop)
    if first >= last:
        return np.zeros(0), 0
    edges = np.arange(first, last)
    return np.minimum(edges + 1, stop) - np.maximum(edges, start), first


def _rectangle(
    x0: float, y0: float, x1: float, y1: float, canvas_size: tuple[int, int]
) -> Patch | None:
    rows, top = _span(y0, y1, canvas_size[0])
    columns, left = _span(x0, x1, canvas_size[1])
    if len(rows) == 0 or len(columns) == 0:
        return None
    return Patch(np.rint(255 * np.outer(rows, columns)).astype(np.uint8), left, top)


def box_frame(box: Sequence[float], width: float, canvas_size: tuple[int, int]) -> list[Patch]:
    """The frame of an upright box (x0, y0, x1, y1), `width` pixels wide, as up to four strips."""
    half = width / 2
    x0, y0, x1, y1 = (float(edge) for edge in box)
    outer = (x0 - half, y0 - half, x1 + half, y1 + half)
    if x1 - x0 <= width or y1 - y0 <= width:
        strips = [outer]
    else:
        strips = [
            (outer[0], outer[1], outer[2], y0 + half),
            (outer[0], y1 - half, outer[2], outer[3]),
            (outer[0], y0 + half, x0 + half, y1 - half),
            (x1 - half, y0 + half, outer[2], y1 - half),
        ]
    patches = (_rectangle(*strip, canvas_size) for strip in strips)
    return [patch for patch in patches if patch is not None]
