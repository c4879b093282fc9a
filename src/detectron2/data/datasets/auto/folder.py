"""What a reader finds in a folder, and what all readers share."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import read_text

__all__ = [
    "ALL",
    "CLASS_NAME",
    "FolderDataset",
    "NamedReader",
    "Notes",
    "Record",
    "by_split_folder",
    "files_by_split",
    "json_files",
    "keypoint_metadata",
    "named_dataset",
    "split_folders_or_all",
    "split_of",
    "unreadable_notes",
    "with_classes",
    "written_class_names",
]

Record = dict[str, Any]

Notes = Counter[str]
"""What was decided or left out while reading -> how often."""

NamedReader = Callable[[Notes], Iterable[Record]]
"""Reads the records of a split; annotations have `CLASS_NAME` instead of "category_id"."""

CLASS_NAME = "class_name"

ALL = "all"
"""The split of a dataset that has none."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class FolderDataset:
    """A dataset recognised in a folder.

    Attributes:
        folder: that folder.
        format: name of the format, for people.
        classes: class names in the order of class numbers.
        splits: "train", "val", "test" or `ALL` to a function that reads the records.
        metadata: entries for the metadata of every split.
        split_metadata: entries for that of one split.
        notes: sentences about what was decided or left out.
        rotated: boxes are (cx, cy, w, h, degrees).
    """

    folder: Path
    format: str
    classes: Sequence[str]
    splits: Mapping[str, Callable[[], list[Record]]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split_metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rotated: bool = False


def split_of(name: str) -> str | None:
    """The split that a file or folder name speaks of: "instances_val2017" is "val"."""
    words = re.findall(r"[a-z]+", name.lower())
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def by_split_folder(folder: Path) -> dict[str, Path]:
    """Subfolders that are named after splits, in the order train, val, test."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = _SPLITS.get(path.name.lower())
        if split is not None and path.is_dir():
            found.setdefault(split, path)
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def json_files(folder: Path) -> Iterable[tuple[Path, str | None]]:
    """JSON files here, in annotations/ and in subfolders named after splits, with that split."""
    for below in (folder, folder / "annotations"):
        if below.is_dir():
            yield from ((path, None) for path in sorted(below.glob("*.json")))
    for split, below in by_split_folder(folder).items():
        yield from ((path, split) for path in sorted(below.glob("*.json")))


def split_folders_or_all(folder: Path) -> dict[str, Path]:
    """Subfolders named after splits, else the folder itself as `ALL`."""
    return by_split_folder(folder) or {ALL: folder}


def files_by_split(folder: Path, look: Callable[[Path], list[Path]]) -> dict[str, list[Path]]:
    """What `look` finds in subfolders named after splits, else in the folder itself as `ALL`."""
    found = {split: look(below) for split, below in by_split_folder(folder).items()}
    if not any(found.values()):
        found = {ALL: look(folder)}
    return {split: paths for split, paths in found.items() if paths}


def numbered_classes(names: Iterable[str], folder: Path) -> list[str]:
    """Class names in the order of class numbers: a written list if there is one, else sorted."""
    used = set(names)
    written = written_class_names(folder)
    if written is not None and used <= set(written):
        return written
    return sorted(used)


def written_class_names(folder: Path) -> list[str] | None:
    """Lines of a file such as classes.txt, or None if there is none."""
    for name in ("classes.txt", "labels.txt", "obj.names", "classes.names"):
        path = folder / name
        if path.is_file():
            lines = [line.strip() for line in read_text(path).splitlines()]
            return [line for line in lines if line]
    return None


def keypoint_metadata(names: Sequence[str], flip: Sequence[int] | None = None) -> dict[str, Any]:
    """Names of keypoints and which change places in a mirror.

    Args:
        names: such as left_eye.
        flip: for each keypoint the one that takes its place; None pairs left_ with right_.
    """
    if not names:
        return {}
    if flip is not None:
        pairs = [(names[i], names[j]) for i, j in enumerate(flip) if i < j]
    else:
        mirrored = {name: name.replace("left", "right") for name in names if "left" in name}
        pairs = [(left, right) for left, right in mirrored.items() if right in names]
    return {"keypoint_names": list(names), "keypoint_flip_map": pairs}


def named_dataset(
    folder: Path, format: str, readers: Mapping[str, NamedReader], images: ImageFolder
) -> FolderDataset:
    """A dataset whose annotations name their classes, so that all have to be read to know them."""
    notes: Notes = Counter()
    names = set()
    for read in readers.values():
        for record in read(notes):
            names.update(annotation[CLASS_NAME] for annotation in record["annotations"])
    classes = numbered_classes(names, folder)
    return FolderDataset(
        folder=folder,
        format=format,
        classes=classes,
        splits={
            split: functools.partial(_read_numbered, read, classes)
            for split, read in readers.items()
        },
        notes=[f"{count} {what}." for what, count in notes.items()] + unreadable_notes(images),
    )


def _read_numbered(read: NamedReader, classes: Sequence[str]) -> list[Record]:
    number = {name: i for i, name in enumerate(classes)}
    records = list(read(Counter()))
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = number[annotation.pop(CLASS_NAME)]
    return records


def with_classes(found: FolderDataset, classes: Sequence[str]) -> FolderDataset:
    """The same dataset with the class numbers of another list of classes.

    Raises:
        ValueError: a class of the dataset is not among them.
    """
    unknown = [name for name in found.classes if name not in classes]
    if unknown:
        raise ValueError(
            f"{str(found.folder)!r} has classes that are not among those asked for: "
            f"{', '.join(unknown[:5])}; asked for: {', '.join(classes[:20])}."
        )
    number = [classes.index(name) for name in found.classes]
    split_metadata = {}
    for split, entries in found.split_metadata.items():
        renumbered = {**entries}
        if len(classes) != len(found.classes):
            # A file that lists other classes cannot be evaluated with as it is.
            renumbered = {"image_root": entries["image_root"]}
        elif "thing_dataset_id_to_contiguous_id" in entries:
            renumbered["thing_dataset_id_to_contiguous_id"] = {
                i: number[old] for i, old in entries["thing_dataset_id_to_contiguous_id"].items()
            }
        split_metadata[split] = renumbered
    return dataclasses.replace(
        found,
        classes=list(classes),
        splits={
            s: functools.partial(_renumbered, read, number) for s, read in found.splits.items()
        },
        split_metadata=split_metadata,
    )


def _renumbered(read: Callable[[], list[Record]], number: Sequence[int]) -> list[Record]:
    records = read()
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = number[annotation["category_id"]]
    return records


def unreadable_notes(images: ImageFolder) -> list[str]:
    """A sentence on the images that could not be read, if there are any."""
    if not images.unreadable:
        return []
    names = [str(Path(path).name) for path in list(images.unreadable)[:3]]
    more = ", ..." if len(images.unreadable) > 3 else ""
    return [
        f"{len(images.unreadable)} images cannot be read and are left out: "
        f"{', '.join(names)}{more}."
    ]
