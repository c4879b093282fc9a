"""Reading images and converting between colour formats; public through `detection_utils`."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from detectron2.data.errors import SizeMismatchError, UnreadableImageError
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

__all__ = [
    "ALL_CHANNELS",
    "ARRAY_SUFFIX",
    "TURNED_ARRAYS",
    "labels_as_shown",
    "check_image_size",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "decode_failure",
    "exif_orientation",
    "open_image",
    "read_image",
    "upright_array",
]

logger = logging.getLogger(__name__)

# ITU-R BT.601, YUV from and to RGB in [0, 1].
_M_RGB2YUV = [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
_M_YUV2RGB = [[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]]

# Value of INPUT.FORMAT for images with any number of channels of any depth.
ALL_CHANNELS = "CHANNELS"
ARRAY_SUFFIX = ".npy"

_EXIF_ORIENTATION = 0x0112
# What turns an image that was stored with an orientation (EXIF 2.3, table 6) upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same for (h, w) arrays, of those orientations that swap the sides.
TURNED_ARRAYS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    5: lambda array: array.T,
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].T,
    8: lambda array: np.rot90(array),
}


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned upright by its EXIF orientation.

    Args:
        file_name: anything that ``PathManager`` opens. A ``.npy`` file holds an (H, W) or
            (H, W, C) array, and needs `format` None or "CHANNELS".
        format: "RGB", "BGR", "L", "YUV-BT.601" or another mode of Pillow; None keeps the file's.
            "CHANNELS" keeps every channel and every bit: alpha, 16 bits, the pages of a TIFF.

    Returns:
        (H, W, C), or (H, W) for one channel; "L" and "CHANNELS" give (H, W, 1). uint8, but for
        "YUV-BT.601" (floats: Y in [0, 1]), None, and "CHANNELS" of a file that is not 8-bit
        (float32, with the values of the file). Otherwise, 16-bit grey images are scaled down to
        8 bits.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImageError: it cannot be decoded.
        ValueError: an array is to become an image of colours.
    """
    name = os.fspath(file_name)
    as_array = str(name).endswith(ARRAY_SUFFIX)
    if as_array and format not in (None, ALL_CHANNELS):
        raise ValueError(
            f"The image {name!r} is an array, whose channels are no {format}; set INPUT.FORMAT "
            f"to {ALL_CHANNELS!r}."
        )
    try:
        with PathManager.open(file_name, "rb") as stream:
            return _read_array(stream, format) if as_array else _read_picture(stream, format)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The image {name!r} does not exist. Check the image folder that the "
            "dataset was registered with, or remove the image from the annotations."
        ) from None
    # Decoders raise nearly everything on broken files: OSError, SyntaxError, struct.error,
    # IndexError, OverflowError, zlib.error ... (tests/data/test_broken_files.py).
    except Exception as e:
        raise UnreadableImageError(
            f"The image {name!r} cannot be decoded ({decode_failure(e)}). Replace the file, "
            "or remove the image from the dataset."
        ) from e


def decode_failure(error: Exception) -> str:
    """Why an image could not be decoded, for people."""
    if isinstance(error, UnidentifiedImageError):  # names the stream object and its address
        return "it holds no picture of a known format"
    return str(error) or type(error).__name__


def open_image(stream: IO[bytes]) -> Image.Image:
    """Pillow's image of a stream; pixels are decoded when they are used."""
    return Image.open(stream)


def _read_picture(stream: IO[bytes], format: str | None) -> np.ndarray:
    image = open_image(stream)
    if format == ALL_CHANNELS and getattr(image, "n_frames", 1) > 1 and image.format == "TIFF":
        return _all_pages(image)
    return upright_array(image, format)


def upright_array(image: Image.Image, format: str | None) -> np.ndarray:
    """Array of a Pillow image, turned by its EXIF orientation, in a format of `read_image`."""
    return convert_PIL_to_numpy(_apply_exif_orientation(image), format)


def _all_pages(image: Image.Image) -> np.ndarray:
    """(H, W, C) of a TIFF file with a channel, or several, on each page."""
    pages = []
    for page in range(image.n_frames):
        image.seek(page)
        pages.append(convert_PIL_to_numpy(_apply_exif_orientation(image), ALL_CHANNELS))
    sizes = {page.shape[:2] for page in pages}
    if len(sizes) > 1:
        raise ValueError(f"its pages have different sizes: {sorted(sizes)}")
    return np.concatenate(pages, axis=2)


def _read_array(stream: IO[bytes], format: str | None) -> np.ndarray:
    array = np.load(stream, allow_pickle=False)
    if (
        not isinstance(array, np.ndarray)
        or array.ndim not in (2, 3)
        or array.dtype.kind not in "buif"
    ):
        raise ValueError("it must hold one (H, W) or (H, W, C) array of numbers")
    return _with_channels(array) if format == ALL_CHANNELS else array


def _with_channels(array: np.ndarray) -> np.ndarray:
    """(H, W, C), uint8 or float32: what augmentations take."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype == bool:
        return array.astype(np.uint8)
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1, upright, if there is none that can be read."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except (SyntaxError, struct.error, ValueError, KeyError, TypeError) as e:
        log_first_n(logging.WARNING, f"Ignoring an EXIF header that cannot be parsed: {e}", n=3)
        return 1
    return orientation if orientation in _UPRIGHT else 1


def labels_as_shown(labels: np.ndarray, size: tuple[int, int], image_file: str) -> np.ndarray:
    """A label map in the frame of its image as it is shown.

    A map of the size that the image is stored in, before its EXIF orientation swaps the sides, was
    drawn on the stored image and is turned as the image is. One that has the size already is
    right: whether it follows an orientation that only mirrors or turns by 180 degrees cannot be
    told.

    Args:
        labels: (h, w).
        size: (H, W) of the image as shown.
        image_file: of the image, whose orientation counts.

    Returns:
        The labels, turned where that makes them fit; others as they are.
    """
    if labels.shape == tuple(size) or labels.shape != tuple(size)[::-1]:
        return labels
    if image_file.endswith(ARRAY_SUFFIX):
        return labels
    with PathManager.open(image_file, "rb") as stream, open_image(stream) as image:
        turn = TURNED_ARRAYS.get(exif_orientation(image))
    if turn is None:
        return labels
    log_first_n(
        logging.WARNING,
        f"The label map of {image_file!r} was drawn before the image was turned by its EXIF "
        "orientation; it is turned as the image is.",
        n=3,
    )
    return np.ascontiguousarray(turn(labels))


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Turn an image upright; one with no or an unreadable orientation is returned as it is."""
    turn = _UPRIGHT.get(exif_orientation(image))
    return image if turn is None else image.transpose(turn)


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Array of a Pillow image in one of the formats of `read_image`."""
    # Copies: Pillow's arrays are read-only, of which PyTorch warns.
    if format is None:
        return np.array(image)
    if format == ALL_CHANNELS:
        # A palette is no channel: its colours are.
        colours = "RGBA" if "transparency" in image.info else "RGB"
        return _with_channels(np.array(image.convert(colours) if image.mode == "P" else image))
    mode = "RGB" if format in ("BGR", "YUV-BT.601") else format
    array = np.array(_converted(image, mode))
    if format == "L":
        return array[:, :, None]
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return (array / 255.0) @ np.array(_M_RGB2YUV).T
    return array


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255, which leaves a white image.
        image = _eight_bit(image)
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.size and values.max() > 255:
        log_first_n(logging.WARNING, "Scaling 16-bit images down to 8 bits.", n=1)
        values = np.clip(values, 0, 65535) >> 8
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB image of an (H, W, C) image in `format`, for drawing.

    Args:
        image: in the format of `read_image`; also a tensor.
        format: as for `read_image`.
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, ::-1]
    if format == "YUV-BT.601":
        rgb = np.dot(image, np.array(_M_YUV2RGB).T) * 255.0
        return np.clip(rgb, 0, 255).astype(np.uint8)
    if format == ALL_CHANNELS:
        return _first_colours(image)
    if format == "L":
        plane = image[:, :, 0] if image.ndim == 3 else image
        return np.repeat(plane.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(Image.fromarray(image.astype(np.uint8)).convert("RGB"))


def _first_colours(image: np.ndarray) -> np.ndarray:
    """The first three channels (or the first one, grey), stretched if they are not 8-bit."""
    colours = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1].repeat(3, axis=2)
    if image.dtype != np.uint8 and colours.size:
        low, high = float(colours.min()), float(colours.max())
        if low < 0 or high > 255 or high <= 1:
            colours = np.rint((colours - low) * (255 / max(high - low, 1e-12)))
    return np.ascontiguousarray(colours.astype(np.uint8))


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare "width" and "height" of a record with the image, or fill them in.

    Raises:
        SizeMismatchError: they differ; annotations in other pixels would be wrong.
    """
    height, width = image.shape[:2]
    want = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if want != (width, height):
        turned = want == (height, width)
        hint = (
            "They are swapped: the file has an EXIF orientation, or was annotated before it was "
            "turned. "
            if turned
            else ""
        )
        raise SizeMismatchError(
            f"The image {dataset_dict.get('file_name', '')!r} is {width} x {height} pixels "
            f"(width x height), but the dataset says {want[0]} x {want[1]}. {hint}Correct "
            "'width' and 'height' in the annotations, or the file."
        )
    dataset_dict.setdefault("width", width)
    dataset_dict.setdefault("height", height)
