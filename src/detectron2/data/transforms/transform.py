"""Deterministic image transforms on top of fvcore's ``Transform`` classes.

Coordinates are not pixel indices: an image of shape (H, W) covers [0, W] x [0, H], and the
centre of the pixel in row i, column j lies at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
)
from PIL import Image

from detectron2.data.transforms._polygon_clip import clip_polygons
from detectron2.data.transforms._resample import (
    resize_float,
    resize_nearest,
    resize_uint8,
    warp_affine,
)

__all__ = [
    "ColorTransform",
    "ExtentTransform",
    "PILColorTransform",
    "ResizeTransform",
    "RotationTransform",
]

NEAREST, BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR

# The numbers by which OpenCV calls its interpolations: what `RotationTransform` is given.
WARP_FILTERS = {0: Image.Resampling.NEAREST, 1: Image.Resampling.BILINEAR}


class ExtentTransform(Transform):
    """Cut a rectangle out of the image, which it may leave, and resize it to a fixed size."""

    def __init__(
        self,
        src_rect: Sequence[float],
        output_size: tuple[int, int],
        interp: int = BILINEAR,
        fill: float = 0,
    ) -> None:
        """
        Args:
            src_rect: (x0, y0, x1, y1) in coordinates of the input image.
            output_size: (h, w) of the result.
            interp: a Pillow resampling filter.
            fill: without effect; what lies outside of the input becomes 0.
        """
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        h, w = self.output_size
        single_channel = img.ndim == 3 and img.shape[2] == 1
        result = Image.fromarray(img[:, :, 0] if single_channel else img).transform(
            size=(w, h),
            method=Image.Transform.EXTENT,
            data=tuple(float(v) for v in self.src_rect),
            resample=self.interp if interp is None else interp,
        )
        array = np.asarray(result)
        return array[:, :, None] if single_channel else array

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        h, w = self.output_size
        x0, y0, x1, y1 = self.src_rect
        # float32 like the peer: what follows a crop of this kind agrees to the last bit.
        moved = coords.astype(np.float32)
        moved[:, 0] = (moved[:, 0] - x0) * (w / (x1 - x0))
        moved[:, 1] = (moved[:, 1] - y0) * (h / (y1 - y0))
        return moved

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        # The peer interpolates labels here, too, and results recorded with it hold mixed labels.
        # Make the transform with interp=NEAREST where labels must stay labels.
        return self.apply_image(segmentation)


class ResizeTransform(Transform):
    """Resize the image to a given size.

    uint8 images go through Pillow and are pixel-exact with it (it averages when shrinking);
    other dtypes are interpolated by PyTorch, without averaging.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h: height of the input.
            w: width of the input.
            new_h: height of the result.
            new_w: width of the result.
            interp: a Pillow resampling filter; None means bilinear.
        """
        super().__init__()
        if interp is None:
            interp = BILINEAR
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an (H, W) or (H, W, C) image; dtype and number of dimensions stay.

        Raises:
            ValueError: the image does not have the size the transform was made for.
            NotImplementedError: a bool image, or integers other than uint8.
        """
        self._check_size(img)
        method = Image.Resampling(self.interp if interp is None else interp)
        if img.dtype == np.uint8:
            return resize_uint8(img, self.new_h, self.new_w, method)
        return resize_float(img, self.new_h, self.new_w, method)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Nearest label at every new pixel, for labels of any dtype."""
        if segmentation.dtype.kind == "f" or segmentation.dtype == np.uint8:
            return self.apply_image(segmentation, interp=NEAREST)
        self._check_size(segmentation)
        return resize_nearest(segmentation, self.new_h, self.new_w)

    def inverse(self) -> Transform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)

    def _check_size(self, img: np.ndarray) -> None:
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"The transform resizes images of (height, width) {(self.h, self.w)}, but got an "
                f"image of {img.shape[:2]}; make a transform for each image size."
            )


class RotationTransform(Transform):
    """Rotate counter-clockwise about a point; uncovered pixels become 0."""

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: tuple[float, float] | None = None,
        interp: int | None = None,
    ) -> None:
        """
        Args:
            h: height of the input.
            w: width of the input.
            angle: degrees, counter-clockwise as seen on the screen.
            expand: True makes the result large enough to hold the whole rotated image.
            center: (x, y) that stays in place; None means the middle. Without effect on the
                result when `expand` is set.
            interp: 0 nearest, 1 bilinear (OpenCV's numbers); None means bilinear.
        """
        super().__init__()
        image_center = np.array((w / 2, h / 2) if center is None else center, dtype=np.float64)
        interp = 1 if interp is None else int(interp)
        if interp not in WARP_FILTERS:
            raise ValueError(
                f"interp={interp} is no interpolation of RotationTransform; use 0 (nearest) or "
                "1 (bilinear)."
            )
        cos, sin = _cos_sin(angle)
        abs_cos, abs_sin = abs(cos), abs(sin)
        if expand:
            bound_w = int(np.rint(h * abs_sin + w * abs_cos))
            bound_h = int(np.rint(h * abs_cos + w * abs_sin))
        else:
            bound_w, bound_h = w, h
        self._set_attributes(locals())
        self.rm_coords = self.create_rotation_matrix()
        # Pixel indices lie half a pixel before the coordinates of pixel centres.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Rotate an (H, W) or (H, W, C) image of uint8 or floats; the result keeps its dtype."""
        if len(img) == 0 or self.angle % 360 == 0:
            return img
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"The transform rotates images of (height, width) {(self.h, self.w)}, but got an "
                f"image of {img.shape[:2]}; make a transform for each image size."
            )
        method = WARP_FILTERS[self.interp if interp is None else int(interp)]
        return warp_affine(img, self.rm_image, self.bound_h, self.bound_w, method)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self.angle % 360 == 0:
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=0)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """(2, 3) matrix from input to output positions, both shifted by `offset`."""
        # Legend: c centre of rotation, R rotation, t the shift that keeps c in place:
        # out = R (in - c) + c. The y axis points down, so counter-clockwise is [[cos, sin], ...].
        cos, sin = _cos_sin(self.angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        center = self.image_center + offset
        new_center = center
        if self.expand:
            new_center = np.array([self.bound_w / 2, self.bound_h / 2]) + offset
        shift = new_center - rotation @ center
        return np.hstack([rotation, shift[:, None]])

    def inverse(self) -> Transform:
        """Rotate back and cut off the border.

        Raises:
            NotImplementedError: without `expand` the corners are lost.
        """
        if not self.expand:
            raise NotImplementedError(
                "A rotation with expand=False cuts off corners and has no inverse; use expand=True."
            )
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        crop = CropTransform(
            (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2, self.w, self.h
        )
        return TransformList([back, crop])


def _cos_sin(angle: float) -> tuple[float, float]:
    if angle % 90 == 0:  # exact, so that quarter turns only move pixels
        quarters = int(angle // 90) % 4
        return (1.0, 0.0, -1.0, 0.0)[quarters], (0.0, 1.0, 0.0, -1.0)[quarters]
    radians = np.deg2rad(angle)
    return float(np.cos(radians)), float(np.sin(radians))


class ColorTransform(Transform):
    """A change of colours by any function on images; the geometry stays."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        """
        Args:
            op: takes an image array and returns one of the same size.

        Raises:
            ValueError: `op` cannot be called.
        """
        if not callable(op):
            raise ValueError(f"op must be a function on images, got {op!r}.")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def inverse(self) -> Transform:
        return NoOpTransform()

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation


class PILColorTransform(ColorTransform):
    """A change of colours by a function on Pillow images, such as those of ``ImageEnhance``."""

    def __init__(self, op: Callable[[Image.Image], Image.Image]) -> None:
        """
        Args:
            op: takes a Pillow image and returns one of the same size.

        Raises:
            ValueError: `op` cannot be called.
        """
        super().__init__(op)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(super().apply_image(Image.fromarray(img)))


def _flip_rotated_boxes(transform: HFlipTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """Mirror (N, 5) rows of (x, y, width, height, degrees counter-clockwise)."""
    rotated_boxes[:, 0] = transform.width - rotated_boxes[:, 0]
    rotated_boxes[:, 4] = -rotated_boxes[:, 4]
    return rotated_boxes


def _resize_rotated_boxes(transform: ResizeTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """Scale (N, 5) rows of (x, y, width, height, degrees counter-clockwise).

    Unequal scaling turns a rotated rectangle into a parallelogram. The result is the rectangle
    with its two mid-lines' lengths and the direction of its (scaled) normal.
    """
    # Legend: (sx, sy) scale; c, s cosine and sine of the angle. The width runs along (c, -s),
    # the height along (s, c).
    scale_x, scale_y = transform.new_w / transform.w, transform.new_h / transform.h
    radians = np.deg2rad(rotated_boxes[:, 4])
    c, s = np.cos(radians), np.sin(radians)
    rotated_boxes[:, 0] *= scale_x
    rotated_boxes[:, 1] *= scale_y
    rotated_boxes[:, 2] *= np.hypot(scale_x * c, scale_y * s)
    rotated_boxes[:, 3] *= np.hypot(scale_x * s, scale_y * c)
    rotated_boxes[:, 4] = np.rad2deg(np.arctan2(scale_x * s, scale_y * c))
    return rotated_boxes


def _keep_rotated_boxes(t: NoOpTransform, x: np.ndarray) -> np.ndarray:
    return x


def _crop_polygons(transform: CropTransform, polygons: list[np.ndarray]) -> list[np.ndarray]:
    """Cut polygons with the window; one polygon may fall into several pieces, or into none."""
    window = (transform.x0, transform.y0, transform.x0 + transform.w, transform.y0 + transform.h)
    return [transform.apply_coords(piece) for piece in clip_polygons(polygons, window)]


HFlipTransform.register_type("rotated_box", _flip_rotated_boxes)
ResizeTransform.register_type("rotated_box", _resize_rotated_boxes)
NoOpTransform.register_type("rotated_box", _keep_rotated_boxes)
# fvcore's own needs shapely and drops what shapely calls invalid; this one needs numpy only.
CropTransform.register_type("polygons", _crop_polygons)
