"""Models that are too large for one GPU: parameters and optimizer state in shards (FSDP2)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone._swin_blocks import SwinTransformerBlock
from detectron2.modeling.backbone._vit_blocks import Block
from detectron2.utils import comm

__all__ = ["load_sharded", "save_sharded", "shard_model"]

_BLOCKS = (CNNBlockBase, Block, SwinTransformerBlock)


def shard_model(
    model: nn.Module,
    blocks: tuple[type[nn.Module], ...] = _BLOCKS,
    precision: torch.dtype | None = None,
) -> nn.Module:
    """Spread the parameters of a model over all processes, in place.

    Each block gets its parameters together just before it runs. Build the optimizer afterwards.
    The names of the parameters stay.

    Args:
        blocks: classes of modules that are gathered one at a time.
        precision: dtype of computation and gradients' exchange, None for that of the parameters.

    Returns:
        The model.

    Raises:
        RuntimeError: there is no process group.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise RuntimeError("A model is sharded over processes; start them with launch().")
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (comm.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=precision)
    for module in reversed(list(model.modules())):  # what lies inside comes first
        if isinstance(module, blocks) and any(p.requires_grad for p in module.parameters()):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def save_sharded(
    folder: str, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]
) -> None:
    """Write a checkpoint to which every process contributes its shards; all of them call this.

    The folder appears when it is complete, and replaces an older one of its name.

    Args:
        extra: plain values of the main process, such as the iteration.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, state = get_state_dict(model, optimizer)
    part = f"{folder}.part"
    dcp.save({"model": weights, "optimizer": state, "extra": dict(extra)}, checkpoint_id=part)
    comm.synchronize()
    if comm.is_main_process():
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        os.replace(part, folder)
    comm.synchronize()


def load_sharded(
    folder: str, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Take over what `save_sharded` wrote, also with another number of processes.

    Args:
        extra: the names to read, with values of the same kinds.

    Returns:
        The values of `extra` in the checkpoint.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    if not os.path.isfile(os.path.join(folder, ".metadata")):
        raise FileNotFoundError(f"{folder!r} is no complete sharded checkpoint.")
    weights, state = get_state_dict(model, optimizer)
    content: dict[str, Any] = {"model": weights, "optimizer": state, "extra": dict(extra)}
    dcp.load(content, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    return content["extra"]
