import pytest
import torch

from detectron2 import _C


def test_convention_the_old_extension_can_be_imported_and_asked():
    assert _C.get_compiler_version().startswith("Numba ")
    assert _C.has_cuda() is (torch.version.cuda is not None)
    assert _C.get_cuda_version() == (torch.version.cuda or "not available")


def test_its_operators_name_their_replacement():
    with pytest.raises(AttributeError, match="'nms_rotated'.*detectron2.layers"):
        _C.nms_rotated  # noqa: B018
