"""Source of a class with the fields of one kind of `Instances`, for TorchScript to read."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["instances_source"]

_HEAD = '''\
"""Written by detectron2.export.torchscript_patch.patch_instances."""
import copy
from typing import *

import torch
from torch import Tensor

{imports}


class {name}:
    def __init__(self, image_size: Tuple[int, int]{parameters}):
        self.image_size = image_size
{assignments}

    def __len__(self) -> int:
{lengths}
        raise NotImplementedError("Instances without any field have no length.")

    def has(self, name: str) -> bool:
{presence}
        return False

    def to(self, device: torch.device) -> "{name}":
        moved = {name}(self.image_size{unset})
{moves}
        return moved

    def __getitem__(self, item: Tensor) -> "{name}":
        chosen = {name}(self.image_size{unset})
{selections}
        return chosen

    def cat(self, instances: List["{name}"]) -> "{name}":
        joined = {name}(instances[0].image_size{unset})
{concatenations}
        return joined

    def get_fields(self) -> Dict[str, Tensor]:
        fields: Dict[str, Tensor] = {{}}
{values}
        return fields
'''

_PROPERTY = """
    @property
    def {field}(self) -> {type}:
        value = self._{field}
        assert value is not None, "These Instances have no field {field!r}."
        return value

    @{field}.setter
    def {field}(self, value: {type}) -> None:
        self._{field} = value
"""

_LENGTH = """\
{field} = self._{field}
if {field} is not None:
    return len({field})
"""

_PRESENCE = """\
if name == "{field}":
    return self._{field} is not None
"""

_MOVE = """\
{field} = self._{field}
if {field} is not None:
    moved._{field} = {field}{to}
"""

_SELECTION = """\
{field} = self._{field}
if {field} is not None:
    chosen._{field} = {field}[item]
"""

_CONCATENATION = """\
if instances[0]._{field} is not None:
    joined._{field} = {make}(torch.cat([x.{field}{tensor} for x in instances]))
"""

_VALUE = """\
{field} = self._{field}
if {field} is not None:
    fields["{field}"] = {field}{tensor}
"""

_NO_VALUE = """\
assert self._{field} is None, "get_fields() has no tensor for {field!r}."
"""

_FROM_INSTANCES = '''

def from_instances(instances):
    """Instances of this class with copies of the fields of ordinary ones."""
    result = {name}(tuple(int(side) for side in instances.image_size))
    for field, value in instances.get_fields().items():
        if not hasattr({name}, field):
            raise AttributeError(f"The class for scripting has no field {{field!r}}.")
        setattr(result, field, copy.deepcopy(value))
    return result
'''


def instances_source(name: str, fields: Mapping[str, Any]) -> str:
    """Python source of the class `name`; `fields` as in `patch_instances`."""
    types = {field: _annotation(kind) for field, kind in fields.items()}
    tensors = [field for field, kind in fields.items() if kind is Tensor]
    boxes = [field for field, kind in fields.items() if kind in (Boxes, RotatedBoxes)]
    single = [*tensors, *boxes]
    used = {kind for each in fields.values() for kind in _classes(each)}
    values = _each(_VALUE, tensors, tensor="") + _each(_VALUE, boxes, tensor=".tensor")
    values += _each(_NO_VALUE, [field for field in fields if field not in single])
    moves = _each(_MOVE, single, to=".to(device)")
    moves += _each(_MOVE, [field for field in fields if field not in single], to="")
    concatenations = _each(_CONCATENATION, tensors, make="", tensor="")
    for field in boxes:
        concatenations += _each(_CONCATENATION, [field], make=types[field], tensor=".tensor")
    source = _HEAD.format(
        name=name,
        unset=", None" * len(types),
        imports="\n".join(
            f"from {k.__module__} import {k.__qualname__}" for k in sorted(used, key=str)
        ),
        parameters="".join(f", {f}: Optional[{t}] = None" for f, t in types.items()),
        assignments=_body("".join(f"self._{f} = {f}\n" for f in types)),
        lengths=_body(_each(_LENGTH, types)),
        presence=_body(_each(_PRESENCE, types)),
        moves=_body(moves),
        selections=_body(_each(_SELECTION, single)),
        concatenations=_body(concatenations),
        values=_body(values),
    )
    for field, kind in types.items():
        source += _PROPERTY.format(field=field, type=kind)
    return source + _FROM_INSTANCES.format(name=name)


def _each(template: str, fields: typing.Iterable[str], **parts: str) -> str:
    return "".join(template.format(field=field, **parts) for field in fields)


def _body(statements: str) -> str:
    return textwrap.indent(statements, " " * 8).rstrip()


def _annotation(kind: Any) -> str:
    """A type as it is written in the generated source."""
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__qualname__
    text = str(kind).replace("typing.", "")
    for cls in _classes(kind):
        text = text.replace(f"{cls.__module__}.{cls.__qualname__}", cls.__qualname__)
    return text


def _classes(kind: Any) -> Iterator[type]:
    """Classes that an annotation mentions, which the source has to import."""
    for argument in typing.get_args(kind):
        yield from _classes(argument)
    if isinstance(kind, type) and kind.__module__ not in ("builtins", "torch"):
        yield kind
