"""Nested results as flat tuples of tensors and back, and tracing of models that return them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.export.tracing import traceable_model
from detectron2.structures import Boxes, Instances, ROIMasks
from detectron2.utils.registry import _convert_target_to_string, locate

__all__ = [
    "DictSchema",
    "IdentitySchema",
    "InstancesSchema",
    "ListSchema",
    "Schema",
    "TensorWrapSchema",
    "TracingAdapter",
    "TupleSchema",
    "flatten_to_tuple",
]


@dataclass
class Schema:
    """How to put a flat tuple back into the shape of the object it came from.

    A schema is called with the tuple. Schemas compare by value, and
    `detectron2.config.instantiate.dump_dataclass` describes them in plain data.
    """

    @classmethod
    def flatten(cls, obj: Any) -> tuple[tuple[Any, ...], Schema]:
        """The leaves of an object and the schema that rebuilds it."""
        raise NotImplementedError(f"{cls.__name__} has to define flatten().")

    def __call__(self, values: tuple[Any, ...]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has to define __call__().")

    @staticmethod
    def _concat(values: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], list[int]]:
        """Several tuples in one, and the length of each."""
        if not all(isinstance(value, tuple) for value in values):
            raise AssertionError("Only tuples of leaves can be joined.")
        return sum(values, ()), [len(value) for value in values]

    @staticmethod
    def _split(values: tuple[Any, ...], sizes: list[int]) -> list[tuple[Any, ...]]:
        """The tuples that `_concat` joined."""
        if len(values) != sum(sizes):
            raise AssertionError(f"Values has length {len(values)} but expect length {sum(sizes)}.")
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        return [values[start : start + size] for start, size in zip(starts, sizes)]


@dataclass
class ListSchema(Schema):
    """A list, each item with a schema of its own."""

    schemas: list[Schema]
    sizes: list[int]

    @classmethod
    def flatten(cls, obj: list[Any]) -> tuple[tuple[Any, ...], ListSchema]:
        parts = [flatten_to_tuple(item) for item in obj]
        values, sizes = cls._concat([leaves for leaves, _ in parts])
        return values, cls([schema for _, schema in parts], sizes)

    def __call__(self, values: tuple[Any, ...]) -> list[Any]:
        slices = self._split(values, self.sizes)
        if len(slices) != len(self.schemas):
            raise ValueError(f"{len(slices)} values do not fit {len(self.schemas)} schemas.")
        return [schema(part) for schema, part in zip(self.schemas, slices)]


@dataclass
class TupleSchema(ListSchema):
    """A tuple, each item with a schema of its own."""

    def __call__(self, values: tuple[Any, ...]) -> tuple[Any, ...]:  # type: ignore[override]
        return tuple(super().__call__(values))


@dataclass
class DictSchema(ListSchema):
    """A dictionary from str, in the order of its sorted keys."""

    keys: list[str]

    @classmethod
    def flatten(cls, obj: Mapping[str, Any]) -> tuple[tuple[Any, ...], DictSchema]:
        if not all(isinstance(key, str) for key in obj):
            raise KeyError("Only support flattening dictionaries if keys are str.")
        keys = sorted(obj)
        values, schema = ListSchema.flatten([obj[key] for key in keys])
        return values, cls(schema.schemas, schema.sizes, keys)

    def __call__(self, values: tuple[Any, ...]) -> Any:
        return dict(zip(self.keys, super().__call__(values)))


@dataclass
class InstancesSchema(DictSchema):
    """`Instances`: the fields by sorted names, then the image size as a tensor."""

    @classmethod
    def flatten(cls, obj: Instances) -> tuple[tuple[Any, ...], InstancesSchema]:
        values, schema = super().flatten(obj.get_fields())
        size = obj.image_size
        if not isinstance(size, Tensor):
            # Sides that are traced tensors have to stay variables.
            size = torch.stack([torch.as_tensor(side) for side in size])
        return (*values, size), cls(schema.schemas, schema.sizes, schema.keys)

    def __call__(self, values: tuple[Any, ...]) -> Instances:
        *fields, image_size = values
        return Instances(image_size, **super().__call__(tuple(fields)))


@dataclass
class TensorWrapSchema(Schema):
    """An object that is built from one tensor, its attribute `tensor`."""

    class_name: str

    @classmethod
    def flatten(cls, obj: Any) -> tuple[tuple[Any, ...], TensorWrapSchema]:
        return (obj.tensor,), cls(_convert_target_to_string(type(obj)))

    def __call__(self, values: tuple[Any, ...]) -> Any:
        (tensor,) = values
        return locate(self.class_name)(tensor)


@dataclass
class IdentitySchema(Schema):
    """Anything else: one leaf."""

    @classmethod
    def flatten(cls, obj: Any) -> tuple[tuple[Any, ...], IdentitySchema]:
        return (obj,), cls()

    def __call__(self, values: tuple[Any, ...]) -> Any:
        (value,) = values
        return value


_SCHEMAS: tuple[tuple[tuple[type, ...], type[Schema]], ...] = (
    ((str, bytes), IdentitySchema),
    ((list,), ListSchema),
    ((tuple,), TupleSchema),
    ((Mapping,), DictSchema),
    ((Instances,), InstancesSchema),
    ((Boxes, ROIMasks), TensorWrapSchema),
)


def flatten_to_tuple(obj: Any) -> tuple[tuple[Any, ...], Schema]:
    """The leaves of nested lists, tuples, dictionaries, Instances and Boxes, and their schema.

    ``schema(leaves)`` is an object equal to `obj`. Everything else is one leaf.
    """
    for types, schema in _SCHEMAS:
        if isinstance(obj, types):
            return schema.flatten(obj)
    return IdentitySchema.flatten(obj)


class TracingAdapter(nn.Module):
    """A model that takes and returns flat tuples of tensors, as tracers and converters need.

    While it runs, the ops are plain PyTorch and everything that depends on the size of a tensor
    stays a variable, so that ``torch.jit.trace(adapter, adapter.flattened_inputs)`` holds for
    images of other sizes and for other numbers of detections.

    Attributes:
        flattened_inputs: leaves of `inputs`, for the tracer.
        inputs_schema: rebuilds inputs; None with `allow_non_tensor`.
        outputs_schema: rebuilds outputs; filled by the first call.
    """

    flattened_inputs: tuple[Tensor, ...] | None = None
    inputs_schema: Schema | None = None
    outputs_schema: Schema | None = None

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        inference_func: Callable[..., Any] | None = None,
        allow_non_tensor: bool = False,
    ) -> None:
        """
        Args:
            inputs: an argument, or a tuple of all arguments of `inference_func` but the first.
            inference_func: called as ``inference_func(model, *inputs)``; by default the model
                itself is called.
            allow_non_tensor: leave out what is no tensor. The adapter then takes only
                `flattened_inputs`, since nothing else could be completed.

        Raises:
            ValueError: an input is no tensor.
        """
        super().__init__()
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        self.model = model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.inference_func = inference_func or _call_model
        self.allow_non_tensor = allow_non_tensor
        leaves, schema = flatten_to_tuple(self.inputs)
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if not others:
            self.inputs_schema = schema
        elif not allow_non_tensor:
            raise ValueError(
                f"Inputs for tracing must only contain tensors. Got {type(others[0]).__name__} "
                "instead."
            )
        self.flattened_inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """Leaves of the outputs from leaves of the inputs.

        Raises:
            ValueError: an output is no tensor, or other tensors than those of the construction
                were given to an adapter without a schema of its inputs.
            AssertionError: the structure of the outputs is not that of the call before.
        """
        with torch.no_grad(), patch_builtin_len(), traceable_model():
            outputs = self.inference_func(self.model, *self._structured(args))
            leaves, schema = flatten_to_tuple(outputs)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        if len(tensors) < len(leaves):
            if not self.allow_non_tensor:
                raise ValueError(
                    "Model cannot be traced because some model outputs cannot flatten to tensors."
                )
            return tensors
        if self.outputs_schema is None:
            self.outputs_schema = schema
        elif self.outputs_schema != schema:
            raise AssertionError(
                "Model should always return outputs with the same structure so it can be traced!"
            )
        return tensors

    def _structured(self, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        if self.inputs_schema is not None:
            return self.inputs_schema(args)
        assert self.flattened_inputs is not None
        if len(args) != len(self.flattened_inputs) or any(
            given is not known for given, known in zip(args, self.flattened_inputs)
        ):
            raise ValueError(
                "TracingAdapter does not contain valid inputs_schema. So it cannot generalize to "
                "other inputs and must be traced with `.flattened_inputs`."
            )
        return self.inputs

    def _create_wrapper(self, traced_model: Callable[..., Any]) -> Callable[..., Any]:
        """A function with the inputs and outputs of `inference_func`, without its model."""

        def run(*inputs: Any) -> Any:
            leaves, _ = flatten_to_tuple(inputs)
            flat = traced_model(*leaves)
            assert self.outputs_schema is not None, "the adapter has not been traced"
            return self.outputs_schema(tuple(flat) if isinstance(flat, (list, tuple)) else (flat,))

        return run


def _call_model(model: nn.Module, *inputs: Any) -> Any:
    return model(*inputs)
