"""Recognising the format of a folder, and registering what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.auto import coco, labelme, panoptic, table, via, voc, yolo
from detectron2.data.datasets.auto.folder import ALL, FolderDataset
from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import read_json

__all__ = [
    "FORMATS",
    "RegisteredDataset",
    "open_dataset",
    "recognize",
    "register",
    "register_folder",
]

FORMATS: dict[str, tuple[Callable[[Path], FolderDataset | None], str]] = {
    "coco": (coco.find, coco.LOOKED_FOR),
    "panoptic": (panoptic.find, panoptic.LOOKED_FOR),
    "via": (via.find, via.LOOKED_FOR),
    "labelme": (labelme.find, labelme.LOOKED_FOR),
    "voc": (voc.find, voc.LOOKED_FOR),
    "yolo": (yolo.find, yolo.LOOKED_FOR),
    "csv": (table.find, table.LOOKED_FOR),
}
"""Name of a format to (function that finds a dataset of it, what it looks for). Tried in order."""

# Names that this module registered, and for which folder.
_REGISTERED: dict[str, Path] = {}


@dataclass(frozen=True)
class RegisteredDataset:
    """A dataset that is in the catalogs now.

    Attributes:
        names: "train", "val", "test" or "all" to the name in the catalogs.
        source: what it was read from; None if its names were registered before.
    """

    names: Mapping[str, str]
    source: FolderDataset | None = None

    @property
    def train(self) -> str:
        """Name of the split to train on: "train", else the only one there is.

        Raises:
            ValueError: there is none.
        """
        for split in ("train", ALL):
            if split in self.names:
                return self.names[split]
        raise ValueError(f"There is no split to train on, only {', '.join(self.names)}.")

    @property
    def val(self) -> str | None:
        """Name of the split to evaluate on: "val", else "test"; None if there is neither."""
        return self.names.get("val", self.names.get("test"))


def recognize(folder: str | Path) -> FolderDataset:
    """Find out what a folder holds; see `FORMATS`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its format is not recognised, or its files are broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {str(folder)!r} does not exist.")
    for find, _ in FORMATS.values():
        found = find(folder)
        if found is not None:
            return found
    looked = "\n".join(f"  - {sentence};" for _, sentence in FORMATS.values())
    raise ValueError(
        f"No dataset is recognised in {str(folder)!r}, which holds {_contents(folder)}. "
        f"Looked for:\n{looked}\n  each also in subfolders train/, val/, test/."
    )


def register_folder(folder: str | Path, name: str | None = None) -> RegisteredDataset:
    """Recognise a folder and register its splits as NAME_train, NAME_val, ...

    Doing so again for the same folder replaces what was registered.

    Args:
        folder: see `recognize`.
        name: that of the folder if None.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its format is not recognised, or its files are broken.
    """
    found = recognize(folder)
    return register(found, name or _name_of(Path(folder)))


def register(found: FolderDataset, name: str) -> RegisteredDataset:
    """Register the splits of a recognised dataset, see `register_folder`."""
    names = {split: _free_name(f"{name}_{split}", found.folder) for split in found.splits}
    for split, full_name in names.items():
        if full_name in DatasetCatalog.list():
            DatasetCatalog.remove(full_name)
            MetadataCatalog.remove(full_name)
        DatasetCatalog.register(full_name, found.splits[split])
        MetadataCatalog.get(full_name).set(
            thing_classes=list(found.classes),
            evaluator_type="coco_rotated" if found.rotated else "coco",
            **found.metadata,
            **found.split_metadata.get(split, {}),
        )
        _REGISTERED[full_name] = found.folder.resolve()
    return RegisteredDataset(names, found)


def open_dataset(source: str | Path, image_root: str | Path | None = None) -> RegisteredDataset:
    """The dataset that a user names.

    Args:
        source: a name in the catalogs, a folder, or a COCO JSON file.
        image_root: folder of the images of a JSON file; looked for around the file if None.

    Raises:
        FileNotFoundError: it is none of these.
        ValueError: a folder or file is not recognised, or broken.
    """
    if str(source) in DatasetCatalog.all_names():
        return RegisteredDataset({ALL: str(source)})
    path = Path(source)
    if path.is_dir():
        return register_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(source)!r} is neither a registered dataset nor a folder nor a COCO-format JSON "
            "file."
        )
    root = None if image_root is None else Path(image_root)
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"The image folder {str(root)!r} does not exist.")
    found = coco.dataset_of_files(path.parent, {ALL: path}, root)
    return register(found, _name_of(path.with_suffix("")))


def _name_of(path: Path) -> str:
    return re.sub(r"\W+", "_", path.resolve().name).strip("_") or "dataset"


def _free_name(name: str, folder: Path) -> str:
    """`name`, with a number if another dataset has it."""
    number, candidate = 1, name
    while candidate in DatasetCatalog.list() and _REGISTERED.get(candidate) != folder.resolve():
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _contents(folder: Path) -> str:
    """What to tell of a folder that is not recognised: kinds of files, and which are broken."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not files:
        return "no files"
    kinds: dict[str, int] = {}
    for path in files:
        kinds[path.suffix.lower() or "no extension"] = kinds.get(path.suffix.lower(), 0) + 1
    text = f"{len(ImageFolder(folder))} images among {len(files)} files " + (
        f"({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())[:8])})"
    )
    for path in [path for path in files if path.suffix.lower() == ".json"][:20]:
        try:
            read_json(path)
        except ValueError as e:
            return f"{text}; {e}".rstrip(".")
    return text
