"""TorchScript files, run by PyTorch."""

import warnings

import numpy as np
import torch

INFO_NAME = "detectron2.json"


class Runtime:
    """A TorchScript file; `device` as PyTorch names it."""

    def __init__(self, path: str, device: str = "cpu") -> None:
        files = {INFO_NAME: ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.load. is deprecated")
            self.module = torch.jit.load(path, map_location=device, _extra_files=files).eval()
        info = files[INFO_NAME]
        self.info = info.decode() if isinstance(info, bytes) else info
        self.device = device

    @torch.no_grad()
    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        outputs = self.module(*(torch.from_numpy(each).to(self.device) for each in inputs))
        return [output.cpu().numpy() for output in outputs]
