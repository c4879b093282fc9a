"""Reading the input dictionaries that every whole model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.structures import ImageList, Instances
from detectron2.structures._transfer import on_device

InputDict = dict[str, Any]


def pixel_statistics(pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> list[Tensor]:
    """Mean and standard deviation of each channel as two (C, 1, 1) float tensors."""
    if len(pixel_mean) != len(pixel_std):
        raise ValueError(
            f"PIXEL_MEAN has {len(pixel_mean)} channels and PIXEL_STD {len(pixel_std)}; "
            "give one number for each channel of INPUT.FORMAT."
        )
    return [torch.tensor(list(values)).view(-1, 1, 1) for values in (pixel_mean, pixel_std)]


def batch_for_backbone(tensors: list[Tensor], backbone: nn.Module, pad_value: float) -> ImageList:
    """Images (or label maps) of a batch, padded at the right and bottom as `backbone` asks."""
    return ImageList.from_tensors(
        tensors,
        backbone.size_divisibility,
        pad_value=pad_value,
        padding_constraints=backbone.padding_constraints,
    )


def ground_truth(batched_inputs: list[InputDict], device: torch.device) -> list[Instances] | None:
    """Annotated instances of each image, or None if the batch has none."""
    if "instances" not in batched_inputs[0]:
        return None
    return [on_device(x["instances"], device) for x in batched_inputs]


def given_proposals(batched_inputs: list[InputDict], device: torch.device) -> list[Instances]:
    """Proposals that the data loader read from a file."""
    if "proposals" not in batched_inputs[0]:
        raise ValueError(
            "The model has no proposal generator and the input no 'proposals': set "
            "MODEL.LOAD_PROPOSALS and a DATASETS.PROPOSAL_FILES_* entry, or choose a "
            "MODEL.PROPOSAL_GENERATOR.NAME."
        )
    return [on_device(x["proposals"], device) for x in batched_inputs]


def output_size(input_dict: InputDict, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) the results are wanted for; that of the network's input by default."""
    return input_dict.get("height", image_size[0]), input_dict.get("width", image_size[1])
