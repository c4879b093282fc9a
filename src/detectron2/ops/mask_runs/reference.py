"""Run lengths of pasted masks, the long way: draw, flatten, count, write."""

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.paste_masks.reference import paste

__all__ = ["compressed", "mask_runs_reference", "run_lengths"]


def run_lengths(bits: np.ndarray) -> list[int]:
    """Lengths of the runs of a (P,) bool array, zeros first: [0, ...] if it begins with a one."""
    changes = np.flatnonzero(np.diff(bits, prepend=False))
    return np.diff(changes, prepend=0, append=len(bits)).tolist()


def compressed(runs: list[int]) -> bytes:
    """COCO's text of run lengths.

    From the fourth on, a length is written as its difference to the one before last. A number
    goes into groups of five bits, lowest first, plus one bit that says whether another follows.
    """
    text = bytearray()
    for position, length in enumerate(runs):
        rest = length - runs[position - 2] if position > 2 else length
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)  # until only copies of the sign are left
            text.append(48 + (group | (32 if more else 0)))
    return bytes(text)


def mask_runs_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) uint8 texts one after the other, (N,) where each ends, (N,) areas."""
    texts, areas = [], []
    for mask, box in zip(masks, boxes):
        pasted = paste(mask[None], box[None], height, width, threshold)[0]
        texts.append(compressed(run_lengths(pasted.T.flatten().numpy())))
        areas.append(int(pasted.sum()))
    ends = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    characters = np.frombuffer(b"".join(texts), dtype=np.uint8).copy()
    return torch.from_numpy(characters), ends, torch.tensor(areas, dtype=torch.int64)
