"""From what a user types (files, folders, globs, addresses) to a list of images."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

__all__ = ["IMAGE_SUFFIXES", "ImageInput", "find_images", "unique_names"]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"}
)


@dataclass(frozen=True)
class ImageInput:
    """One image to read: `path` as `read_image` takes it, `name` to call its results by."""

    name: str
    path: str


def find_images(inputs: Iterable[str]) -> list[ImageInput]:
    """Images behind `inputs`, each in sorted order; a folder is searched with its subfolders.

    Args:
        inputs: paths of images or folders, glob patterns (also `**`), or addresses such as
            ``https://...`` and ``s3://...`` that `PathManager` can fetch.

    Raises:
        FileNotFoundError: an input names nothing, or a folder or pattern holds no image.
    """
    found: list[ImageInput] = []
    for text in inputs:
        found += _expand(text)
    # No result overwrites another's.
    names = unique_names(image.name for image in found)
    return [ImageInput(name, image.path) for name, image in zip(names, found, strict=True)]


def _expand(text: str) -> list[ImageInput]:
    if "://" in text:
        # Fetched when it is read, so that one dead link costs one image.
        return [ImageInput(PurePosixPath(urlparse(text).path).name or "image", text)]
    path = Path(text).expanduser()
    if path.is_dir():
        return _images_of_folder(path)
    if path.exists():
        return [ImageInput(path.name, str(path))]
    matches = sorted(glob.glob(str(path), recursive=True))
    if matches:
        files = [Path(m) for m in matches if Path(m).suffix.lower() in IMAGE_SUFFIXES]
        if files:
            return [ImageInput(file.name, str(file)) for file in files]
        raise FileNotFoundError(f"The pattern {text!r} matches no image file.")
    raise FileNotFoundError(f"{text!r} is no image, no folder and no pattern that matches a file.")


def _images_of_folder(folder: Path) -> list[ImageInput]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise FileNotFoundError(f"The folder {str(folder)!r} holds no image ({kinds}).")
    return [ImageInput(str(file.relative_to(folder)), str(file)) for file in files]


def unique_names(names: Iterable[str]) -> list[str]:
    """File names of which the later ones of equal ones get a number: a.jpg, a_2.jpg."""
    unique: dict[str, None] = {}
    for name in names:
        path, number, wanted = PurePosixPath(name), 1, name
        while wanted in unique:
            number += 1
            wanted = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
        unique[wanted] = None
    return list(unique)
