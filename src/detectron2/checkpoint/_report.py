"""What happened to each tensor when a checkpoint was loaded, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

__all__ = ["LoadReport", "group_names", "matches_table"]

Shape = tuple[int, ...]


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


def matches_table(rows: Sequence[tuple[str, str, Shape]]) -> str:
    """Table of renamed tensors, one line per module.

    Args:
        rows: name in the model, name in the checkpoint, shape.
    """
    modules: dict[str, list[tuple[str, str, Shape]]] = {}
    for row in rows:
        modules.setdefault(row[0].rpartition(".")[0], []).append(row)
    lines = []
    for _, members in sorted(modules.items()):
        ours = group_names(name for name, _, _ in members)
        theirs = " ".join(original for _, original, _ in members)
        shapes = " ".join("x".join(map(str, shape)) or "scalar" for _, _, shape in members)
        lines.append((ours[0], theirs, shapes))
    return tabulate(lines, headers=("in the model", "in the checkpoint", "shapes"))


class LoadReport:
    """Which tensors of a model were loaded, which keep their initial values, and why."""

    def __init__(
        self,
        *,
        total: int,
        missing: Sequence[str],
        other_shape: Sequence[tuple[str, Shape, Shape]],
        unused: Sequence[str],
    ) -> None:
        """
        Args:
            total: number of tensors of the model.
            missing: names that the checkpoint does not have.
            other_shape: name, shape in the checkpoint, shape in the model.
            unused: names that only the checkpoint has.
        """
        self.total = total
        self.missing = list(missing)
        self.other_shape = list(other_shape)
        self.unused = list(unused)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor was loaded and none was left over."""
        return not (self.missing or self.other_shape or self.unused)

    def text(self) -> str:
        """One sentence, and a table of what was not loaded."""
        not_loaded = {*self.missing, *(name for name, _, _ in self.other_shape)}
        sentence = f"Loaded {self.total - len(not_loaded)} of {self.total} tensors of the model."
        rows = [
            (name, _text(theirs), _text(ours), "keeps its initial values: other shape")
            for name, theirs, ours in self.other_shape
        ]
        absent = [name for name in self.missing if name not in self._misshapen()]
        rows += [
            (name, "not there", "", "keeps its initial values: not in the checkpoint")
            for name in group_names(absent)
        ]
        rows += [
            (name, "", "not there", "left out: not in the model")
            for name in group_names(self.unused)
        ]
        if not rows:
            return sentence
        table = tabulate(rows, headers=("tensor", "in the checkpoint", "in the model", "result"))
        return f"{sentence}\n{table}{self._advice()}"

    def _misshapen(self) -> set[str]:
        return {name for name, _, _ in self.other_shape}

    def _advice(self) -> str:
        """A line for the usual cause of another shape: another number of classes."""
        heads = ("cls_score", "bbox_pred", "mask_head.predictor", "sem_seg_head.predictor")
        if any(head in name for name in self._misshapen() for head in heads):
            return (
                "\nThe prediction layers differ as they do for another number of classes; they "
                "are trained from scratch."
            )
        return ""


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
