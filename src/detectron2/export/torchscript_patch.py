"""Changes to classes and modules for the time in which TorchScript reads them."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from detectron2.export._scripted_boxes import script_boxes
from detectron2.export._scripted_instances import instances_source
from detectron2.export.tracing import quiet_tracer, replaced, traceable_len
from detectron2.structures import Boxes, Instances

# Boxes is not used here; downstream code imports it from this address.
__all__ = [
    "Boxes",
    "Instances",
    "freeze_training_mode",
    "patch_builtin_len",
    "patch_instances",
    "patch_nonscriptable_classes",
]

_NUMBERS = count()
_LEN_MODULES = (
    "detectron2.modeling.roi_heads.fast_rcnn",
    "detectron2.modeling.roi_heads.mask_head",
    "detectron2.modeling.roi_heads.keypoint_head",
)


@contextmanager
def patch_builtin_len(modules: Iterable[str] = ()) -> Iterator[None]:
    """Within this block `len` in the heads and in `modules` can be traced.

    The built-in always returns a Python integer, which a tracer takes for a constant.

    Args:
        modules: dotted names of further modules.
    """
    with replaced({(name, "len"): traceable_len for name in (*_LEN_MODULES, *modules)}):
        yield


@contextmanager
def freeze_training_mode(model: nn.Module) -> Iterator[None]:
    """Within this block scripting takes `training` of every submodule for a constant.

    Branches for training are then left out, and need not be scriptable.
    """
    classes = {type(module) for module in model.modules()}
    with ExitStack() as stack:
        for cls in classes:
            if hasattr(cls, "__constants__"):
                continue
            own = cls.__dict__.get("__annotations__")
            if own is None:
                cls.__annotations__ = {}
                stack.callback(delattr, cls, "__annotations__")
            elif "training" in own:
                stack.callback(cls.__annotations__.__setitem__, "training", own["training"])
            else:
                stack.callback(cls.__annotations__.pop, "training")
            cls.__annotations__["training"] = Final[bool]
        yield


@contextmanager
def patch_instances(fields: Mapping[str, Any]) -> Iterator[type]:
    """Within this block `Instances` in scripted code means a class with just these fields.

    Args:
        fields: type of each field: Tensor, Boxes, RotatedBoxes, List[Tensor] ...

    Yields:
        the class, with ``from_instances(Instances)`` to make one of its objects.
    """
    name = f"ScriptedInstances{next(_NUMBERS)}"
    module_name = f"detectron2.export.{name}"
    with (
        quiet_tracer(),
        tempfile.TemporaryDirectory(prefix="detectron2") as folder,
        ExitStack() as stack,
    ):
        _forget_compiled_types()
        script_boxes()
        path = Path(folder) / f"{name}.py"
        path.write_text(instances_source(name, fields), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        stack.callback(sys.modules.pop, module_name)
        spec.loader.exec_module(module)
        new_class = getattr(module, name)
        new_class.from_instances = staticmethod(module.from_instances)
        Instances.__torch_script_class__ = torch.jit.script(new_class)
        stack.callback(delattr, Instances, "__torch_script_class__")
        Instances._jit_override_qualname = torch._jit_internal._qualified_name(new_class)
        stack.callback(delattr, Instances, "_jit_override_qualname")
        stack.callback(_forget_compiled_types)
        yield new_class


def _forget_compiled_types() -> None:
    """Let the compiler read every module anew: what it knows refers to other Instances."""
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    torch.jit._state._jit_caching_layer.clear()


def patch_nonscriptable_classes() -> None:
    """Teach backbones to hand TorchScript a version of themselves that it can read.

    Their forward passes are Python that TorchScript cannot parse, but have no control flow that
    depends on values: the scripted version contains a trace of them, with the same parameters.
    """
    from detectron2.export._scripted_backbones import prepare_backbone
    from detectron2.modeling.backbone import FPN, ResNet

    for cls in (ResNet, FPN):
        cls.__prepare_scriptable__ = prepare_backbone


patch_nonscriptable_classes()
