"""Looking at image files: can they be decoded, how large are they, what do they look like."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data._image_io import (
    ARRAY_SUFFIX,
    decode_failure,
    exif_orientation,
    open_image,
    read_image,
)
from detectron2.utils.file_io import PathManager

__all__ = ["ImageFacts", "inspect_image", "inspect_images"]


@dataclass(frozen=True)
class ImageFacts:
    """What a file turned out to be.

    Attributes:
        fault: kind of problem, "" if there is none.
        reason: of the fault.
        width, height: in pixels, as stored, before it is turned by its orientation.
        orientation: of the EXIF header, 1 is upright.
        digest: of the file's content, "" if there is no file.
        look: 64-bit difference hash of the upright image, as hexadecimal digits.
        thumbnail: its 8 x 8 grey values, as hexadecimal digits.
    """

    fault: str = ""
    reason: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    digest: str = ""
    look: str = ""
    thumbnail: str = ""

    @property
    def readable(self) -> bool:
        return not self.fault

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) as a viewer shows it."""
        turned = self.orientation in (5, 6, 7, 8)
        return (self.height, self.width) if turned else (self.width, self.height)

    def to_json(self) -> dict[str, Any]:
        """Fields that are not at their default."""
        default = asdict(ImageFacts())
        return {k: v for k, v in asdict(self).items() if v != default[k]}


def inspect_images(
    paths: Iterable[str],
    known: Callable[[str], ImageFacts | None] = lambda digest: None,
    workers: int | None = None,
) -> dict[str, ImageFacts]:
    """Facts of files by path.

    Args:
        paths: each is looked at once.
        known: facts of a file with this digest, or None to decode it.
        workers: threads; None takes one per CPU. Pillow decodes without the interpreter lock.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return dict(zip(unique, pool.map(lambda path: inspect_image(path, known), unique)))


def inspect_image(
    path: str, known: Callable[[str], ImageFacts | None] = lambda digest: None
) -> ImageFacts:
    """Read a file as training would and say what is wrong with it, if anything."""
    try:
        with PathManager.open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return ImageFacts("missing-image", f"The image {path!r} does not exist.")
    except (OSError, ValueError) as error:
        return ImageFacts("unreadable-image", f"The image {path!r} cannot be opened ({error}).")
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    facts = known(digest)
    if facts is not None and facts.readable:
        return facts
    if path.endswith(ARRAY_SUFFIX):
        return _inspect_array(path, digest)
    return _inspect_picture(path, data, digest)


def _inspect_array(path: str, digest: str) -> ImageFacts:
    try:
        height, width = read_image(path).shape[:2]
    except OSError as error:
        return ImageFacts("unreadable-image", str(error), digest=digest)
    return ImageFacts(width=width, height=height, digest=digest)


def _inspect_picture(path: str, data: bytes, digest: str) -> ImageFacts:
    width = height = 0
    try:
        image = open_image(io.BytesIO(data))
        width, height = image.size
        image.load()
        look, thumbnail = _look(image)
    # Whatever the decoder raises, the file is broken: see read_image.
    except Exception as error:
        truncated = "truncated" in str(error) or not data
        ending = "ends too early" if truncated else "cannot be decoded"
        detail = decode_failure(error)
        return ImageFacts(
            "truncated-image" if truncated else "unreadable-image",
            f"The image {path!r} {ending} ({len(data)} bytes: {detail}).".replace("\n", " "),
            width,
            height,
            digest=digest,
        )
    orientation = exif_orientation(image)
    return ImageFacts("", "", width, height, orientation, digest, look, thumbnail)


def _look(image: Image.Image) -> tuple[str, str]:
    """Difference hash and thumbnail of an image, as hexadecimal digits."""
    # Reduced first: converting the modes of full-size images takes longer than decoding them.
    small = image.reduce(max(1, min(image.size) // 64)) if _reducible(image) else image
    grey = _grey(small).resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(grey)
    bits = np.packbits(values[:, 1:] > values[:, :-1])
    return bits.tobytes().hex(), values[:, :8].tobytes().hex()


def _reducible(image: Image.Image) -> bool:
    return image.mode in ("RGB", "L", "CMYK", "YCbCr")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip at 255.
        values = np.asarray(image, dtype=np.float64)
        span = max(float(np.ptp(values)), 1.0) if values.size else 1.0
        return Image.fromarray(((values - values.min()) * (255 / span)).astype(np.uint8))
    return image.convert("L")
