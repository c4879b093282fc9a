"""The palette that instances are painted with: 74 colours that are easy to tell apart."""

from __future__ import annotations

import random

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

# The first nine are the line colours of common plotting programs and two greys; then come
# grids over the colour cube, ramps of the three primaries, and black to white.
_LINES = """
    0.000 0.447 0.741   0.850 0.325 0.098   0.929 0.694 0.125   0.494 0.184 0.556
    0.466 0.674 0.188   0.301 0.745 0.933   0.635 0.078 0.184
    0.300 0.300 0.300   0.600 0.600 0.600
    1.000 0.000 0.000   1.000 0.500 0.000   0.749 0.749 0.000
    0.000 1.000 0.000   0.000 0.000 1.000   0.667 0.000 1.000
"""
_THIRDS = (0.0, 0.333, 0.667, 1.0)
_SIXTHS = (0.167, 0.333, 0.5, 0.667, 0.833, 1.0)
_GREYS = (0.0, 0.143, 0.857, 1.0)


def _plane(blue: float, levels: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """Every (red, green) pair of `levels` at one blue, red varying slowest."""
    return [(red, green, blue) for red in levels for green in levels]


def _build_palette() -> np.ndarray:
    named = np.array(_LINES.split(), dtype=np.float64).reshape(-1, 3).tolist()
    half_blue = _plane(0.5, _THIRDS)[1:]  # without pure dark blue
    full_blue = _plane(1.0, _THIRDS)[1:-1]  # without pure blue and without white
    ramps = [
        [level * (channel == k) for k in range(3)] for channel in range(3) for level in _SIXTHS
    ]
    # The red ramp starts one step later than the others.
    rows = [*named, *_plane(0.0, _THIRDS[1:]), *half_blue, *full_blue, *ramps[1:]]
    return np.array([*rows, *([level] * 3 for level in _GREYS)], dtype=np.float32)


_PALETTE = _build_palette()  # (74, 3) RGB in [0, 1]


def _scaled(colors: np.ndarray, rgb: bool, maximum: int) -> np.ndarray:
    if maximum not in (255, 1):
        raise AssertionError(f"Colours range up to 255 or up to 1; maximum={maximum!r} is neither.")
    scaled = colors * maximum
    return scaled if rgb else np.ascontiguousarray(scaled[..., ::-1])


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """The whole palette.

    Args:
        rgb: channel order RGB; the default is BGR.
        maximum: 255 or 1, the value of a full channel.

    Returns:
        (74, 3) float32.
    """
    return _scaled(_PALETTE, rgb, maximum)


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """(3,) float32, one colour of the palette drawn with NumPy's global random state."""
    index = np.random.randint(0, len(_PALETTE))
    return _scaled(_PALETTE[index], rgb, maximum)


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """`N` different colours of the palette, drawn with Python's global random state.

    More than 74 cannot all differ: the palette then repeats, each round in a new order.
    """
    order: list[int] = []
    while len(order) < N:
        order += random.sample(range(len(_PALETTE)), min(N - len(order), len(_PALETTE)))
    return [_scaled(_PALETTE[index], rgb, maximum) for index in order]
