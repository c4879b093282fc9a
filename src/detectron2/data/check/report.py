"""The outcome of a check, as an object and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data.check.problems import KINDS, Problem
from detectron2.utils.files import atomic_write_text

__all__ = ["CheckReport", "DatasetProblemsError"]

# So many problems are named in an error message.
NAMED = 5


class DatasetProblemsError(ValueError):
    """A dataset has errors, and the policy is to fail."""


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        source: the annotation file, or the name of the dataset.
        images, annotations: how many there are.
        classes: number of objects by class name.
        problems: in the order of `KINDS`.
        seconds: that the check took.
        from_cache: whether nothing was read anew.
    """

    source: str
    images: int
    annotations: int
    classes: dict[str, int]
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    from_cache: bool = False

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.is_error]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.is_error]

    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that there is."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def summary(self) -> str:
        """One sentence."""
        return (
            f"{self.source}: {self.images} images, {self.annotations} annotations, "
            f"{len(self.errors)} errors, {len(self.warnings)} warnings."
        )

    def raise_errors(self) -> None:
        """
        Raises:
            DatasetProblemsError: there are errors; the first ones are named.
        """
        errors = self.errors
        if not errors:
            return
        lines = [f"- {problem.reason}" for problem in errors[:NAMED]]
        if len(errors) > NAMED:
            lines.append(f"- and {len(errors) - NAMED} more")
        raise DatasetProblemsError(
            f"The dataset {self.source!r} has {len(errors)} errors:\n"
            + "\n".join(lines)
            + "\nMend them, or choose the policy 'skip' or 'fix'."
        )

    def to_json(self) -> dict[str, Any]:
        """As it is written: with the counts, and without empty fields of problems."""
        return {
            "source": self.source,
            "images": self.images,
            "annotations": self.annotations,
            "seconds": round(self.seconds, 3),
            "counts": self.counts(),
            "classes": self.classes,
            "problems": [_problem_to_json(problem) for problem in self.problems],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CheckReport:
        fields = Problem.__dataclass_fields__
        return cls(
            source=content["source"],
            images=content["images"],
            annotations=content["annotations"],
            classes=dict(content["classes"]),
            problems=[
                Problem(**{k: v for k, v in problem.items() if k in fields})
                for problem in content["problems"]
            ],
            seconds=content["seconds"],
        )

    def text(self) -> str:
        """The JSON text that is written."""
        return json.dumps(self.to_json(), indent=1, default=str)

    def write_json(self, path: str | Path) -> Path:
        return atomic_write_text(path, self.text())


def _problem_to_json(problem: Problem) -> dict[str, Any]:
    present = {k: v for k, v in asdict(problem).items() if v is not None and v != ""}
    return {"severity": "error" if problem.is_error else "warning", **present}
