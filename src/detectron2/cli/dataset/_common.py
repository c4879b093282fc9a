"""What several verbs share: arguments, and how a dataset is written."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from detectron2.data.datasets.auto import RegisteredDataset
    from detectron2.data.datasets.convert import Content, Conversion

SOURCE_HELP = "Folder of a dataset, COCO JSON file, or registered name."


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


Source = Annotated[str, typer.Argument(help=SOURCE_HELP)]
Output = Annotated[Path, typer.Argument(help="Folder to make.")]
ImageRoot = Annotated[Path | None, typer.Option(help="Folder of the images of a JSON file.")]
ImagesOption = Annotated[Images, typer.Option(help="Copy the images, or link to them.")]
To = Annotated[Format | None, typer.Option(help="Format to write; that of the source by default.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")]


def write_part(
    dataset: RegisteredDataset,
    content: Content,
    output: Path,
    to: Format | None,
    images: Images,
    overwrite: bool,
) -> None:
    """Write what was chosen of a dataset, and say what was written."""
    from detectron2.data.datasets.convert import write_content

    chosen = to.value if to is not None else _format_of(dataset)
    result = write_content(content, output, chosen, images.value, overwrite)
    print_conversion(dataset, result, output, chosen)


def _format_of(dataset: RegisteredDataset) -> str:
    """The format of the source where it is one that is written, else COCO."""
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
