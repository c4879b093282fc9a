"""Other people's folders: COCO, YOLO, Pascal VOC, LabelMe, VIA, images with a CSV file.

.. code-block:: python

    dataset = register_folder("balloon")  # recognises the format
    cfg.DATASETS.TRAIN = (dataset.train,)  # "balloon_train"
"""

from detectron2.data.datasets.auto.folder import ALL, FolderDataset, with_classes
from detectron2.data.datasets.auto.recognize import (
    FORMATS,
    RegisteredDataset,
    open_dataset,
    recognize,
    register,
    register_folder,
)

__all__ = [
    "ALL",
    "FORMATS",
    "FolderDataset",
    "RegisteredDataset",
    "open_dataset",
    "recognize",
    "register",
    "register_folder",
    "with_classes",
]
