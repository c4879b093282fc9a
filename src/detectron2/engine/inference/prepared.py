"""Layers that keep what can be computed from their weights alone, for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.ops import dispatch

__all__ = ["Faster", "Prepared", "runs_prepared", "state_of", "storages_of"]


def runs_prepared(module: nn.Module) -> bool:
    """Whether `module` may run its fast form: in inference, with nobody looking inside."""
    return not module.training and not torch.is_grad_enabled() and dispatch.is_automatic()


def state_of(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Equal for two calls only if the tensors are the same and were not written in between."""
    # Tensors made in inference mode count no writes. One expression: every layer asks at every
    # call, and a function for each tensor would take as long as all of this.
    return tuple(
        [
            None if x is None else (id(x), x.data_ptr(), x.is_inference() or x._version, x.dtype)
            for x in tensors
        ]
    )


def storages_of(module: Any) -> list[Any]:
    """The memory of all parameters and buffers."""
    return [x.untyped_storage() for x in (*module.parameters(), *module.buffers())]


class Faster:
    """Base of the classes that layers get for inference.

    A layer becomes fast by a change of its class (see `optimize_for_inference`): parameters,
    buffers, names and attributes stay, so whatever reads or writes them goes on working.
    """

    _class_before: type[nn.Module]

    def become_plain(self) -> None:
        """Back to the class that the layer had before."""
        self.__class__ = self.__dict__.pop("_class_before")

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` compiles: the plain layer."""
        plain = copy.copy(self)
        plain.become_plain()
        prepare = getattr(plain, "__prepare_scriptable__", None)
        return plain if prepare is None else prepare()


def _wait_for_stream(module: Any) -> None:
    """Wait until a GPU has done what it was asked for.

    Prepared weights are read by every thread from now on, and one that works on a GPU stream of its
    own would not wait for the stream that made them.
    """
    weight = next(module.parameters(), None)
    if weight is not None and weight.is_cuda:
        torch.cuda.current_stream(weight.device).synchronize()


class Prepared(Faster):
    """Base of layers that keep prepared weights, made again whenever the weights change."""

    compute_dtype: torch.dtype = torch.float32
    _prepared: tuple[Any, Any, list[Any]] | None = None

    def become_plain(self) -> None:
        super().become_plain()
        for name in ("compute_dtype", "_prepared"):
            self.__dict__.pop(name, None)

    def prepared(self) -> Any:
        """What `prepare` returned for the weights as they are now."""
        state = self.weights_state()
        kept = self._prepared
        if kept is None or kept[0] != state:
            # Threads that come here together do the same work; none waits for another.
            # Where the weights lie is kept, too: new ones at the same address would look the same.
            kept = (state, self.prepare(), storages_of(self))
            _wait_for_stream(self)
            self._prepared = kept
        return kept[1]

    def weights_state(self) -> Any:
        """Changes whenever `prepare` would return something else."""
        raise NotImplementedError

    def prepare(self) -> Any:
        """Whatever the fast form needs, from the weights."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Copies and files hold the weights; the rest is made again.
        return {**self.__dict__, "_prepared": None}
