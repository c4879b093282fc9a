"""Every contract test runs once per kernel implementation.

Ordinarily that is Numba. `test_gpu_kernels.py` starts a second pytest process in which it is
Triton: on a GPU if there is one, else on CPU tensors in Triton's interpreter, which has to be
switched on before Triton is imported.
"""

import re

import hostile_interpreter
import pytest
import torch
from ops_contract import KERNEL, Kernel

if KERNEL.is_interpreted:
    hostile_interpreter.install()
else:
    collect_ignore = ["test_hostile_interpreter.py"]

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


# Cases whose like the interpreter meets in another case, and the registration of ops, which is the
# same for all kernels: with the GPU's, the slow tests run these.
DEAR = re.compile(
    r"test_torch_op_is_registered_correctly"
    r"|test_roi_align(_rotated)?\.py::test_matches_reference\[.*channels_last"
    r"|test_all_levels_in_one_call_match_reference\[.*channels_last"
    r"|test_odd_boxes_match_reference\[.*(channels_last|False|-3)"
    r"|test_a_box_that_dwarfs_the_map_matches_reference\[.*False"
    r"|test_matches_reference_for_any_number_of_channels\[.*-(1|16|33)\]"
    r"|test_matches_reference_in_every_dtype\[.*(float32-strided|bfloat16-channels_last)"
    r"|test_samples_on_the_map_of_a_box_that_is_mostly_off_it"
    r"|test_masks_of_any_size_match_reference\[.*size[12]"
    r"|test_nms_rotated\.py::test_matches_reference\[.*-70-(0\.0|1\.0)"
    r"|test_nms_rotated\.py::test_every_dtype_matches_reference\[.*dtype[023]"
    r"|test_nms\.py::test_matches_reference_in_every_dtype\[.*-0\.6"
    r"|test_rotated_boxes_match_reference\[.*(-0\.0-|-2000)"
    r"|test_paste_masks\.py::test_every_dtype_matches_reference\[.*bfloat16"
)


def pytest_collection_modifyitems(config, items):
    if KERNEL.is_hurried:
        dear = [item for item in items if DEAR.search(item.nodeid)]
        config.hook.pytest_deselected(items=dear)
        items[:] = [item for item in items if item not in set(dear)]
