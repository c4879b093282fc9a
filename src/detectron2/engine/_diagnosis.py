"""Why the numbers of a training are not finite, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.engine._loss_record import GRADIENT_NORM
from detectron2.utils.events import EventStorage

__all__ = ["bad_gradients", "box_statistics", "diagnosis", "first_bad_tensor"]

# The learning rates of the model zoo for 16 images.
_USUAL_RATES = {"SGD": 0.02, "AdamW": 1e-4, "Adam": 1e-4}
_HISTORY = 12


def diagnosis(
    trainer: Any, batches: Sequence[Any], storage: EventStorage, saved: Sequence[str]
) -> str:
    """Lines about tensors, images, boxes, the learning rate and the history of gradients."""
    images = [record for batch in batches for record in (batch if isinstance(batch, list) else [])]
    lines = [
        f"First bad tensor: {first_bad_tensor(trainer.model, batches[-1])}",
        f"Gradients: {bad_gradients(trainer.model)}",
        f"Learning rate: {_learning_rate(trainer.optimizer, len(images))}",
        f"Images: {_names(images)}",
        f"Boxes: {box_statistics(images)}",
        f"Gradient norms so far: {_history(storage)}",
    ]
    if saved:
        lines.append(f"To repeat the first bad step: detectron2 debug-batch {saved[0]}")
    return "\n".join(f"  {line}" for line in lines)


def first_bad_tensor(model: nn.Module, batch: Any) -> str:
    """The first parameter, or result of a module in the forward pass, that is not finite."""
    # Not through DistributedDataParallel, whose forward waits for the other processes.
    model = getattr(model, "module", model)
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"parameter {name}, before the forward pass: an earlier step was too large."
    found: list[str] = []
    with _watch_results(model, found), torch.no_grad():
        try:
            losses = model(batch)
        except Exception as error:
            # What is not finite often ends in an error; the first bad result is the cause of it.
            if not found:
                return f"none before the forward pass failed ({error})."
    if found:
        return f"the result of {found[0]}."
    named = losses.items() if isinstance(losses, dict) else [("total_loss", losses)]
    bad = [name for name, value in named if not all(_is_finite(t) for t in _tensors(value))]
    if bad:
        return f"{bad[0]}, although every layer's result is finite: the predictions are far off."
    return "none in the forward pass when it is repeated."


@contextmanager
def _watch_results(model: nn.Module, found: list[str]) -> Iterator[None]:
    def watch(name: str, module: nn.Module) -> Any:
        def look(_: nn.Module, __: Any, result: Any) -> None:
            if not found and not all(_is_finite(t) for t in _tensors(result)):
                found.append(f"{name} ({type(module).__name__})")

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def bad_gradients(model: nn.Module) -> str:
    """How many are not finite, and which is nearest to the loss; or which is the largest."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    if not named:
        return "there are none yet."
    bad = [name for name, gradient in named if not _is_finite(gradient)]
    if not bad:
        # In double precision: squares of large numbers overflow before the numbers do.
        norms = [(float(gradient.double().norm()), name) for name, gradient in named]
        return (
            f"all {len(named)} are finite; the largest, {max(norms)[0]:.3g}, is of {max(norms)[1]}."
        )
    return f"{len(bad)} of {len(named)} are not finite; nearest to the loss: {bad[-1]}."


def _learning_rate(optimizer: torch.optim.Optimizer, images: int) -> str:
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    kind = next(
        (k for k in _USUAL_RATES if type(optimizer).__name__.removesuffix("WithGradientClip") == k),
        None,
    )
    text = f"{rate:.4g} for {images} images per step"
    if kind is None or not images:
        return text + "."
    usual = _USUAL_RATES[kind] * images / 16
    text += f"; usual for {kind} is {usual:.2g} ({_USUAL_RATES[kind]:g} for 16, in proportion)"
    if rate > 2 * usual:
        return f"{text}, so it is {rate / usual:.3g} times too high: lower SOLVER.BASE_LR."
    return f"{text}, so it is not the likely reason."


def _names(images: Sequence[Any]) -> str:
    names = [
        str(r.get("file_name") or r.get("image_id") or "?") for r in images if hasattr(r, "get")
    ]
    return ", ".join(names) + "." if names else "unknown; the batch is no list of records."


def box_statistics(images: Sequence[Any]) -> str:
    """Sizes of the boxes of some records, and how many of them are useless."""
    boxes = [r["instances"].gt_boxes.tensor for r in images if _has_boxes(r)]
    if not boxes:
        return "none in the batch."
    everything = torch.cat([b.float() for b in boxes])
    if len(everything) == 0:
        return "none in the batch."
    sizes = everything[:, 2:4]
    if everything.shape[1] == 4:
        sizes = sizes - everything[:, :2]
    finite = torch.isfinite(everything).all(dim=1)
    without_area = int((sizes[finite] <= 0).any(dim=1).sum())
    text = f"{len(everything)}, {int((~finite).sum())} not finite, {without_area} without area"
    if finite.any():
        low, high = sizes[finite].amin(dim=0).tolist(), sizes[finite].amax(dim=0).tolist()
        text += f"; {low[0]:.1f} to {high[0]:.1f} wide and {low[1]:.1f} to {high[1]:.1f} high"
    return f"{text} (pixels)."


def _has_boxes(record: Any) -> bool:
    instances = record.get("instances") if hasattr(record, "get") else None
    return instances is not None and instances.has("gt_boxes")


def _history(storage: EventStorage) -> str:
    histories = storage.histories()
    if GRADIENT_NORM not in histories:
        return "none, no step was good."
    values = histories[GRADIENT_NORM].values()[-_HISTORY:]
    norms = ", ".join(f"{value:.3g}" if math.isfinite(value) else "-" for value, _ in values)
    return f"{norms} (iterations {values[0][1]:.0f} to {values[-1][1]:.0f})."
