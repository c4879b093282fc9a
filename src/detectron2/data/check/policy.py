"""What is done about problems: nothing, failing, leaving out, or mending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data.check.problems import Problem
from detectron2.data.check.turning import turned_annotation

__all__ = ["POLICIES", "check_policy", "cleaned_content"]

POLICIES = ("report", "fail", "skip", "fix")


def check_policy(policy: str) -> str:
    """
    Raises:
        ValueError: no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(
            f"The policy for a dataset's problems is {policy!r}; use one of {', '.join(POLICIES)}."
        )
    return policy


def cleaned_content(
    content: dict[str, Any], problems: Sequence[Problem], policy: str
) -> dict[str, Any]:
    """A COCO file's content without what is wrong.

    Args:
        content: is not changed.
        problems: that were found in it.
        policy: "skip" leaves out every image, annotation and category with an error, and the
            annotations of images that are left out; "fix" mends what can be mended, warnings,
            too, and leaves out the rest. "report" and "fail" change nothing.
    """
    if check_policy(policy) in ("report", "fail"):
        return content
    mend = policy == "fix"
    dropped: dict[str, set[int]] = {"image": set(), "annotation": set(), "category": set()}
    repairs: dict[str, dict[int, dict[str, Any]]] = {"image": {}, "annotation": {}}
    for problem in problems:
        what, position = _entry_of(problem)
        if what is None:
            continue
        if mend and problem.repair is not None:
            repairs[what].setdefault(position, {}).update(problem.repair)
        elif problem.is_error:
            dropped[what].add(position)
    images = _kept(content["images"], dropped["image"], repairs["image"])
    ids = {image["id"] for image in images}
    annotations = _kept(
        content.get("annotations", []), dropped["annotation"], repairs["annotation"]
    )
    if mend:
        annotations = _turned(annotations, content["images"], problems)
    return {
        **content,
        "images": images,
        "annotations": [a for a in annotations if a["image_id"] in ids],
        "categories": _kept(content["categories"], dropped["category"], {}),
    }


def _turned(
    annotations: list[Any], images: Sequence[Any], problems: Sequence[Problem]
) -> list[Any]:
    """The annotations, those of unturned images in the frame of the upright image."""
    turns = {
        images[p.image]["id"]: (p.orientation, images[p.image]["width"], images[p.image]["height"])
        for p in problems
        if p.image is not None and p.orientation is not None
    }
    return [
        turned_annotation(a, *turns[a["image_id"]]) if turns and a["image_id"] in turns else a
        for a in annotations
    ]


def _entry_of(problem: Problem) -> tuple[Any, int]:
    """Which list the problem is about, and where in it."""
    for what in ("annotation", "image", "category"):
        position = getattr(problem, what)
        if position is not None:
            return what, position
    return None, -1


def _kept(
    entries: Sequence[Any], dropped: set[int], repairs: dict[int, dict[str, Any]]
) -> list[Any]:
    return [
        {**entry, **repairs[i]} if i in repairs else entry
        for i, entry in enumerate(entries)
        if i not in dropped
    ]
