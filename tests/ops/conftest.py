"""Every contract test runs once per kernel implementation.

Ordinarily that is Numba. `test_gpu_kernels.py` starts a second pytest process in which it is
Triton: on a GPU if there is one, else on CPU tensors in Triton's interpreter, which has to be
switched on before Triton is imported.
"""

import pytest
import torch
from ops_contract import KERNEL, Kernel

# The interpreter takes a tenth of a second per box: there, a few of the ugly cases must do.
COUNTS = [0, 7] if KERNEL.is_interpreted else [0, 1, 7, 1000]
DTYPES = [torch.float32, torch.bfloat16]
if not KERNEL.is_interpreted:
    DTYPES += [torch.float64, torch.float16]
MEMORIES = ["channels_last", "strided"]
if not KERNEL.is_interpreted:
    MEMORIES += ["contiguous"]


@pytest.fixture(params=[KERNEL], ids=lambda kernel: f"kernel_{kernel.implementation}")
def kernel(request) -> Kernel:
    return request.param


@pytest.fixture(params=COUNTS)
def count(request) -> int:
    """Ugly numbers of boxes."""
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=MEMORIES)
def memory(request) -> str:
    """Memory layout of feature maps; see `ops_contract.laid_out`."""
    return request.param


# The dearest cases: other tests have shown both layouts and alignments to the interpreter.
@pytest.fixture(params=MEMORIES[-1:] if KERNEL.is_hurried else MEMORIES)
def memory_of_dear_cases(request) -> str:
    return request.param


@pytest.fixture(params=[True] if KERNEL.is_hurried else [True, False])
def aligned_of_odd_boxes(request) -> bool:
    return request.param
