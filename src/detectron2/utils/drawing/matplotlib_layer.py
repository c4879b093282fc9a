"""A transparent matplotlib figure laid over the canvas, for programs that draw with its axes."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["MatplotlibLayer"]


class MatplotlibLayer:
    """figure, axes, canvas: matplotlib objects covering the picture exactly."""

    def __init__(self, canvas_size: tuple[int, int], frame: tuple[int, int], dpi: float) -> None:
        """
        Args:
            canvas_size: (height, width) of the result in pixels.
            frame: (height, width) that axes coordinates run over.
            dpi: pixels per inch.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "VisImage draws with Pillow; its attributes fig, ax and canvas need matplotlib: "
                "pip install matplotlib."
            ) from error
        height, width = canvas_size
        self.figure = Figure(
            figsize=((width + 1e-2) / dpi, (height + 1e-2) / dpi), dpi=dpi, frameon=False
        )
        self.canvas = FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.axis("off")
        self.axes.set_xlim(0.0, frame[1])
        self.axes.set_ylim(frame[0], 0.0)

    def composite(self, picture: Image.Image) -> None:
        """Draw the figure over `picture`, in place."""
        self.canvas.draw()
        layer = Image.fromarray(np.array(self.canvas.buffer_rgba()))
        picture.paste(layer, (0, 0), layer.getchannel("A"))
