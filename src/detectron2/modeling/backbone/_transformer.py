"""Parts that all transformer backbones share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["DropPath", "Mlp", "drop_path_rates", "init_weights", "learned_positions", "run_block"]


class DropPath(nn.Module):
    """Leave out a residual branch at random, per sample ("Deep Networks with Stochastic Depth").

    What is kept in training is scaled up, so that its expectation stays.

    Args:
        drop_prob: probability that the branch of a sample is left out.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        keep_prob = 1.0 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep_prob)
        return x * (mask / keep_prob)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


class Mlp(nn.Module):
    """Two linear layers, an activation between them.

    Args:
        in_features: of the input.
        hidden_features: of the layer between; by default as many as the input.
        out_features: of the output; by default as many as the input.
        act_layer: called without arguments.
        drop: dropout behind each linear layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def learned_positions(*shape: int) -> nn.Parameter:
    """A parameter of `shape`, truncated normal of deviation 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(*shape), std=0.02))


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, growing linearly from 0 to `highest`."""
    return [highest * index / max(depth - 1, 1) for index in range(depth)]


def init_weights(module: nn.Module) -> None:
    """For `nn.Module.apply`: linear layers truncated normal of deviation 0.02, norms identity."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def run_block(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """``block(x)``; with `recompute` its activations are computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, x, use_reentrant=False)
    return block(x)
