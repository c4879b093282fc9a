"""The image files of a folder, found by the names that annotation files give them."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from detectron2.data.image_inputs import IMAGE_SUFFIXES

__all__ = ["ImageFolder", "image_size", "is_image"]

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def is_image(path: str | Path) -> bool:
    """By its name."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file as `read_image` sees it: turned upright.

    Raises:
        OSError: the file is no image that can be opened.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
    except OSError:
        raise
    except Exception as e:
        # Pillow's readers of damaged headers raise errors of many kinds.
        raise OSError(f"{os.fspath(path)!r} is no readable image: {e}") from e
    return (height, width) if turned else (width, height)


class ImageFolder:
    """The images below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(_files_below(folder)):
            if not is_image(path):
                continue
            relative = path.relative_to(folder).as_posix()
            self._by_path[relative] = path
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)
        self._sizes: dict[Path, tuple[int, int]] = {}
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_path)

    def paths(self) -> list[Path]:
        return list(self._by_path.values())

    def named(self, stem: str) -> list[Path]:
        """All images whose name without extension is `stem`."""
        return [path for path in self._by_name.get(stem, []) if path.stem == stem]

    def find(self, name: str, near: Path | None = None) -> Path | None:
        """The image that an annotation file calls `name`.

        Args:
            name: a path of any system, a file name, or one without extension.
            near: folder to look in first: where the annotation file lies.
        """
        # Files were often annotated on another machine, so only the end of a path can be relied on.
        posix = PurePosixPath(PureWindowsPath(name).as_posix())
        if near is not None:
            inside = near / posix
            if is_image(inside) and inside.is_file():
                return inside
        if str(posix) in self._by_path:
            return self._by_path[str(posix)]
        candidates = self._by_name.get(posix.name, [])
        if near is not None:
            candidates = sorted(candidates, key=lambda path: not path.is_relative_to(near))
        return candidates[0] if candidates else None

    def record(self, path: Path) -> dict[str, Any] | None:
        """A record without annotations; None if the image cannot be read, which is noted."""
        if str(path) in self.unreadable:
            return None
        if path not in self._sizes:
            try:
                self._sizes[path] = image_size(path)
            except OSError as e:
                self.unreadable[str(path)] = str(e)
                logger.warning("The image %s is left out: %s", path, e)
                return None
        width, height = self._sizes[path]
        return {
            "file_name": str(path),
            "image_id": path.relative_to(self.folder).as_posix()
            if path.is_relative_to(self.folder)
            else str(path),
            "height": height,
            "width": width,
        }


def _files_below(folder: Path) -> Iterable[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            yield Path(root, name)
