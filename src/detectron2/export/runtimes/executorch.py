"""ExecuTorch programs, run by the runtime in the package of that name."""

import contextlib
import ctypes
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

INFO_NAME = "detectron2"
# torchao tells of GPU kernels where there is no GPU, and PyTorch of their age.
TALKATIVE = ("torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what ExecuTorch and its libraries say about themselves."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


class Runtime:
    """A .pte file; it runs on the CPU."""

    def __init__(self, path: str, device: str = "cpu") -> None:
        with quiet():
            from executorch.runtime import Runtime, Verification

        if device != "cpu":
            raise ValueError(f"ExecuTorch files run on the CPU, not on {device!r}.")
        # The program refers to the bytes, so they have to live as long.
        with open(path, "rb") as stream:
            self.content = stream.read()
        self.program = Runtime.get().load_program(
            self.content, verification=Verification.InternalConsistency
        )
        self.info = ""
        if INFO_NAME in self.program.method_names:
            (self.info,) = self.program.load_method(INFO_NAME).execute([])
        _load_quantized_kernels()
        self.method = self.program.load_method("forward")

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        outputs = self.method.execute([torch.from_numpy(images), torch.from_numpy(image_sizes)])
        return [output.numpy().copy() for output in outputs]


def _load_quantized_kernels() -> None:
    """Add the kernels that round to 8 bits, which the Python runtime has in a file of its own."""
    import executorch.kernels.quantized as here

    library = Path(here.__file__).parents[2] / "lib" / "libexecutorch_kernels_quantized.so"
    if library.is_file():  # other releases have them built in
        ctypes.CDLL(str(library))
