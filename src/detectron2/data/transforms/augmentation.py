"""Augmentations: policies that look at an input, draw random numbers and make a ``Transform``.

Random numbers come from NumPy's global generator, so ``np.random.seed`` (or the seed of a data
loading worker) fixes them.
"""

from __future__ import annotations

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]


class Augmentation:
    """A policy that makes a deterministic transform from (parts of) an input.

    A subclass defines ``get_transform``. The names of its parameters say what it wants to see of
    the `AugInput`: ``def get_transform(self, image, boxes)`` is called with ``aug_input.image``
    and ``aug_input.boxes``. A single parameter is always given the image, whatever its name.
    """

    input_args: tuple[str, ...] | None = None
    """Names of the attributes that ``get_transform`` is called with; None until first used, set
    it to override what the signature says."""

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Store constructor arguments as attributes; call it with ``locals()``."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Draw random numbers and return the transform for this input.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define get_transform().")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform `aug_input` in place and return the transform that was used."""
        transform = self.get_transform(*_get_aug_input_args(self, aug_input))
        if not isinstance(transform, (Transform, TransformList)):
            raise TypeError(
                f"{type(self).__name__}.get_transform() must return a Transform, "
                f"got {type(transform).__name__}."
            )
        aug_input.transform(transform)
        return transform

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: int | None = None
    ) -> Any:
        """Uniform numbers in [low, high), or in [0, low) if only one bound is given."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, size or [])

    def __repr__(self) -> str:
        """``MyAugmentation(field=value, ...)`` without the fields that were left at default."""
        shown = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():  # type: ignore[misc]
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if variadic or not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is parameter.default:
                continue
            text = pprint.pformat(value)
            shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


def _get_aug_input_args(aug: Augmentation, aug_input: AugInput) -> list[Any]:
    """What `aug` wants to see of `aug_input`, in the order of its ``get_transform``.

    Raises:
        TypeError: ``get_transform`` takes ``*args``, so nobody knows what it wants.
        AttributeError: the input has no such attribute.
    """
    if aug.input_args is None:
        parameters = list(inspect.signature(aug.get_transform).parameters.values())
        if len(parameters) == 1 and parameters[0].kind != inspect.Parameter.VAR_POSITIONAL:
            names = ("image",)
        else:
            for parameter in parameters:
                if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    raise TypeError(
                        f"{type(aug).__name__}.get_transform() takes {parameter}; name its "
                        "arguments, or set input_args to the attributes it wants to see."
                    )
            names = tuple(parameter.name for parameter in parameters)
        aug.input_args = names
    for name in aug.input_args:
        if not hasattr(aug_input, name):
            raise AttributeError(
                f"{type(aug).__name__}.get_transform() wants {name!r}, which the "
                f"{type(aug_input).__name__} does not have; set it before augmenting."
            )
    return [getattr(aug_input, name) for name in aug.input_args]


class _TransformToAug(Augmentation):
    """An augmentation that always uses the same transform."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    input_args = ()

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _transform_to_aug(tfm_or_aug: Transform | Augmentation) -> Augmentation:
    """An augmentation as it is; a transform as an augmentation that always uses it.

    Raises:
        TypeError: neither of the two.
    """
    if isinstance(tfm_or_aug, Augmentation):
        return tfm_or_aug
    if isinstance(tfm_or_aug, Transform):
        return _TransformToAug(tfm_or_aug)
    raise TypeError(f"Expected a Transform or an Augmentation, got {tfm_or_aug!r}.")


class AugmentationList(Augmentation):
    """Augmentations one after the other; each sees the input as the one before left it."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        super().__init__()
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(str(aug) for aug in self.augs)}]"

    __str__ = __repr__


class AugInput:
    """What augmentations look at and change.

    Attributes may be added freely; an augmentation sees them by the parameter names of its
    ``get_transform``. Only the three below are changed by `transform`.

    Attributes:
        image: (H, W) or (H, W, C), uint8 in [0, 255] or floats.
        boxes: (N, 4) floating-point xyxy in pixels of `image`, or None.
        sem_seg: (H, W) of uint8 labels, or None.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        _check_image(image)
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply `tfm` to every attribute, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Augment in place with each in turn and return the transforms that were used."""
        return AugmentationList(augmentations)(self)


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"An image must be a NumPy array, got {type(image).__name__}.")
    if image.ndim not in (2, 3):
        raise ValueError(f"An image must be (H, W) or (H, W, C), got shape {image.shape}.")
    if image.dtype.kind not in "fiu" or (image.dtype.kind in "iu" and image.dtype != np.uint8):
        raise ValueError(f"An image must be uint8 or floating-point, got {image.dtype}.")


def apply_augmentations(
    augmentations: Sequence[Transform | Augmentation], inputs: np.ndarray | AugInput
) -> tuple[np.ndarray | AugInput, TransformList]:
    """Augment an image, or an `AugInput` in place.

    Returns:
        What was put in, augmented: an image for an image, the `AugInput` for an `AugInput`; and
        the transforms that were used.
    """
    if isinstance(inputs, np.ndarray):
        aug_input = AugInput(inputs)
        transforms = aug_input.apply_augmentations(augmentations)
        return aug_input.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# Names from before version 0.2, still used by many projects.
StandardAugInput = AugInput
TransformGen = Augmentation
apply_transform_gens = apply_augmentations
