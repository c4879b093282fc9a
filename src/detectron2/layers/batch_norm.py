"""Normalisation layers, and the names configs give them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BatchNorm2d",
    "CycleBatchNormList",
    "FrozenBatchNorm2d",
    "LayerNorm",
    "NaiveSyncBatchNorm",
    "get_norm",
]

BatchNorm2d = nn.BatchNorm2d


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose four tensors are constants.

    It computes ``(x - running_mean) / sqrt(running_var + eps) * weight + bias`` per channel and
    neither trains nor updates anything: all four are buffers. A fresh one is the identity.

    Checkpoints older than version 2 of this layer hold no statistics; they had been folded into
    weight and bias, so a mean of 0 and a variance of 1 are filled in when such a one is loaded.

    Args:
        num_features: channels of the input.
        eps: added to the variance.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Only a converted BatchNorm has it: its checkpoints keep the same entries.
        self.num_batches_tracked: Tensor | None
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) of any floating dtype."""
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # F.batch_norm would keep x for a gradient of weight that nobody asks for; this form
        # keeps C numbers only, and reads x once.
        scale, shift = self.scale_and_shift(x.dtype)
        return torch.addcmul(shift, x, scale)

    def scale_and_shift(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(1, C, 1, 1) each; the layer computes ``x * scale + shift``."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = torch.addcmul(self.bias, self.running_mean, scale, value=-1)
        return scale.to(dtype).view(1, -1, 1, 1), shift.to(dtype).view(1, -1, 1, 1)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        is_old = (local_metadata.get("version") or 0) < 2
        # One part of a checkpoint that comes in parts may not mention this layer at all.
        if is_old and prefix + "weight" in state_dict:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm inside `module` by a frozen copy.

        Containers are changed in place; use the return value, which differs from `module` when
        `module` itself is a normalisation.
        """

        def freeze(norm: nn.Module) -> nn.Module | None:
            if not isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                return None
            frozen = cls(norm.num_features, norm.eps)
            _copy_norm(norm, frozen)
            return frozen

        return _replace_modules(module, freeze)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """Replace every frozen normalisation inside `module` by a trainable BatchNorm2d.

        The inverse of `convert_frozen_batchnorm`, with the same rules.
        """

        def thaw(norm: nn.Module) -> nn.Module | None:
            if not isinstance(norm, FrozenBatchNorm2d):
                return None
            thawed = nn.BatchNorm2d(norm.num_features, norm.eps)
            _copy_norm(norm, thawed)
            return thawed

        return _replace_modules(module, thaw)


def _copy_norm(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the weight, bias, statistics, device, dtype and mode of `source`."""
    tensors = (*source.parameters(), *source.buffers())
    like = next((t for t in tensors if t.is_floating_point()), None)
    if like is not None:
        target.to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(source, name, None)
            if value is not None:  # not affine, or without statistics: keep the neutral values
                getattr(target, name).copy_(value)
        counter = getattr(source, "num_batches_tracked", None)
        if counter is not None:
            target.num_batches_tracked = counter.clone()
    target.train(source.training)


def _replace_modules(
    module: nn.Module,
    replacement: Callable[[nn.Module], nn.Module | None],
    done: dict[nn.Module, nn.Module] | None = None,
) -> nn.Module:
    """Replace `module` or, recursively, those of its children that have a replacement.

    A module that is found in several places (`done` remembers) stays one in all of them.
    """
    done = {} if done is None else done
    if module not in done:
        new = replacement(module)
        done[module] = module if new is None else new
        if new is None:
            for name, child in list(module._modules.items()):
                if child is not None:
                    module._modules[name] = _replace_modules(child, replacement, done)
    return done[module]


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W), each position on its own.

    Args:
        normalized_shape: channels of the input.
        eps: added to the variance.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W); the result is laid out channels last."""
        x = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class CycleBatchNormList(nn.ModuleList):
    """Several sets of batch statistics that take turns behind one weight and bias.

    For a head that runs on `length` feature levels in a fixed order: call number i uses the
    statistics ``i % length``, so those of different levels do not mix ("Rethinking 'Batch' in
    BatchNorm", Wu and Johnson 2021, on batches from several domains).

    Args:
        length: number of sets, that is of calls per pass.
        bn_class: the normalisation; it must take `num_features` and `affine`.
        **kwargs: arguments of `bn_class`; `num_features` is required.
    """

    def __init__(
        self, length: int, bn_class: Callable[..., nn.Module] = nn.BatchNorm2d, **kwargs: Any
    ) -> None:
        if "num_features" not in kwargs:
            raise TypeError("CycleBatchNormList needs num_features=..., the channels of its input.")
        self._affine = kwargs.pop("affine", True)
        super().__init__([bn_class(**kwargs, affine=False) for _ in range(length)])
        if self._affine:
            channels = kwargs["num_features"]
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._next = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self[self._next](x)
        self._next = (self._next + 1) % len(self)
        if not self._affine:
            return x
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"affine={self._affine}"


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, for batches that differ in size.

    Args:
        *args: those of `torch.nn.BatchNorm2d`.
        stats_mode: ``""`` averages the statistics of the processes with equal weight;
            ``"N"`` weights them by their number of images, and a process may have none.
        **kwargs: those of `torch.nn.BatchNorm2d`.

    Raises:
        ValueError: `stats_mode` is neither; or a batch is empty while it is ``""``.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stats_mode not in ("", "N"):
            raise ValueError(f"stats_mode is {stats_mode!r}; use '' or 'N'.")
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not _is_distributed():
            return super().forward(input)
        if self._stats_mode == "" and input.shape[0] == 0:
            raise ValueError(
                "NaiveSyncBatchNorm got an empty batch; set stats_mode='N' (norm "
                "'naiveSyncBN_N') to let a process contribute nothing."
            )
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean, square_mean, share = self._global_moments(x)
        var = square_mean - mean * mean
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        self._update_statistics(mean.detach(), var.detach(), share)
        y = x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return y.to(input.dtype)

    def _global_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Mean (C,), mean square (C,) over all processes and the weight of this step's update."""
        channels = x.shape[1]
        if x.shape[0] == 0:
            # Empty mean() is NaN; zeros that stay in the graph keep every rank in the backward.
            moments = x.sum() * 0 + x.new_zeros(2 * channels)
        else:
            moments = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
        if self._stats_mode == "":
            moments = differentiable_all_reduce(moments) / dist.get_world_size()
            mean, square_mean = moments.split(channels)
            return mean, square_mean, 1.0
        count = x.new_tensor([float(x.shape[0])])
        summed = differentiable_all_reduce(torch.cat([moments * x.shape[0], count]))
        total = summed[-1].detach()
        mean, square_mean = (summed[:-1] / total.clamp(min=1)).split(channels)
        return mean, square_mean, total.clamp(max=1)  # no image anywhere: keep the statistics

    def _update_statistics(self, mean: Tensor, var: Tensor, share: Tensor | float) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # torch's meaning: a cumulative average
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean += momentum * share * (mean - self.running_mean)
        self.running_var += momentum * share * (var - self.running_var)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _naive_sync_bn_by_count(channels: int) -> NaiveSyncBatchNorm:
    return NaiveSyncBatchNorm(channels, stats_mode="N")


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": _group_norm,
    "nnSyncBN": nn.SyncBatchNorm,  # older configs told it from a slower one
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": _naive_sync_bn_by_count,
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalisation from its name in a config.

    Args:
        norm: one of BN, SyncBN, FrozenBN, GN (32 groups), nnSyncBN, naiveSyncBN,
            naiveSyncBN_N, LN; or a callable that takes the number of channels; or ``""`` or
            None for no normalisation.
        out_channels: channels to normalise.

    Raises:
        KeyError: the name is unknown.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"There is no norm called {norm!r}; use one of {sorted(_NORMS)} or ''.")
        return _NORMS[norm](out_channels)
    return norm(out_channels)
