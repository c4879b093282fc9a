"""Writing datasets in the formats of COCO, YOLO and Pascal VOC, all of a folder or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.datasets.auto import RegisteredDataset
from detectron2.data.datasets.convert import coco, voc, yolo
from detectron2.data.datasets.convert.content import Content, read_content
from detectron2.data.datasets.convert.selection import sample_content, split_content
from detectron2.utils.files import atomic_folder

__all__ = [
    "WRITERS",
    "Content",
    "Conversion",
    "convert_dataset",
    "read_content",
    "sample_content",
    "split_content",
    "write_content",
]

WRITERS: dict[str, Callable[[Content, Path, str], None]] = {
    "coco": coco.write,
    "yolo": yolo.write,
    "voc": voc.write,
}
"""Format to a function that writes a dataset into an empty folder."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        images, annotations: how many.
        losses: sentences about what the format cannot carry.
        remarks: sentences about how something is written.
    """

    images: int
    annotations: int
    losses: list[str]
    remarks: list[str]


def convert_dataset(
    dataset: RegisteredDataset,
    output: str | Path,
    to: str,
    images: str = "copy",
    overwrite: bool = False,
) -> Conversion:
    """Write a dataset in another format.

    A process that is killed in between leaves what was there before.

    Args:
        dataset: see `detectron2.data.datasets.auto.open_dataset`.
        output: folder to make.
        to: one of `WRITERS`.
        images: "copy", "hardlink" or "symlink" them.
        overwrite: replace a folder that is not empty.

    Raises:
        FileExistsError: `output` exists.
        ValueError: the format is unknown, or the dataset has nothing to convert.
    """
    if to not in WRITERS:
        raise ValueError(f"{to!r} is no format that is written; there are {', '.join(WRITERS)}.")
    content = read_content(dataset)
    if images == "symlink" and overwrite:
        _refuse_to_delete_images(content, Path(output))
    return write_content(content, output, to, images, overwrite)


def _refuse_to_delete_images(content: Content, output: Path) -> None:
    for records in content.splits.values():
        for record in records:
            if Path(record["file_name"]).resolve().is_relative_to(output.resolve()):
                raise ValueError(
                    f"Overwriting {str(output)!r} would delete {record['file_name']!r}, to which "
                    "the new dataset would link; copy the images or take another folder."
                )


def write_content(
    content: Content, output: str | Path, to: str, images: str = "copy", overwrite: bool = False
) -> Conversion:
    """`convert_dataset` of records that are already read."""
    with atomic_folder(output, overwrite) as folder:
        WRITERS[to](content, folder, images)
    return Conversion(
        images=sum(len(records) for records in content.splits.values()),
        annotations=len(content.annotations()),
        losses=[f"{count} {what}." for what, count in content.losses.items()],
        remarks=content.remarks,
    )
