"""Models that are too large for one GPU: parameters and optimizer state in shards (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone._swin_blocks import SwinTransformerBlock
from detectron2.modeling.backbone._vit_blocks import Block
from detectron2.utils import comm
from detectron2.utils.env import TORCH_VERSION

__all__ = ["full_weights", "gathered", "load_shards", "shard_model", "write_shards"]

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
        RuntimeError: there is no process group, or torch is too old for a CPU.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise RuntimeError("A model is sharded over processes; start them with launch().")
    device = next(model.parameters()).device.type
    if device == "cpu" and TORCH_VERSION < (2, 7):
        raise RuntimeError(
            f"torch {torch.__version__} shards models on GPUs only; on a CPU it takes torch 2.7. "
            "Set TRAINING.FSDP.ENABLED to False or update torch."
        )
    mesh = init_device_mesh(device, (comm.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=precision)
    for module in reversed(list(model.modules())):  # what lies inside comes first
        if isinstance(module, blocks) and any(p.requires_grad for p in module.parameters()):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    _expect_unused_parameters(model)
    model.register_load_state_dict_pre_hook(_weights_become_shards)
    return model


def _expect_unused_parameters(model: Any) -> None:
    """The mask head has no gradients in a process whose images have no objects."""
    # Of torch 2.13; before it such a batch is an error of the exchange.
    if hasattr(model, "set_reduce_scatter_unused_params"):
        model.set_reduce_scatter_unused_params(True)


def _weights_become_shards(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object
) -> None:
    """Before loading whole tensors into a sharded model: each process takes its part."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, parameter in module.named_parameters():
        whole = state_dict.get(prefix + name)
        if (
            isinstance(parameter, DTensor)
            and isinstance(whole, torch.Tensor)
            and not isinstance(whole, DTensor)
            and whole.shape == parameter.shape
        ):
            placed = whole.to(parameter.device, parameter.dtype)
            state_dict[prefix + name] = distribute_tensor(
                placed, parameter.device_mesh, parameter.placements
            )


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block every process has all parameters of a sharded model; all enter it.

    The forward pass then needs no other process, as in an evaluation, where one process may have
    more images than another. Other models are as before.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        yield
        return
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(True)
        for module in sharded:
            module.reshard()


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict of a model with whole tensors; of a sharded one all processes call this."""
    from torch.distributed.tensor import DTensor

    model = getattr(model, "module", model)
    return {
        name: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        for name, tensor in model.state_dict().items()
    }


def write_shards(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write model and optimizer to a folder; every process calls this and writes its shards."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, state = get_state_dict(model, optimizer)
    with _one_process_is_fine():
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load_shards(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take over what `write_shards` wrote, also with another number of processes."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, state = get_state_dict(model, optimizer)
    content: dict[str, Any] = {"model": weights, "optimizer": state}
    with _one_process_is_fine():
        dcp.load(content, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
