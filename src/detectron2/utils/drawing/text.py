"""Labels: light letters on a dark plate, and where to put a plate so that others stay readable."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Label", "Plate", "choose_position", "draw_label", "plate_of", "plate_size"]

# Pixels of one typographic point: font sizes and line widths are points at 100 dots per inch.
POINT = 100 / 72
_PLATE_OPACITY = 0.8
# The font that ships with Pillow runs narrower than the usual plotting fonts, so letters are set
# a little larger for the same size in points, and wider apart, which also suits light letters on
# a dark ground.
_FONT_SCALE = 1.08
_TRACKING = 0.02  # room between letters, in font sizes


@dataclass(frozen=True)
class Label:
    """A text to draw at last, over everything else.

    x, y: canvas point of the top of the text; `align` says which point of its top edge that is.
        The plate reaches a little further on every side.
    size: font size in pixels. color: 8-bit RGB. rotation: degrees, anticlockwise.
    """

    text: str
    x: float
    y: float
    size: float
    color: tuple[int, int, int]
    align: str = "center"
    rotation: float = 0.0


@dataclass(frozen=True)
class Plate:
    """Upright rectangle in canvas pixels that a label takes up."""

    left: float
    top: float
    right: float
    bottom: float


@functools.lru_cache(maxsize=64)
def _font(half_pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(half_pixels / 2)
    assert isinstance(font, ImageFont.FreeTypeFont), "a size asks for the scalable font"
    return font


def _load_font(size: float) -> ImageFont.FreeTypeFont:
    return _font(max(round(2 * size * _FONT_SCALE), 8))


def plate_size(text: str, size: float) -> tuple[int, int]:
    """(width, height) in pixels of the unrotated plate of `text`."""
    return _letters(text, size).size


@functools.lru_cache(maxsize=1024)
def _letters(text: str, size: float) -> Image.Image:
    """Coverage of the letters on their plate, in "L" mode."""
    font, pad = _load_font(size), _padding(size)
    lines = text.split("\n")
    boxes = [font.getbbox(line or " ", anchor="ls") for line in lines]
    # Every plate is as tall as one with ascenders and descenders, so that neighbours align.
    usual = font.getbbox("lp", anchor="ls")
    above = -min(box[1] for box in [usual, *boxes])
    tall = above + max(box[3] for box in [usual, *boxes])
    pens = [_pens(line, font, _TRACKING * size) for line in lines]
    width = max(pen[-1][0] + font.getlength(pen[-1][1]) for pen in pens)
    picture = Image.new("L", (math.ceil(width + 4 * pad), math.ceil(tall * len(lines) + 2 * pad)))
    drawing = ImageDraw.Draw(picture)
    for row, (pen, box) in enumerate(zip(pens, boxes)):
        baseline = pad + above + row * tall
        for x, piece in pen:
            drawing.text((2 * pad - box[0] + x, baseline), piece, 255, font, anchor="ls")
    return picture


def _pens(line: str, font: ImageFont.FreeTypeFont, tracking: float) -> list[tuple[float, str]]:
    """Where the pen stands for each piece of a line. Scripts whose letters join stay whole."""
    if not line.isascii() or not line:
        return [(0.0, line)]
    return [
        (font.getlength(line[:index]) + index * tracking, letter)
        for index, letter in enumerate(line)
    ]


def _padding(size: float) -> int:
    return max(round(size * 0.1), 1)


@functools.lru_cache(maxsize=4096)
def plate_of(label: Label) -> Plate:
    """Where the label ends up, rotation included."""
    width, height = plate_size(label.text, label.size)
    if label.rotation:
        angle = math.radians(label.rotation)
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        width, height = (
            math.ceil(width * cos + height * sin),
            math.ceil(width * sin + height * cos),
        )
    pad = _padding(label.size)
    left = label.x - {"left": pad, "center": width / 2, "right": width - pad}[label.align]
    top = label.y - pad
    return Plate(left, top, left + width, top + height)


def draw_label(canvas: Image.Image, label: Label) -> None:
    """Draw plate and letters onto an RGB canvas, in place."""
    plate = plate_of(label)
    left, top = math.floor(plate.left + 0.5), math.floor(plate.top + 0.5)
    tile = _tile(label)
    canvas.paste(tile, (left, top), tile.getchannel("A"))


def _tile(label: Label) -> Image.Image:
    """RGBA picture of the label, turned."""
    letters = _letters(label.text, label.size)
    plate_level = round(255 * _PLATE_OPACITY)
    # Letters are opaque, the plate between them lets the picture through.
    opacity = letters.point([max(level, plate_level) for level in range(256)])
    tile = Image.new("RGBA", letters.size, (0, 0, 0, 255))
    tile.paste(label.color, (0, 0), letters)
    tile.putalpha(opacity)
    if label.rotation:
        tile = tile.rotate(label.rotation, resample=Image.Resampling.BICUBIC, expand=True)
    return tile


def choose_position(
    label: Label,
    others: Sequence[Plate],
    candidates: Iterable[tuple[float, float, str]],
    canvas_size: tuple[int, int],
    tolerance: float = 0.0,
) -> tuple[float, float, str]:
    """The first of `candidates` that hides little of other labels, else the one hiding least.

    Args:
        label: what to place; its own position is ignored.
        others: plates already taken.
        candidates: (x, y, alignment), the best-liked first.
        canvas_size: (height, width); plates are pushed back inside it.
        tolerance: fraction of a plate that may be hidden.
    """
    taken = np.array([(o.left, o.top, o.right, o.bottom) for o in others]).reshape(-1, 4)
    best, least = None, math.inf
    for x, y, align in candidates:
        x, y = _pushed_inside(replace(label, x=x, y=y, align=align), canvas_size)
        hidden = _hidden_fraction(plate_of(replace(label, x=x, y=y, align=align)), taken)
        if best is None or hidden < least:
            best, least = (x, y, align), hidden
        if hidden <= tolerance:
            break
    assert best is not None, "there is at least one candidate"
    return best


def _pushed_inside(label: Label, canvas_size: tuple[int, int]) -> tuple[float, float]:
    plate = plate_of(label)
    height, width = canvas_size
    dx = min(0.0, width - plate.right)
    dx = max(dx, -plate.left)  # a plate wider than the canvas starts at its left edge
    dy = max(min(0.0, height - plate.bottom), -plate.top)
    return label.x + dx, label.y + dy


def _hidden_fraction(plate: Plate, taken: np.ndarray) -> float:
    """Largest part that `plate` and one of the (N, 4) taken plates hide of the smaller one."""
    if len(taken) == 0:
        return 0.0
    width = np.minimum(plate.right, taken[:, 2]) - np.maximum(plate.left, taken[:, 0])
    height = np.minimum(plate.bottom, taken[:, 3]) - np.maximum(plate.top, taken[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    own_area = (plate.right - plate.left) * (plate.bottom - plate.top)
    areas = (taken[:, 2] - taken[:, 0]) * (taken[:, 3] - taken[:, 1])
    return float((shared / np.maximum(np.minimum(areas, own_area), 1e-9)).max())
