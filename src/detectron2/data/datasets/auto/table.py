"""A CSV file with one box per row, beside a folder of images."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data.datasets.auto.folder import (
    ALL,
    CLASS_NAME,
    FolderDataset,
    NamedReader,
    Notes,
    Record,
    by_split_folder,
    named_dataset,
    split_of,
)
from detectron2.data.datasets.auto.images import ImageFolder, is_image
from detectron2.data.datasets.auto.nodes import Node, finite, read_text
from detectron2.data.datasets.auto.shapes import box_annotation

__all__ = ["LOOKED_FOR", "find"]

LOOKED_FOR = (
    "CSV: a .csv file with a column for the image (filename, image, path), one for the class "
    "(class, label, name) and the box (xmin ymin xmax ymax, x y w h, or bbox)"
)

_IMAGE = ("filename", "file_name", "file", "image", "imageid", "image_id", "image_path",
          "image_name", "path", "img")  # fmt: skip
_CLASS = ("class", "class_name", "classname", "label", "labelname", "label_name", "category",
          "name", "object")  # fmt: skip
_SPLIT = ("split", "subset", "set", "fold")
# Ways to write a box: the columns, and whether the last two are width and height.
_BOXES = (
    (("xmin", "ymin", "xmax", "ymax"), False),
    (("x_min", "y_min", "x_max", "y_max"), False),
    (("x1", "y1", "x2", "y2"), False),
    (("left", "top", "right", "bottom"), False),
    (("x", "y", "w", "h"), True),
    (("x", "y", "width", "height"), True),
    (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), True),
    (("left", "top", "width", "height"), True),
)
_ONE_COLUMN = ("bbox", "box")


@dataclass(frozen=True)
class _Columns:
    """Column numbers; `box` has four, or one that holds [x, y, width, height]."""

    image: int
    label: int | None
    box: tuple[int, ...]
    has_size: bool
    split: int | None = None


@dataclass(frozen=True)
class _Row:
    where: str
    image: str
    label: str
    box: list[float] | None
    split: str


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with CSV files."""
    files: dict[str, list[Path]] = {}
    for path, split in _candidates(folder):
        if _columns(path) is not None:
            files.setdefault(split or split_of(path.stem) or ALL, []).append(path)
    images = ImageFolder(folder)
    if not files or not len(images):
        return None
    readers: dict[str, NamedReader] = {}
    default = folder.resolve().name or "object"
    for split, paths in files.items():
        for inner in _splits(paths, split):
            readers[inner] = functools.partial(_read, paths, images, default, inner, split)
    dataset = named_dataset(folder, "CSV", readers, images)
    return dataset


def _candidates(folder: Path) -> Iterator[tuple[Path, str | None]]:
    yield from ((path, None) for path in sorted(folder.glob("*.csv")))
    for split, below in by_split_folder(folder).items():
        yield from ((path, split) for path in sorted(below.glob("*.csv")))


def _rows(path: Path) -> Iterator[list[str]]:
    text = read_text(path)
    delimiter = ";" if text.partition("\n")[0].count(";") > 3 else ","
    try:
        yield from csv.reader(io.StringIO(text), delimiter=delimiter)
    except csv.Error as e:
        raise ValueError(f"{str(path)!r} cannot be read as CSV: {e}.") from e


def _columns(path: Path) -> _Columns | None:
    """Where what stands; None if this is no table of boxes."""
    try:
        first = next(_rows(path), None)
    except ValueError:
        return None
    if first is None:
        return None
    names = {name.strip().lower(): number for number, name in reversed(list(enumerate(first)))}
    image = _first_of(names, _IMAGE)
    if image is None:
        # Rows of path, x1, y1, x2, y2, class without a header.
        if len(first) == 6 and is_image(first[0].strip()):
            return _Columns(image=0, label=5, box=(1, 2, 3, 4), has_size=False)
        return None
    label, split = _first_of(names, _CLASS), _first_of(names, _SPLIT)
    for columns, has_size in _BOXES:
        if all(column in names for column in columns):
            numbers = tuple(names[column] for column in columns)
            return _Columns(image, label, numbers, has_size, split)
    whole = _first_of(names, _ONE_COLUMN)
    return None if whole is None else _Columns(image, label, (whole,), True, split)


def _first_of(names: Mapping[str, int], wanted: Sequence[str]) -> int | None:
    return next((names[name] for name in wanted if name in names), None)


def _parsed(path: Path) -> Iterator[_Row]:
    columns = _columns(path)
    assert columns is not None, "only tables of boxes are read"
    for line, row in enumerate(_rows(path), 1):
        if not any(cell.strip() for cell in row) or (line == 1 and columns.box != (1, 2, 3, 4)):
            continue
        if line == 1 and not is_image(row[0].strip()):
            continue
        where = f"line {line} of {str(path)!r}"
        last = max(columns.image, columns.label or 0, columns.split or 0, *columns.box)
        if len(row) <= last:
            raise ValueError(f"There are only {len(row)} columns in {where}.")
        name = row[columns.image].strip()
        if not name:
            raise ValueError(f"There is no image in {where}.")
        yield _Row(
            where=where,
            image=name,
            label="" if columns.label is None else row[columns.label].strip(),
            box=_box([row[number] for number in columns.box], columns.has_size, where),
            split="" if columns.split is None else row[columns.split].strip(),
        )


def _box(cells: list[str], has_size: bool, where: str) -> list[float] | None:
    """x0, y0, x1, y1; None if the cells are empty, which marks an image without objects."""
    if not any(cell.strip() for cell in cells):
        return None
    if len(cells) == 1:
        try:
            numbers = Node(json.loads(cells[0]), f"The box in {where}").numbers()
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"The box in {where} is {cells[0]!r}, no [x, y, w, h].") from None
    else:
        numbers = [finite(cell.strip(), f"A coordinate in {where}") for cell in cells]
    if len(numbers) != 4:
        raise ValueError(f"The box in {where} has {len(numbers)} numbers instead of four.")
    x, y, right, bottom = numbers
    return [x, y, x + right, y + bottom] if has_size else numbers


def _splits(paths: Sequence[Path], split: str) -> list[str]:
    """The splits that the rows name, else the one of the file."""
    if split != ALL:
        return [split]
    named = {split_of(row.split) for path in paths for row in _parsed(path)}
    known = [name for name in ("train", "val", "test") if name in named]
    return known if known and None not in named else [ALL]


def _read(
    paths: Sequence[Path],
    images: ImageFolder,
    default: str,
    split: str,
    file_split: str,
    notes: Notes,
) -> Iterator[Record]:
    rows: dict[Path, list[_Row]] = defaultdict(list)
    for path in paths:
        for row in _parsed(path):
            if split != file_split and split_of(row.split) != split:
                continue
            image = images.find(row.image, near=path.parent)
            if image is None:
                notes["rows name an image that does not exist and are left out"] += 1
                continue
            rows[image].append(row)
    # OpenImages and others write parts of the width and height.
    boxes = [row.box for group in rows.values() for row in group if row.box is not None]
    relative = bool(boxes) and max(abs(value) for box in boxes for value in box) <= 1.0
    for image, group in rows.items():
        record = images.record(image)
        if record is None:
            continue
        scale = (record["width"], record["height"]) * 2 if relative else (1, 1, 1, 1)
        record["annotations"] = [
            _annotation(row, scale, default, notes) for row in group if row.box is not None
        ]
        yield record


def _annotation(
    row: _Row, scale: tuple[int, int, int, int], default: str, notes: Notes
) -> dict[str, Any]:
    assert row.box is not None
    if not row.label:
        notes[f"boxes have no class and count as {default!r}"] += 1
    box = [value * factor for value, factor in zip(row.box, scale)]
    return {**box_annotation(*box), CLASS_NAME: row.label or default}
