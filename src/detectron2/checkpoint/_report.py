"""What happened to each tensor when a checkpoint was loaded, as tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from tabulate import tabulate

__all__ = ["LoadReport", "group_names", "group_subtrees", "matches_table"]

Shape = tuple[int, ...]

# A table with more lines than this is not read; names are put together until it has fewer.
MOST_LINES = 16

# Batch norm counts its batches. Nothing depends on it: old checkpoints lack it, fixed norms too.
_COUNTER = ".num_batches_tracked"


def group_names(names: Iterable[str]) -> list[str]:
    """Names with the tensors of one module put together: ``head.conv.{bias, weight}``."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, []).append(leaf)
    grouped = []
    for module, leaves in sorted(modules.items()):
        leaf = leaves[0] if len(leaves) == 1 else "{" + ", ".join(sorted(leaves)) + "}"
        grouped.append(f"{module}.{leaf}" if module else leaf)
    return grouped


def group_subtrees(names: Iterable[str], most: int) -> list[list[str]]:
    """Names with a common beginning put together, in at most `most` groups.

    The largest group is split at its next dot as long as the number of groups allows it, so a
    whole backbone may be one group where there is much else to tell. Names that differ in their
    first part are never in one group, and the tensors of one module always are.

    Returns:
        The groups in alphabetical order.
    """
    groups = _split(list(names), 0)
    settled: set[str] = set()
    while len(settled) < len(groups):
        prefix = max((g for g in groups if g not in settled), key=lambda g: len(groups[g]))
        parts = _split(groups[prefix], prefix.count(".") + 1)
        is_one_module = len({name.rpartition(".")[0] for name in groups[prefix]}) == 1
        if is_one_module or len(groups) - 1 + len(parts) > most:
            settled.add(prefix)
        else:
            del groups[prefix]
            groups.update(parts)
    return [members for _, members in sorted(groups.items())]


def _split(names: list[str], depth: int) -> dict[str, list[str]]:
    """Names by their first ``depth + 1`` parts."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[: depth + 1]), []).append(name)
    return groups


def matches_table(rows: Sequence[tuple[str, str, Shape]]) -> str:
    """Table of renamed tensors, one line per module.

    Where all that changes for more than a few tensors is the beginning of the name, they are one
    line.

    Args:
        rows: name in the model, name in the checkpoint, shape.
    """
    prefixes = [_added_prefix(ours, theirs) for ours, theirs, _ in rows]
    counts = Counter(prefix for prefix in prefixes if prefix is not None)
    many = {prefix for prefix, count in counts.items() if count > MOST_LINES}
    lines = [(f"{prefix}* ({counts[prefix]} tensors)", "*", "") for prefix in many]
    lines += _module_lines([row for row, prefix in zip(rows, prefixes) if prefix not in many])
    return tabulate(sorted(lines), headers=("in the model", "in the checkpoint", "shapes"))


def _added_prefix(ours: str, theirs: str) -> str | None:
    """What stands before their name in ours; None if it is another name."""
    return ours.removesuffix(theirs) if ours.endswith(theirs) else None


def _module_lines(rows: Sequence[tuple[str, str, Shape]]) -> list[tuple[str, str, str]]:
    modules: dict[str, list[tuple[str, str, Shape]]] = {}
    for row in rows:
        modules.setdefault(row[0].rpartition(".")[0], []).append(row)
    lines = []
    for members in modules.values():
        ours = group_names(name for name, _, _ in members)
        theirs = " ".join(original for _, original, _ in members)
        shapes = " ".join("x".join(map(str, shape)) or "scalar" for _, _, shape in members)
        lines.append((ours[0], theirs, shapes))
    return lines


class LoadReport:
    """Which tensors of a model were loaded, which keep their initial values, and why.

    Attributes:
        total: number of tensors of the model.
        loaded: how many of them were loaded.
        empty_parts: direct children of the model of which nothing was loaded.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        missing: Sequence[str],
        other_shape: Sequence[tuple[str, Shape, Shape]],
        unused: Sequence[str],
    ) -> None:
        """
        Args:
            names: of all tensors of the model.
            missing: names that the checkpoint does not have.
            other_shape: name, shape in the checkpoint, shape in the model.
            unused: names that only the checkpoint has.
        """
        counted = [name for name in names if not name.endswith(_COUNTER)]
        self.total = len(counted)
        self.missing = list(missing)
        self.other_shape = list(other_shape)
        self.unused = [name for name in unused if not name.endswith(_COUNTER)]
        initial = {*self.missing, *self._misshapen()}
        self.loaded = sum(name not in initial for name in counted)
        parts = _split([name for name in counted if "." in name], 0)
        self.empty_parts = [part for part, of_part in parts.items() if initial.issuperset(of_part)]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor was loaded and none was left over."""
        return not (self.missing or self.other_shape or self.unused)

    @property
    def is_foreign(self) -> bool:
        """Whether the checkpoint seems to be one of another architecture.

        Most of the model was not loaded. Another number of classes changes few tensors, and
        a backbone alone is most of a model.
        """
        return self.total > 0 and 2 * self.loaded < self.total

    def text(self) -> str:
        """One sentence, and a table of what was not loaded; in groups if there is much."""
        sentence = f"Loaded {self.loaded} of {self.total} tensors of the model."
        if self.is_foreign:
            sentence += " This seems to be a checkpoint of another architecture."
        elif self.empty_parts:
            sentence += f" Nothing of {' and '.join(self.empty_parts)} is in the checkpoint."
        rows = self._rows()
        if len(rows) > MOST_LINES:
            rows = self._grouped_rows()
        if not rows:
            return sentence
        table = tabulate(rows, headers=("tensor", "in the checkpoint", "in the model", "result"))
        return f"{sentence}\n{table}{self._advice()}"

    def _absent(self) -> list[str]:
        return [name for name in self.missing if name not in self._misshapen()]

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """A line per tensor of another shape and per module that is missing or left over."""
        rows = [
            (name, _text(theirs), _text(ours), "keeps its initial values: other shape")
            for name, theirs, ours in self.other_shape
        ]
        rows += [
            (name, "not there", "", "keeps its initial values: not in the checkpoint")
            for name in group_names(self._absent())
        ]
        rows += [
            (name, "", "not there", "left out: not in the model")
            for name in group_names(self.unused)
        ]
        return rows

    def _grouped_rows(self) -> list[tuple[str, str, str, str]]:
        """The same by the beginnings of the names, with the shapes of one tensor of a group."""
        shapes = {name: (_text(theirs), _text(ours)) for name, theirs, ours in self.other_shape}
        kinds = (
            (list(shapes), "keep their initial values: other shape"),
            (self._absent(), "keep their initial values: not in the checkpoint"),
            (self.unused, "left out: not in the model"),
        )
        most = MOST_LINES // sum(1 for names, _ in kinds if names)
        rows = []
        for names, result in kinds:
            for members in group_subtrees(names, most):
                example = shapes.get(members[0])
                theirs, ours = (f"{side}, ..." for side in example) if example else ("", "")
                rows.append((_group_name(members), theirs, ours, result))
        return rows

    def _misshapen(self) -> set[str]:
        return {name for name, _, _ in self.other_shape}

    def _advice(self) -> str:
        """A line for the usual cause of another shape: another number of classes."""
        heads = ("cls_score", "bbox_pred", "mask_head.predictor", "sem_seg_head.predictor")
        if any(head in name for name in self._misshapen() for head in heads):
            return (
                "\nThe prediction layers differ as they do for another number of classes; they "
                "start from random values."
            )
        return ""


def _group_name(members: list[str]) -> str:
    if len(members) == 1:
        return members[0]
    common = os.path.commonprefix([name.split(".") for name in members])
    return f"{'.'.join([*common, '*'])} ({len(members)} tensors)"


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
