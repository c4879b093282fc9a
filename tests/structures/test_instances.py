import copy
import pickle

import numpy as np
import pytest
import torch

from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks


@pytest.fixture
def instances(device):
    found = Instances((40, 60), scores=torch.arange(5.0, device=device), labels=list("abcde"))
    found.pred_boxes = Boxes(torch.arange(20.0, device=device).reshape(5, 4))
    return found


def test_fields_are_attributes(instances):
    assert instances.labels == list("abcde")
    assert instances.has("scores") and not instances.has("masks")
    assert instances.get("scores") is instances.scores
    assert sorted(instances.get_fields()) == ["labels", "pred_boxes", "scores"]
    instances.remove("scores")
    assert not instances.has("scores")


def test_an_unknown_field_is_an_attribute_error_that_names_the_known_ones(instances):
    with pytest.raises(AttributeError, match=r"no field 'masks'; they have \['labels'"):
        instances.masks  # noqa: B018
    assert not hasattr(instances, "masks")


def test_a_field_of_another_length_is_refused(instances):
    with pytest.raises(AssertionError, match="'ious' has length 3, but there are 5"):
        instances.ious = torch.zeros(3)
    assert not instances.has("ious")


def test_names_with_an_underscore_are_ordinary_attributes(instances):
    instances._source = "camera"
    assert instances._source == "camera"
    assert "_source" not in instances.get_fields()


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (2, "c"),
        (-1, "e"),
        (-5, "a"),
        (np.int64(2), "c"),
        (slice(1, 3), "bc"),
        (slice(None, None, 2), "ace"),
        (slice(5, None), ""),
        (torch.tensor([3, 0, 0]), "daa"),
        (torch.tensor([True, False, True, False, True]), "ace"),
        (torch.zeros(5, dtype=torch.bool), ""),
        ([4, 1], "eb"),
        ([], ""),
        (np.array([4, 1]), "eb"),
    ],
)
def test_an_index_selects_the_same_rows_of_every_field(instances, item, kept):
    selected = instances[item]
    assert "".join(selected.labels) == kept
    assert [int(score) for score in selected.scores] == ["abcde".index(c) for c in kept]
    assert torch.equal(selected.pred_boxes.tensor[:, 0], selected.scores * 4)
    assert selected.image_size == (40, 60)


@pytest.mark.parametrize("item", [5, -6])
def test_an_index_out_of_range_is_an_index_error(instances, item):
    with pytest.raises(IndexError, match=f"Index {item} is out of range: there are 5"):
        instances[item]


@pytest.mark.parametrize("length", [4, 6])
def test_a_mask_of_another_length_is_an_index_error(instances, length):
    with pytest.raises(IndexError, match=rf"mask of shape \({length},\) does not fit 5"):
        instances[torch.ones(length, dtype=torch.bool)]


def test_a_mask_is_evaluated_once_for_all_fields(instances):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        instances[instances.scores > 1]
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::nonzero"] == 1


def test_cat_joins_tensors_lists_and_what_has_cat(instances):
    triangle = [np.array([0.0, 0, 4, 0, 0, 4])]
    instances.masks = PolygonMasks([triangle] * 5)
    instances.bits = BitMasks(torch.zeros(5, 3, 3))
    instances.keypoints = Keypoints(torch.zeros(5, 2, 3))
    joined = Instances.cat([instances, instances[1:2]])
    assert len(joined) == 6
    assert joined.labels == list("abcdeb")
    assert joined.pred_boxes.tensor[5].tolist() == [4, 5, 6, 7]
    assert len(joined.masks) == len(joined.bits) == len(joined.keypoints) == 6


def test_cat_refuses_what_does_not_belong_together(instances):
    other = Instances((1, 1), scores=torch.zeros(1))
    with pytest.raises(AssertionError, match=r"\(1, 1\), \(40, 60\)"):
        Instances.cat([instances, other])
    with pytest.raises(AssertionError, match="at least one"):
        Instances.cat([])
    strange = Instances((4, 4), field=range(3))
    with pytest.raises(ValueError, match="'field' holds range"):
        Instances.cat([strange, strange])


def test_to_moves_what_can_be_moved(instances):
    moved = instances.to("cpu")
    assert moved.labels is instances.labels
    assert moved.pred_boxes.device.type == moved.scores.device.type == "cpu"


def test_length_and_iteration_say_what_is_wrong():
    with pytest.raises(NotImplementedError, match="no length"):
        len(Instances((1, 1)))
    with pytest.raises(NotImplementedError, match="cannot be iterated"):
        iter(Instances((1, 1)))


def test_text_shows_sizes_even_without_fields(instances):
    assert "num_instances=5, image_height=40, image_width=60" in str(instances)
    assert "num_instances=0" in repr(Instances((1, 2)))


def test_copies_are_independent(instances):
    for copied in (copy.deepcopy(instances), pickle.loads(pickle.dumps(instances))):
        assert copied.labels == instances.labels
        copied.scores += 1
        copied.extra = torch.zeros(5)
    assert instances.scores.tolist() == [0, 1, 2, 3, 4]
    assert not instances.has("extra")


def test_instances_without_fields_can_be_selected_from():
    assert Instances((3, 4))[torch.ones(5, dtype=torch.bool)].get_fields() == {}


def test_selecting_does_not_change_the_original(instances):
    part = instances[:2]
    part.extra = [1, 2]
    assert not instances.has("extra")
