"""What an exported file says about itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from detectron2.data.catalog import Metadata

__all__ = ["FILE_VERSION", "ExportInfo", "weights_hash"]

# Raised when files of an older version can no longer be read correctly.
FILE_VERSION = 1


@dataclass
class ExportInfo:
    """Stored as JSON inside of every exported file, and used by whoever loads it.

    Attributes:
        format: such as "onnx".
        architecture: class of the model.
        outputs: names of the outputs, in order.
        input_format: "BGR" or "RGB", the order of channels that the file takes.
        shortest_edge, longest_edge: images are resized as `ResizeShortestEdge` does with these
            numbers; None leaves them as they are.
        batch: number of images in a call; None for any.
        image_size: (H, W) that images are padded to; None for any.
        size_divisibility: height and width that the network pads to are multiples of it.
        side_multiple: sides of a batch have to be multiples of it.
        side_above: one side of a batch has to be longer than this.
        square_size: or this square, if above 0.
        num_classes: of detections; 0 if there are none.
        rotated: boxes have five numbers.
        score_threshold, max_detections: what limits the detections of an image.
        panoptic: thresholds of the merging of instances and stuff, for a panoptic model.
        classes: names and colours, see `detectron2.data.metadata_file`.
        weights_sha256: of the model's parameters and buffers.
        detectron2, torch: versions that wrote the file.
        pixel_mean, pixel_std: of each channel, if the caller of the file normalises; empty if the
            file does.
        postprocess: "in" if the file scales its results to the image and pastes masks, which takes
            a third input, the sizes that results are wanted for; else "out".
        tolerance: what the proof allowed, by output.
        int8_images: number of images that 8-bit integers were calibrated on; 0 for a float file.
        contents: of a .pt2 file, whether it is compiled.
        version: of this description.
    """

    format: str
    architecture: str
    outputs: list[str]
    input_format: str = "BGR"
    shortest_edge: int | None = None
    longest_edge: int | None = None
    batch: int | None = None
    image_size: list[int] | None = None
    size_divisibility: int = 1
    side_multiple: int = 1
    side_above: int = 0
    square_size: int = 0
    num_classes: int = 0
    rotated: bool = False
    score_threshold: float | None = None
    max_detections: int | None = None
    panoptic: dict[str, float] | None = None
    classes: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    detectron2: str = ""
    torch: str = ""
    tolerance: dict[str, float] = field(default_factory=dict)
    pixel_mean: list[float] = field(default_factory=list)
    pixel_std: list[float] = field(default_factory=list)
    postprocess: str = "out"
    int8_images: int = 0
    contents: str = ""
    version: int = FILE_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, path: str) -> ExportInfo:
        """The description in an exported file.

        Raises:
            ValueError: there is none, or it is of another version.
        """
        try:
            content = json.loads(text)
            version = content["version"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path!r} was not written by detectron2's exporter, or it is incomplete: it "
                "has no description of the model. Export the model again."
            ) from None
        if version != FILE_VERSION:
            raise ValueError(
                f"{path!r} is of version {version} (detectron2 {content.get('detectron2')}); this "
                f"detectron2 reads version {FILE_VERSION}. Export the model again."
            )
        known = {each.name for each in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})

    def metadata(self) -> Metadata:
        """Names and colours of the classes, as visualizers take them."""
        return Metadata(name="exported model", **self.classes)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of everything in the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
