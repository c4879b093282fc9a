"""The make-believe device of `host_waits` behaves as a GPU does."""

import pytest
import torch
from torch import nn

from detectron2.ops import batched_nms
from host_waits import FAR, host_waits


def operations(waits):
    return [wait.operation for wait in waits]


def test_values_and_sizes_that_the_host_asks_for_are_waits():
    with host_waits() as waits:
        x = torch.arange(6, device=FAR)
        waits.clear()
        assert x.device == FAR and (x + 1).device == FAR and x.new_zeros(2).device == FAR
        assert len(x[x > 2]) == 3
        assert x.max() > 2
        assert x.tolist() == [0, 1, 2, 3, 4, 5] and int(x[3]) == 3
        assert len(x.nonzero()) == 5
        x.cpu().numpy()
    assert operations(waits) == [
        "aten.index by a mask",
        "aten._local_scalar_dense",
        "tolist",
        "aten._local_scalar_dense",
        "aten.nonzero",
        "copy from the device",
    ]
    assert waits[0].lines[0].startswith("test_host_waits.py:")


def test_results_of_known_size_are_no_waits():
    with host_waits() as waits:
        x = torch.rand(6, device=FAR)
        x[x > 0.5] = 1
        x[torch.zeros(2, dtype=torch.int64, device=FAR)] = 2
        x.topk(3), x.sort(), torch.where(x > 0, x, 0), x.sum() * 2, torch.randperm(4, device=FAR)
    assert waits == []


def test_a_copy_to_the_device_waits_unless_it_is_non_blocking():
    with host_waits() as waits:
        torch.ones(3).to(FAR)
        torch.tensor([1.0, 2.0], device=FAR)
        torch.ones(3).to(FAR, non_blocking=True)
    assert operations(waits) == ["copy to the device", "copy of numbers to the device"]


def test_gradients_and_optimizers_run_there_and_equal_those_of_the_cpu():
    def weights(device):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        images = torch.rand(2, 3, 6, 6)
        model.to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model(images.to(device)).square().sum().backward()
        optimizer.step()
        return [parameter.detach().cpu() for parameter in model.parameters()]

    with host_waits():
        far = weights(FAR)
    assert all(torch.equal(a, b) for a, b in zip(far, weights("cpu"), strict=True))


def test_a_boolean_index_waits_again_on_the_way_back():
    with host_waits() as waits:
        x = torch.rand(4, device=FAR).requires_grad_()
        x[x > 0].sum().backward()
    assert operations(waits) == ["aten.index by a mask", "aten.index_put by a mask"]


def test_two_devices_do_not_mix():
    with host_waits(), pytest.raises(RuntimeError, match="two devices"):
        torch.rand(3, device=FAR) + torch.rand(3)


def test_our_suppression_is_one_wait():
    with host_waits() as waits:
        boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9]]).to(FAR)
        scores = torch.tensor([0.9, 0.8, 0.7]).to(FAR)
        classes = torch.zeros(3, dtype=torch.int64, device=FAR)
        waits.clear()
        kept = batched_nms(boxes, scores, classes, 0.5)
        assert operations(waits) == ["detectron2.batched_nms"]
        assert kept.tolist() == [0, 2]
