"""Scripted models, and their code as text files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detectron2.export._scripted_detector import scriptable_form
from detectron2.export.torchscript_patch import freeze_training_mode, patch_instances
from detectron2.export.tracing import quiet_tracer
from detectron2.utils.file_io import PathManager

__all__ = ["dump_torchscript_IR", "scripting_with_instances"]


def scripting_with_instances(model: nn.Module, fields: Mapping[str, Any]) -> torch.jit.ScriptModule:
    """Script a model whose code uses `Instances`.

    A whole detector becomes a scripted shell around a trace that holds for any number and size
    of images: `GeneralizedRCNN` gets ``inference(batched_inputs, do_postprocess=False)``, and
    every detector ``forward(batched_inputs)``, which return the Instances of each image in the
    frame of the network's input. Other modules are scripted as they are.

    Args:
        model: in evaluation mode.
        fields: type of each field of `Instances`, see `patch_instances`; those that the model
            predicts have to be among them.

    Raises:
        AssertionError: the model is in training mode.
        ValueError: `fields` lacks something that the model predicts.
    """
    if model.training:
        raise AssertionError(
            "Currently we only support exporting models in evaluation mode to torchscript"
        )
    with (
        tempfile.TemporaryDirectory(prefix="detectron2") as folder,
        freeze_training_mode(model),
        patch_instances(fields),
        quiet_tracer(),
        torch.no_grad(),
    ):
        return torch.jit.script(scriptable_form(model, fields, folder))


# The name before 2021; downstream code may still use it.
export_torchscript_with_instances = scripting_with_instances


def dump_torchscript_IR(model: Any, dir: str) -> None:
    """Write the code and the graph of a traced or scripted function or module.

    Args:
        dir: folder, made if it does not exist, for ``model_ts_code.txt``, ``model_ts_IR.txt``,
            ``model_ts_IR_inlined.txt`` and, of a module, ``model.txt``.
    """
    PathManager.mkdirs(dir)
    folder = Path(PathManager.get_local_path(dir))
    parts = list(_parts("", model))
    (folder / "model_ts_code.txt").write_text(
        "\n".join(f"# {name}\n{part.code}" for name, part in parts), encoding="utf-8"
    )
    (folder / "model_ts_IR.txt").write_text(
        "\n".join(f"# {name}\n{part.graph}" for name, part in parts), encoding="utf-8"
    )
    (folder / "model_ts_IR_inlined.txt").write_text(str(model.inlined_graph), encoding="utf-8")
    if isinstance(model, nn.Module):
        (folder / "model.txt").write_text(str(model), encoding="utf-8")


def _parts(name: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Everything with code, a module before its children."""
    if isinstance(part, torch.jit.ScriptFunction):
        yield part.name, part
        return
    for path, module in part.named_modules():
        for method in module._c._method_names():
            yield f"{path or 'model'}.{method}", module._c._get_method(method)
