import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from detectron2.layers import wrappers
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
    _selected_polygons,
)
from detectron2.structures._cropped_masks import CroppedBitMasks
from detectron2.structures._selected_polygons import SelectedPolygonMasks, crop_masks, read_ahead
from detectron2.structures._transfer import on_device
from detectron2.utils._deferred import fetch_ahead
from host_waits import FAR, host_waits

TRIANGLES = [[np.array([0, 0, 9, 0, 9, 9.0])], [np.array([1, 1, 5, 1, 1, 6.0])], []]
BOXES = torch.tensor([[0.0, 0, 9, 9], [2, 0, 8, 5], [1, 1, 4, 7], [0, 2, 9, 4]])


class Foreign:
    def __init__(self, tensor):
        self.tensor = tensor

    def __len__(self):
        return len(self.tensor)

    def to(self, device):
        return Foreign(self.tensor.to(device))


def test_a_batch_goes_to_a_device_without_waiting():
    boxes, rotated = torch.rand(3, 4), torch.rand(3, 5)
    instances = Instances((8, 8), gt_boxes=Boxes(boxes), gt_rotated=RotatedBoxes(rotated))
    instances.gt_masks = BitMasks(torch.rand(3, 8, 8) > 0.5)
    instances.gt_keypoints = Keypoints(torch.rand(3, 2, 3))
    instances.gt_polygons = PolygonMasks(TRIANGLES)
    instances.names = ["a", "b", "c"]
    batch = [{"image": torch.rand(3, 8, 8), "instances": instances, "file_name": "x.jpg"}]
    with host_waits() as waits:
        (moved,) = on_device(batch, FAR)
        assert waits == []
        fields = moved["instances"].get_fields()
        assert moved["image"].device == FAR and moved["file_name"] == "x.jpg"
        for name in ("gt_boxes", "gt_rotated", "gt_masks", "gt_keypoints"):
            assert fields[name].tensor.device == FAR, name
            assert type(fields[name]) is type(instances.get(name))
            assert torch.equal(fields[name].tensor.cpu(), instances.get(name).tensor)
        assert fields["gt_polygons"] is instances.gt_polygons and fields["names"] == ["a", "b", "c"]


def test_a_copy_for_a_stream_of_its_own_lists_the_tensors_and_leaves_what_it_does_not_know():
    instances = Instances((9, 9), gt_boxes=Boxes(torch.rand(3, 4)), extra=Foreign(torch.rand(3)))
    instances.gt_masks = CroppedBitMasks.of_polygons(PolygonMasks(TRIANGLES), 9, 9)
    instances.gt_classes = torch.arange(3)
    with host_waits() as waits:
        copies = []
        moved = on_device(instances, FAR, copies)
        assert waits == [] and len(copies) == 3
        assert moved.extra is instances.extra
        assert moved.gt_boxes.device == moved.gt_masks.device == FAR
        assert type(moved.gt_masks) is CroppedBitMasks
        assert torch.equal(moved.gt_masks.tensor.cpu(), instances.gt_masks.tensor)


def test_what_others_define_is_moved_by_its_own_method():
    with host_waits():
        moved = on_device(Instances((8, 8), extra=Foreign(torch.rand(2))), FAR)
        assert isinstance(moved.extra, Foreign) and moved.extra.tensor.device == FAR


def test_a_tensor_comes_back_to_the_host_complete():
    with host_waits() as waits:
        far = on_device(torch.arange(3), FAR)
        assert on_device(far, "cpu").tolist() == [0, 1, 2]
    assert len(waits) == 1


def test_polygons_chosen_on_a_device_are_read_once_for_all_images():
    masks = PolygonMasks(TRIANGLES)
    expected = masks[torch.tensor([0, 1, 1, 2])].crop_and_resize(BOXES, 7)
    with host_waits() as waits:
        first = masks[on_device(torch.tensor([2, 0, 1]), FAR)]
        first = first[on_device(torch.tensor([1, 2]), FAR)]
        second = masks[on_device(torch.tensor([1, 2]), FAR)]
        assert isinstance(first, PolygonMasks) and len(first) == 2 and waits == []
        boxes = on_device(BOXES, FAR)
        crops = crop_masks([first, second], [boxes[:2], boxes[2:]], 7)
        assert len(waits) == 1
        assert torch.equal(torch.cat(crops).cpu(), expected)
        assert torch.equal(second.crop_and_resize(boxes[2:], 7).cpu(), expected[2:])


class Event:
    """Of a GPU's stream: the copy before it is there when somebody has waited for it."""

    def __init__(self):
        self.waited_for = 0

    def record_event(self):
        return self

    def synchronize(self):
        self.waited_for += 1


def test_polygons_that_are_read_ahead_wait_for_their_copy_alone(monkeypatch):
    event = Event()
    cuda = SimpleNamespace(current_stream=lambda device: event)
    monkeypatch.setattr(_selected_polygons, "fetch_ahead", partial(fetch_ahead, cuda=cuda))
    masks = PolygonMasks(TRIANGLES)
    expected = masks[torch.tensor([2, 1, 1, 2])].crop_and_resize(BOXES, 7)
    with host_waits() as waits:
        first, second = (masks[on_device(torch.tensor(rows), FAR)] for rows in ([2, 1], [1, 2]))
        boxes = on_device(BOXES, FAR)
        boxes = [boxes[:2], boxes[2:]]
        read_ahead([first, second], boxes)
        assert event.waited_for == 0
        crops = crop_masks([first, second], boxes, 7)
        assert event.waited_for == 1 and waits == []
        assert torch.equal(torch.cat(crops).cpu(), expected)
        assert copy.deepcopy(first)._ahead is None and first._ahead is not None
        waits.clear()
        boxes[1].add_(0)  # somebody wrote to it
        crop_masks([first, second], boxes, 7), crop_masks([second], [boxes[1].clone()], 7)
        assert event.waited_for == 1 and len(waits) == 2


def test_polygons_that_are_read_ahead_apart_are_those_of_each_image():
    masks = PolygonMasks(TRIANGLES)
    with host_waits():
        first, second = (masks[on_device(torch.tensor(rows), FAR)] for rows in ([2, 1], [0, 0]))
        boxes = [part.clone() for part in on_device(BOXES, FAR).split(2)]
        for of_image, its_boxes in zip((first, second), boxes):
            read_ahead([of_image], [its_boxes])
        crops = torch.cat(crop_masks([first, second], boxes, 7)).cpu()
    assert torch.equal(crops, masks[torch.tensor([2, 1, 0, 0])].crop_and_resize(BOXES, 7))


def test_what_goes_to_a_gpu_goes_through_pinned_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(wrappers, "_reads_pinned_memory", lambda device: device == FAR)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    with host_waits():
        far = on_device([torch.ones(2), Boxes(torch.ones(1, 4))], FAR)
        wrappers.move_device_like(torch.ones(3), far[0])
        wrappers.move_device_like(torch.ones(3, requires_grad=True), far[0])
        on_device(torch.ones(2), "cpu")
    assert [x.shape for x in pinned] == [(2,), (1, 4), (3,)]


def test_polygons_chosen_on_a_device_are_polygons():
    masks = PolygonMasks(TRIANGLES)
    with host_waits():
        chosen = masks[on_device(torch.tensor([1, 0]), FAR)]
        assert isinstance(chosen, SelectedPolygonMasks)
        assert chosen.area().tolist() == [10.0, 40.5]
        assert len(chosen[:1]) == 1 and np.array_equal(chosen[1].polygons[0][0], TRIANGLES[0][0])
        assert len(PolygonMasks.cat([chosen, masks])) == 5
        boxes = on_device(BOXES[:2], FAR)
        expected = masks[[1, 0]].crop_and_resize(BOXES[:2], 5)
        assert torch.equal(chosen.crop_and_resize(boxes, 5).cpu(), expected)
