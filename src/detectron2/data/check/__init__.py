"""The dataset doctor: what is wrong with a dataset, which file and annotation, and what to do.

.. code-block:: python

    dataset = coco_dataset("train.json", "photos")
    report = check(dataset)
    print(report.summary())
    mended = cleaned_content(dataset.load(), report.problems, "fix")
"""

from detectron2.data.check.cache import Cache
from detectron2.data.check.images import ImageFacts, inspect_image, inspect_images
from detectron2.data.check.pages import write_page, write_report
from detectron2.data.check.policy import POLICIES, cleaned_content
from detectron2.data.check.problems import KINDS, Kind, Problem
from detectron2.data.check.records import cleaned_records, record_dataset
from detectron2.data.check.report import CheckReport, DatasetProblemsError
from detectron2.data.check.run import Dataset, check, coco_dataset
from detectron2.data.check.training import load_checked, registered_dataset

__all__ = [
    "KINDS",
    "POLICIES",
    "Cache",
    "CheckReport",
    "Dataset",
    "DatasetProblemsError",
    "ImageFacts",
    "Kind",
    "Problem",
    "check",
    "cleaned_content",
    "cleaned_records",
    "coco_dataset",
    "inspect_image",
    "inspect_images",
    "load_checked",
    "record_dataset",
    "registered_dataset",
    "write_page",
    "write_report",
]
