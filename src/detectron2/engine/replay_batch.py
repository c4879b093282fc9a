"""Repeat the training step that failed, from the file that `detectron2.engine.bad_batch` wrote."""

from __future__ import annotations

import yaml

from detectron2.config import CfgNode
from detectron2.engine._diagnosis import bad_gradients, box_statistics, first_bad_tensor
from detectron2.engine._random_state import set_random_state
from detectron2.engine._recipe import recipe_of
from detectron2.engine.bad_batch import load_batch
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.utils.events import EventStorage

__all__ = ["replay"]


def replay(path: str, device: str = "cpu", config: str | None = None) -> str:
    """Repeat the bad step of a file and describe what happens, in lines of text.

    Args:
        config: what the training was started with, a path or zoo name. A LazyConfig has to be
            named, because it is code, which a file of data must not bring along.

    Raises:
        FileNotFoundError, ValueError: it is no file of a bad batch.
    """
    content = load_batch(path)
    if not content["config"] and config is None:
        raise ValueError(
            f"{path!r} has no config: it is of a training by a LazyConfig or a script. Name the "
            "LazyConfig with --config."
        )
    cfg = resolve_config(config) if config else CfgNode(yaml.safe_load(content["config"]))
    edits_of(cfg).set_device(device)
    model = recipe_of(cfg).model()
    model.load_state_dict(content["model"])
    model.train()
    lines = [f"Iteration {content['iteration']}, {len(content['batches'])} batch(es)."]
    with EventStorage(content["iteration"]):
        set_random_state(content["random_state"])
        for batch in content["batches"]:
            losses = model(batch)
            lines += [f"{name}: {value.item():.6g}" for name, value in losses.items()]
            sum(losses.values()).backward()
            lines.append(f"Images: {', '.join(str(r.get('file_name', '?')) for r in batch)}")
            lines.append(f"Boxes: {box_statistics(batch)}")
            lines.append(f"First bad tensor: {first_bad_tensor(model, batch)}")
    lines.append(f"Gradients: {bad_gradients(model)}")
    return "\n".join(lines)
