"""What several verbs share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.data.datasets.auto import RegisteredDataset
    from detectron2.data.datasets.convert import Conversion

SOURCE_HELP = "Folder of a dataset, COCO JSON file, or registered name."
IMAGE_ROOT_HELP = "Folder of the images of a JSON file."


class Format(str, Enum):
    """Formats that are written."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"


class Images(str, Enum):
    """How images get into a new folder."""

    copy = "copy"
    hardlink = "hardlink"
    symlink = "symlink"


def format_of(dataset: RegisteredDataset, to: Format | None) -> str:
    """The format asked for, else that of the source, else COCO."""
    if to is not None:
        return to.value
    kind = "" if dataset.source is None else dataset.source.format
    names = {"YOLO": "yolo", "Pascal": "voc"}
    return names.get(kind.split(" ")[0], "coco")


def print_conversion(dataset: RegisteredDataset, result: Conversion, output: Path, to: str) -> None:
    """Say what was decided, what was lost and what was written."""
    notes = dataset.source.notes if dataset.source is not None else []
    for sentence in (*notes, *result.remarks):
        print(sentence)
    if result.losses:
        print("Not carried over:")
        for sentence in result.losses:
            print(f"  {sentence}")
    print(f"{result.images} images with {result.annotations} annotations are in {output} ({to}).")
