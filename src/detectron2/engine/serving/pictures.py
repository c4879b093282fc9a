"""From the bytes of a stranger's file to pixels, without trusting them."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from detectron2.data._image_io import upright_array
from detectron2.engine.serving.limits import Refused

__all__ = ["FORMATS", "encode_picture", "read_picture"]

# Pillow would also start Ghostscript for EPS, and knows formats that nobody has looked at in years.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Of the longer to the shorter side; the shorter one would be resized to nothing.
_MAX_ASPECT = 200


def read_picture(content: bytes, image_format: str, max_pixels: int) -> np.ndarray:
    """Pixels of an image file, upright by its EXIF orientation.

    Args:
        content: of the file.
        image_format: see `detectron2.data.detection_utils.read_image`.
        max_pixels: a larger image is refused by what its head says, before it is decoded.

    Returns:
        (H, W, C) in `image_format`.

    Raises:
        Refused: 400 it is no image, 413 it is too large.
    """
    if not content:
        raise Refused(400, "The image is empty: it has no bytes.")
    try:
        with warnings.catch_warnings():
            # The size is checked below, with a limit of our own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.init()  # registers every format, once
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_size(image.size, max_pixels)
            return np.ascontiguousarray(upright_array(image, image_format))
    except (Refused, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large("more than 178 million", max_pixels) from None
    # Decoders raise nearly everything on broken files (tests/data/test_broken_files.py).
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(FORMATS)}"
        else:
            reason = str(error) or type(error).__name__
        raise Refused(400, f"The image cannot be decoded: {reason}.") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height}", max_pixels)
    if max(size) > _MAX_ASPECT * max(1, min(size)):
        raise Refused(
            400,
            f"The image is {width} x {height} pixels; one side may be at most {_MAX_ASPECT} times "
            "as long as the other.",
        )


def _too_large(size: str, max_pixels: int) -> Refused:
    return Refused(413, f"The image has {size} pixels; this server takes at most {max_pixels}.")


def encode_picture(rgb: np.ndarray, media_type: str) -> bytes:
    """A (H, W, 3) uint8 RGB picture as a file of type "image/png" or "image/jpeg"."""
    stream = io.BytesIO()
    if media_type == "image/png":
        Image.fromarray(rgb).save(stream, "PNG", compress_level=3)
    else:
        Image.fromarray(rgb).save(stream, "JPEG", quality=90)
    return stream.getvalue()
