"""The picture that a Visualizer draws on."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from detectron2.utils.drawing.paint import Patch, blend
from detectron2.utils.drawing.text import Label, Plate, draw_label, plate_of
from detectron2.utils.files import atomic_open

__all__ = ["VisImage"]

_SAVE_OPTIONS: dict[str, dict[str, int]] = {"JPEG": {"quality": 92}, "WEBP": {"quality": 92}}


class VisImage:
    """An RGB picture, scaled once, that shapes are painted on; labels stay on top.

    Attributes:
        img: (H, W, 3) uint8 RGB picture as given. width, height: its size before scaling.
        scale: output pixels per input pixel.
        picture: the Pillow canvas in output pixels, without labels.
        labels: texts to be drawn over the canvas.
    """

    dpi = 100  # dots per inch that turn points (font sizes, line widths) into pixels

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """
        Args:
            img: (H, W, 3) RGB in [0, 255].
            scale: size of the output in multiples of `img`.
        """
        self.img = img
        self.scale = scale
        self.height, self.width = int(img.shape[0]), int(img.shape[1])
        self.labels: list[Label] = []
        self._matplotlib: Any = None
        self.reset_image(img)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) in output pixels."""
        return self.picture.height, self.picture.width

    def reset_image(self, img: np.ndarray) -> None:
        """Start again from another picture of the same size; labels stay.

        Args:
            img: (H, W, 3) RGB in [0, 255].
        """
        picture = Image.fromarray(np.ascontiguousarray(img[..., :3]).astype(np.uint8, copy=False))
        # The small term keeps 928 * 1.0 from becoming 927 where a product falls just short.
        width, height = (
            max(int(side * self.scale + 1e-2), 1) for side in (self.width, self.height)
        )
        if picture.size != (width, height):
            # Enlarged pixels stay crisp squares, reduced ones are averaged.
            crisp = self.scale >= 1
            filter_ = Image.Resampling.NEAREST if crisp else Image.Resampling.BOX
            picture = picture.resize((width, height), filter_)
        elif picture.mode != "RGB":
            picture = picture.convert("RGB")
        self.picture = picture.copy()

    def paint(self, patch: Patch | None, color: tuple[int, int, int], alpha: float = 1.0) -> None:
        """Blend a coverage in output pixels into the picture; None paints nothing."""
        if patch is not None:
            blend(self.picture, patch, color, alpha)

    def add_label(self, label: Label) -> None:
        self.labels.append(label)

    def plates(self) -> list[Plate]:
        """Rectangles in output pixels that labels already take."""
        return [plate_of(label) for label in self.labels]

    def get_image(self) -> np.ndarray:
        """(H * scale, W * scale, 3) uint8 RGB."""
        finished = self.picture.copy()
        if self._matplotlib is not None:
            self._matplotlib.composite(finished)
        for label in self.labels:
            draw_label(finished, label)
        return np.array(finished)

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write the picture, whole or not at all; the extension names the format.

        Raises:
            ValueError: Pillow writes no files with that extension.
        """
        extension = os.path.splitext(os.fspath(filepath))[1].lower()
        Image.init()
        format_ = Image.registered_extensions().get(extension, "")
        if format_ not in Image.SAVE:
            raise ValueError(
                f"Pillow writes no {extension or 'extensionless'} files "
                f"(asked for {os.fspath(filepath)!r}); use .png."
            )
        with atomic_open(os.fspath(filepath)) as stream:
            picture = Image.fromarray(self.get_image())
            picture.save(stream, format=format_, **_SAVE_OPTIONS.get(format_, {}))

    # ---------------------------------------------------------------- matplotlib, on demand

    def _layer(self) -> Any:
        if self._matplotlib is None:
            from detectron2.utils.drawing.matplotlib_layer import MatplotlibLayer

            self._matplotlib = MatplotlibLayer(
                self.canvas_size, (self.height, self.width), self.dpi
            )
        return self._matplotlib

    @property
    def fig(self) -> Any:
        """A transparent matplotlib figure over the picture, made when first asked for.

        Programs that draw with ``output.ax`` keep working where matplotlib is installed.
        """
        return self._layer().figure

    @property
    def ax(self) -> Any:
        """Axes of `fig` in the frame of `img`: x to the right, y down."""
        return self._layer().axes

    @property
    def canvas(self) -> Any:
        """Agg canvas of `fig`."""
        return self._layer().canvas
