"""Checking a dataset: a COCO file with its images, or records of a registered dataset."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data.check.cache import Cache, file_digest
from detectron2.data.check.duplicates import pairs_that_look_alike
from detectron2.data.check.entries import AnnotationCheck, class_problems, image_problems
from detectron2.data.check.images import ImageFacts
from detectron2.data.check.problems import KINDS, Problem
from detectron2.data.check.report import CheckReport
from detectron2.data.check.structure import check_lists, structural_problems
from detectron2.data.datasets.coco import read_coco_content

__all__ = ["Dataset", "check", "coco_dataset"]

logger = logging.getLogger(__name__)

_ORDER = {kind: i for i, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Dataset:
    """What is checked: annotations in COCO's form and where the images are.

    Attributes:
        source: name for reports: the annotation file, or the dataset.
        digest: of the annotations, the key under which the outcome is remembered.
        content: "images", "annotations" and "categories"; None reads them from `source`.
        image_root: folder that file names are relative to.
    """

    source: str
    digest: str
    content: dict[str, Any] | None = field(default=None, repr=False)
    image_root: str = ""

    def load(self) -> dict[str, Any]:
        """
        Raises:
            OSError, ValueError: there is no such file, or it is not in COCO's format.
        """
        if self.content is not None:
            return self.content
        content = read_coco_content(self.source)
        check_lists(content, self.source)
        return content

    def path_of(self, image: Any) -> str:
        """Path of an image entry, "" if it has no usable name."""
        name = image.get("file_name") if isinstance(image, dict) else None
        usable = isinstance(name, str) and name and "\0" not in name
        return os.path.join(self.image_root, name) if usable else ""  # type: ignore[arg-type]


def coco_dataset(json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> Dataset:
    """A COCO file and the folder of its images.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(json_file)
    try:
        digest = file_digest(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"The annotation file {path!r} does not exist.") from None
    return Dataset(path, digest, image_root=os.fspath(image_root))


def check(
    dataset: Dataset,
    *,
    against: Sequence[Dataset] = (),
    images: bool = True,
    cache: Cache | None = None,
    workers: int | None = None,
) -> CheckReport:
    """Check a dataset.

    Args:
        dataset: see `coco_dataset`.
        against: other splits, in which no image of this one should be.
        images: False checks the annotations alone, without opening any image.
        cache: None takes the user's.
        workers: threads that decode images; None takes one per CPU.

    Raises:
        OSError, ValueError: the annotation file cannot be read at all.
    """
    start = time.perf_counter()
    cache = cache or Cache()
    key = _key([dataset, *against], images)
    report = cache.report(key)
    if report is None:
        with cache.one_at_a_time(key):
            report = cache.report(key)
            if report is None:
                report, paths = _check(dataset, against, images, cache, workers)
                report.seconds = time.perf_counter() - start
                cache.save_report(key, report, paths)
    logger.info(
        "%s Checked in %.2f s%s.",
        report.summary(),
        time.perf_counter() - start,
        " (nothing has changed since the last check)" if report.from_cache else "",
    )
    return report


def _key(datasets: Sequence[Dataset], images: bool) -> str:
    parts = [[d.source, d.digest, os.path.abspath(d.image_root)] for d in datasets]
    return hashlib.sha256(json.dumps([parts, images]).encode()).hexdigest()[:32]


def _check(
    dataset: Dataset,
    against: Sequence[Dataset],
    images: bool,
    cache: Cache,
    workers: int | None,
) -> tuple[CheckReport, list[str]]:
    content = dataset.load()
    paths = [path for image in content["images"] if (path := dataset.path_of(image))]
    facts = cache.image_facts(paths, workers) if images else {}
    structural = list(structural_problems(content, dataset.source))
    problems = [*structural, *_entry_problems(dataset, content, facts, structural)]
    counts = _class_counts(content)
    problems += class_problems(list(counts), counts, dataset.source)
    all_paths = list(paths)
    if images:
        problems += _duplicates(dataset, content, facts)
    for other in against if images else ():
        other_content = other.load()
        others = [path for image in other_content["images"] if (path := other.path_of(image))]
        all_paths += others
        problems += _leakage(dataset, content, facts, other, cache.image_facts(others, workers))
    problems.sort(key=lambda problem: _ORDER[problem.kind])
    annotations = content.get("annotations", [])
    report = CheckReport(
        dataset.source, len(content["images"]), len(annotations), dict(counts), problems
    )
    return report, all_paths


def _entry_problems(
    dataset: Dataset,
    content: dict[str, Any],
    facts: Mapping[str, ImageFacts],
    structural: Sequence[Problem],
) -> Iterator[Problem]:
    """Problems of the entries that have no structural one."""
    bad_images = {p.image for p in structural if p.image is not None}
    bad_annotations = {
        p.annotation for p in structural if p.annotation is not None and p.repair is None
    }
    checks: dict[Any, AnnotationCheck] = {}
    keypoints = _num_keypoints(content["categories"])
    for position, image in enumerate(content["images"]):
        if position in bad_images:
            continue
        file = dataset.path_of(image)
        size = (int(image["width"]), int(image["height"]))
        for problem in image_problems(image, position, file, facts[file]) if facts else ():
            # Annotations that will be turned are checked as they are.
            if problem.repair is not None and problem.orientation is None:
                size = (problem.repair["width"], problem.repair["height"])
            yield problem
        checks[image["id"]] = AnnotationCheck(file, *size, keypoints)
    seen: dict[Any, int] = {}
    annotations = content.get("annotations", [])
    for position, annotation in enumerate(annotations):
        if position in bad_annotations or annotation["image_id"] not in checks:
            continue
        checker = checks[annotation["image_id"]]
        yield from checker.problems(annotation, position)
        yield from _repeated(annotations, position, seen, checker.file)


def _repeated(
    annotations: Sequence[Any], position: int, seen: dict[Any, int], file: str
) -> Iterator[Problem]:
    """Whether an annotation is equal, but for its id, to the first one of the same box."""
    annotation = annotations[position]
    key = (annotation["image_id"], annotation["category_id"], tuple(annotation["bbox"]))
    first = seen.setdefault(key, position)
    if first != position and _without_id(annotations[first]) == _without_id(annotation):
        yield Problem(
            "duplicate-annotation",
            f"Annotation {annotation.get('id', position)!r} of {file!r} is the same as the one in "
            f"place {first}.",
            file,
            image_id=annotation["image_id"],
            annotation_id=annotation.get("id"),
            annotation=position,
        )


def _without_id(annotation: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in annotation.items() if k != "id" and not k.startswith("_")}


def _num_keypoints(categories: Sequence[Any]) -> dict[Any, int]:
    return {
        c["id"]: len(c["keypoints"])
        for c in categories
        if isinstance(c, dict)
        and isinstance(c.get("keypoints"), list)
        and isinstance(c.get("id"), (int, str))
    }


def _class_counts(content: dict[str, Any]) -> Counter[str]:
    names = {
        c["id"]: c["name"]
        for c in content["categories"]
        if isinstance(c, dict)
        and isinstance(c.get("id"), (int, str))
        and isinstance(c.get("name"), str)
    }
    counts: Counter[str] = Counter(dict.fromkeys(names.values(), 0))
    for annotation in content.get("annotations", []):
        category = annotation.get("category_id") if isinstance(annotation, dict) else None
        if isinstance(category, (int, str)) and category in names:
            counts[names[category]] += 1
    return counts


def _duplicates(
    dataset: Dataset, content: dict[str, Any], facts: Mapping[str, ImageFacts]
) -> Iterator[Problem]:
    entries = _entries_by_path(dataset, content)
    for path, positions in entries.items():
        for position in positions[1:]:
            reason = f"The image {path!r} is listed {len(positions)} times."
            yield _about_image("duplicate-image", reason, path, path, content, position)
    for path, other in pairs_that_look_alike(facts):
        same = facts[path].digest == facts[other].digest
        reason = (
            f"The images {path!r} and {other!r} {'are the same file' if same else 'look the same'}."
        )
        yield _about_image("duplicate-image", reason, path, other, content, entries[path][0])


def _leakage(
    dataset: Dataset,
    content: dict[str, Any],
    facts: Mapping[str, ImageFacts],
    other: Dataset,
    others: Mapping[str, ImageFacts],
) -> Iterator[Problem]:
    entries = _entries_by_path(dataset, content)
    for path, partner in pairs_that_look_alike(facts, others):
        same = facts[path].digest == others[partner].digest
        reason = (
            f"The image {path!r} {'is the same file as' if same else 'looks the same as'} "
            f"{partner!r} of {other.source!r}."
        )
        yield _about_image("leakage", reason, path, partner, content, entries[path][0])


def _entries_by_path(dataset: Dataset, content: dict[str, Any]) -> dict[str, list[int]]:
    entries: dict[str, list[int]] = {}
    for position, image in enumerate(content["images"]):
        if path := dataset.path_of(image):
            entries.setdefault(path, []).append(position)
    return entries


def _about_image(
    kind: str, reason: str, path: str, other: str, content: dict[str, Any], position: int
) -> Problem:
    image_id = content["images"][position].get("id")
    return Problem(kind, reason, path, image_id=image_id, image=position, other_file=other)
