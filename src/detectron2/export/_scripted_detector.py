"""A detector for TorchScript: scripted code around a trace of its batched form."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detectron2.export._batched_trace import trace_batched
from detectron2.export.batched import UnsupportedModelError, batched_model
from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["scriptable_form"]

_SHELL = '''\
"""Written by detectron2.export.torchscript.scripting_with_instances."""
from typing import *

import torch
from torch import Tensor, nn

from detectron2.structures import Boxes, Instances, RotatedBoxes


class ScriptedDetector(nn.Module):
    def __init__(self, core: nn.Module, device: torch.device):
        super().__init__()
        self.core = core
        self.register_buffer("anchor", torch.zeros(0, device=device), persistent=False)

    def forward(self, batched_inputs: List[Dict[str, Tensor]]) -> List[Instances]:
        images = [x["image"].to(self.anchor.device, torch.float32) for x in batched_inputs]
        height = max([image.shape[1] for image in images])
        width = max([image.shape[2] for image in images])
        batch = images[0].new_zeros([len(images), images[0].shape[0], height, width])
        sizes = torch.zeros([len(images), 2], dtype=torch.int64, device=self.anchor.device)
        for index, image in enumerate(images):
            batch[index, :, : image.shape[1], : image.shape[2]] = image
            sizes[index, 0] = image.shape[1]
            sizes[index, 1] = image.shape[2]
        {outputs} = self.core(batch, sizes)
        results: List[Instances] = []
        for index, image in enumerate(images):
            rows = (image_index == index).nonzero()[:, 0]
            found = Instances((image.shape[1], image.shape[2]))
{assignments}
            results.append(found)
        return results

    @torch.jit.export
    def inference(
        self,
        batched_inputs: List[Dict[str, Tensor]],
        detected_instances: Optional[List[Instances]] = None,
        do_postprocess: bool = True,
    ) -> List[Instances]:
        assert detected_instances is None, "A scripted model takes no detected_instances."
        assert not do_postprocess, (
            "A scripted model does not paste masks: pass do_postprocess=False, then call "
            "detectron2.modeling.postprocessing.detector_postprocess."
        )
        return self.forward(batched_inputs)
'''


def scriptable_form(model: nn.Module, fields: Mapping[str, Any], folder: str) -> nn.Module:
    """What `torch.jit.script` is given in place of a model; the model itself if it is no detector.

    Args:
        folder: for the source, which has to be there until it has been scripted.

    Raises:
        ValueError: `fields` lacks something that the model predicts.
    """
    try:
        batched = batched_model(model)
    except UnsupportedModelError:
        return model
    names = [name for name in batched.output_names if name != "image_index"]
    if "sem_seg" in names:
        return model
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(
            f"The model predicts {missing[0]!r}, but the fields for scripting are only "
            f"{sorted(fields)}."
        )
    source = _SHELL.format(
        outputs=", ".join(batched.output_names),
        assignments="\n".join(
            f"{' ' * 12}found.{name} = {_wrapped(f'{name}[rows]', fields[name])}" for name in names
        ),
    )
    return _class_of(source, folder)(trace_batched(batched), batched.model.pixel_mean.device)


def _wrapped(value: str, kind: Any) -> str:
    return f"{kind.__name__}({value})" if kind in (Boxes, RotatedBoxes) else value


def _class_of(source: str, folder: str) -> Any:
    """The class `ScriptedDetector` of the source, which the compiler can find on disk."""
    path = Path(folder) / "scripted_detector.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("detectron2_scripted_detector", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ScriptedDetector
