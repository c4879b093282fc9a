"""Colours as people write them, and brighter or darker versions of them."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import ImageColor

from detectron2.utils.colormap import colormap

__all__ = ["Color", "scale_lightness", "text_color", "to_rgb", "to_rgb8"]

Color = Any  # a name, "#rrggbb", a grey level as text ("0.5"), or 3 or 4 numbers in [0, 1]
RGB = tuple[float, float, float]

# One-letter names as in plotting programs: the secondary colours are toned down.
_LETTERS: dict[str, RGB] = {
    "b": (0.0, 0.0, 1.0),
    "g": (0.0, 0.5, 0.0),
    "r": (1.0, 0.0, 0.0),
    "c": (0.0, 0.75, 0.75),
    "m": (0.75, 0.0, 0.75),
    "y": (0.75, 0.75, 0.0),
    "k": (0.0, 0.0, 0.0),
    "w": (1.0, 1.0, 1.0),
}
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue, ITU-R BT.709
_READABLE = 0.4  # luminance of the darkest letters
_TABLEAU = {
    "blue": "#1f77b4",
    "orange": "#ff7f0e",
    "green": "#2ca02c",
    "red": "#d62728",
    "purple": "#9467bd",
    "brown": "#8c564b",
    "pink": "#e377c2",
    "gray": "#7f7f7f",
    "olive": "#bcbd22",
    "cyan": "#17becf",
}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_name(name: str) -> RGB | None:
    """RGB of a written colour, None if it is none."""
    if name in _LETTERS:
        return _LETTERS[name]
    if name.startswith("tab:"):
        name = _TABLEAU.get(name[4:], "")
    elif name[:1] == "C" and name[1:].isdigit():
        red, green, blue = colormap(rgb=True, maximum=1)[int(name[1:]) % 7]
        return float(red), float(green), float(blue)
    level = _number(name)
    if level is not None:  # of grey
        return (level, level, level) if 0 <= level <= 1 else None
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        return None
    return red / 255, green / 255, blue / 255


def to_rgb(color: Color) -> RGB:
    """Red, green and blue in [0, 1]. A fourth number, opacity, is dropped.

    Raises:
        ValueError: no such colour, or numbers outside [0, 1].
    """
    if isinstance(color, str):
        parsed = _parse_name(color)
        if parsed is None:
            raise ValueError(
                f"{color!r} is not a colour; write a CSS name, one of 'rgbcmykw', '#rrggbb', "
                "or a tuple of three numbers in [0, 1]."
            )
        return parsed
    values = np.asarray(color, dtype=np.float64).reshape(-1)
    if values.size not in (3, 4) or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"A colour has 3 or 4 numbers in [0, 1], not {color!r}.")
    return float(values[0]), float(values[1]), float(values[2])


def to_rgb8(color: Color) -> tuple[int, int, int]:
    """Red, green and blue as integers in [0, 255]."""
    red, green, blue = (round(255 * channel) for channel in to_rgb(color))
    return red, green, blue


def scale_lightness(color: Color, factor: float) -> RGB:
    """`color` with its HLS lightness multiplied by (1 + factor), kept within [0, 1]."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    lightness = min(max(lightness * (1 + factor), 0.0), 1.0)
    red, green, blue = (
        min(max(channel, 0.0), 1.0) for channel in colorsys.hls_to_rgb(hue, lightness, saturation)
    )
    return red, green, blue


def text_color(color: Color) -> RGB:
    """`color` made readable on black.

    No channel is below 0.2 and the strongest at least 0.8; what is still dark, such as blue, is
    mixed with white.
    """
    lifted = [max(channel, 0.2) for channel in to_rgb(color)]
    strongest = lifted.index(max(lifted))
    lifted[strongest] = max(lifted[strongest], 0.8)
    luminance = sum(weight * channel for weight, channel in zip(_LUMINANCE, lifted))
    white = max(_READABLE - luminance, 0.0) / (1 - luminance) if luminance < 1 else 0.0
    red, green, blue = (channel + white * (1 - channel) for channel in lifted)
    return red, green, blue
