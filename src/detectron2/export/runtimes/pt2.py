"""Files of `torch.export` and AOTInductor, run by PyTorch."""

import importlib
import importlib.util
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

INFO_NAME = "detectron2"


def in_units(images: torch.Tensor, unit: int) -> torch.Tensor:
    """(N, C, H / unit, unit, W / unit, unit) view of (N, C, H, W) images; themselves for 1."""
    if unit == 1:
        return images
    return images.unflatten(3, (-1, unit)).unflatten(2, (-1, unit))


class Runtime:
    """A .pt2 file; `device` is the one that it was exported for."""

    def __init__(self, path: str, device: str = "cpu") -> None:
        files = {INFO_NAME: ""}
        with zipfile.ZipFile(path) as archive:
            compiled = any("/aotinductor/" in name for name in archive.namelist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's about itself
            if compiled:
                from torch._inductor import aoti_load_package

                self.module = aoti_load_package(str(path))
                self.info = self.module.get_metadata().get(INFO_NAME, "")
            else:
                # Defines the operations that round to 8 bits.
                importlib.import_module("torch.ao.quantization.fx._decomposed")
                self.module = torch.export.load(str(path), extra_files=files).module()
                self.info = files[INFO_NAME]
                integers = _module_beside("x86_integers")
                if device == "cpu" and integers.can_compute_integers():
                    integers.use_integer_kernels(self.module)
        self.device = device
        # A file whose sides are fixed, or may be any, says 1.
        self.unit = json.loads(self.info).get("side_multiple", 1) if self.info else 1

    @torch.no_grad()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        batch = in_units(torch.from_numpy(images).to(self.device), self.unit)
        outputs = self.module(batch, torch.from_numpy(image_sizes).to(self.device))
        return [output.cpu().numpy() for output in outputs]


def _module_beside(name: str) -> Any:
    """A module of this folder; without the package, which a fresh process does not import."""
    spec: Any = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
