"""What can be wrong with one sample of a dataset.

The training loader puts samples that raise these errors aside and goes on
(`detectron2.data.common.Quarantine`); everything else is an error of the program and ends it.
"""

from __future__ import annotations

__all__ = ["MissingEntryError", "SampleError", "SizeMismatchError", "UnreadableImageError"]


class SampleError(ValueError):
    """A sample cannot be used: its annotations contradict themselves or the image."""


class MissingEntryError(SampleError, KeyError):
    """An annotation lacks an entry that it must have."""

    # Of KeyError it would be the representation of the sentence.
    __str__ = Exception.__str__


class SizeMismatchError(SampleError):
    """The image does not have the size that the dataset says."""


class UnreadableImageError(SampleError, OSError):
    """A file that should be an image cannot be decoded."""
