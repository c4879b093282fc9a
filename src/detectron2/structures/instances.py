"""What is known about the objects of one image."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.structures._rows import selected_rows

__all__ = ["Instances"]


class Instances:
    """N objects of one image, as fields of length N.

    A field is anything with a length and rows: a tensor whose first dimension is N, a list, a
    `Boxes`, masks, keypoints. Fields are attributes::

        found = Instances((480, 640), scores=torch.tensor([0.9, 0.4]))
        found.pred_boxes = Boxes(corners)
        confident = found[found.scores > 0.5]  # every field is selected

    Args:
        image_size: (height, width) of the image, in pixels.
        **kwargs: fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Asked only for what is no ordinary attribute; "_fields" itself is missing while an
        # object is being unpickled.
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(
                f"These Instances have no field {name!r}; they have {sorted(fields)}."
            )
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: its length is not that of the other fields.
        """
        if self._fields:
            count = len(self)
            if len(value) != count:
                raise AssertionError(
                    f"Field {name!r} has length {len(value)}, but there are {count} instances."
                )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is a field of this name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field.

        Raises:
            KeyError: there is none of this name.
        """
        del self._fields[name]

    def get(self, name: str) -> Any:
        """The value of a field.

        Raises:
            KeyError: there is none of this name.
        """
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields by name; the dictionary itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Every field that has a ``to`` moved or converted by it, the others as they are."""
        moved = {
            name: value.to(*args, **kwargs) if hasattr(value, "to") else value
            for name, value in self._fields.items()
        }
        return self._with_fields(moved)

    def __getitem__(self, item: Any) -> "Instances":
        """Some of the instances.

        Args:
            item: an integer (which gives Instances of length 1), a slice, or a list, array or
                tensor of indices or of N truth values.

        Raises:
            IndexError: an integer outside of the N instances, or not N truth values.
        """
        if isinstance(item, (int, np.integer)):
            item = self._row(int(item))
        elif isinstance(item, torch.Tensor) and item.dtype == torch.bool:
            item = self._rows_of_mask(item)
        return self._with_fields(
            {name: _select(value, item) for name, value in self._fields.items()}
        )

    def _row(self, index: int) -> slice:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"Index {index} is out of range: there are {count} instances.")
        return slice(index % count, index % count + 1)

    def _rows_of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        # Found once for all fields: on a GPU the host has to wait for the number of rows.
        if self._fields and mask.shape != (len(self),):
            raise IndexError(
                f"A mask of shape {tuple(mask.shape)} does not fit {len(self)} instances."
            )
        return mask.nonzero()[:, 0]

    def _with_fields(self, fields: dict[str, Any]) -> "Instances":
        """Instances of the same image; the lengths of `fields` agree because ours do."""
        other = Instances(self._image_size)
        other._fields = fields
        return other

    def __len__(self) -> int:
        """The number of instances.

        Raises:
            NotImplementedError: there is no field to tell it.
        """
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without any field have no length.")

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(
            "Instances cannot be iterated over; use `for i in range(len(x)): x[i]`, or iterate "
            "over one field."
        )

    @staticmethod
    def cat(instance_lists: Sequence["Instances"]) -> "Instances":
        """All instances of several `Instances` of the same image, in order.

        Tensors and lists are concatenated; other fields by their own ``cat``.

        Raises:
            AssertionError: the sequence is empty, or image sizes differ.
            KeyError: a field of the first is missing in another.
            ValueError: a field can be concatenated in none of these ways.
        """
        if len(instance_lists) == 0:
            raise AssertionError("Instances.cat needs at least one Instances.")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(instances.image_size) for instances in instance_lists}
        if len(sizes) > 1:
            raise AssertionError(f"Instances of images of different sizes: {sorted(sizes)}.")
        return first._with_fields(
            {
                name: _concatenate(name, [instances.get(name) for instances in instance_lists])
                for name in first.get_fields()
            }
        )

    def __str__(self) -> str:
        count = len(self) if self._fields else 0
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"{type(self).__name__}(num_instances={count}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )

    __repr__ = __str__


def _select(value: Any, item: Any) -> Any:
    """Rows of one field; lists take the same indices that tensors take."""
    if not isinstance(value, (list, tuple)) or isinstance(item, slice):
        return value[item]
    return type(value)(value[row] for row in selected_rows(item, len(value)))


def _concatenate(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(values)
    if isinstance(first, list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise ValueError(
        f"Field {name!r} holds {type(first).__name__}, which is no tensor, no list and has no "
        "static method `cat`."
    )
