import numpy as np
import pytest
import torch

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.errors import SampleError
from detectron2.structures import BitMasks, BoxMode, PolygonMasks


def annotation(**changes):
    return {
        "bbox": [10.0, 8.0, 20.0, 22.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        "iscrowd": 0,
        "segmentation": [[10.0, 8, 30, 8, 30, 30, 10, 30]],
        **changes,
    }


def mask_of(box, size=(48, 64)):
    mask = np.zeros(size, dtype=np.uint8)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    return mask


def rle(mask, compressed=True):
    import hotcoco.mask

    encoded = hotcoco.mask.encode(np.asfortranarray(mask))
    if compressed:
        return encoded
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    return {
        "size": list(mask.shape),
        "counts": np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist(),
    }


FLIP = T.TransformList([T.HFlipTransform(64)])


def test_mirroring_a_box_its_polygon_and_its_mask():
    flipped = utils.transform_instance_annotations(annotation(), FLIP, (48, 64))
    assert flipped["bbox"].tolist() == [34, 8, 54, 30]
    assert flipped["bbox_mode"] == BoxMode.XYXY_ABS
    assert flipped["segmentation"][0].tolist() == [54, 8, 34, 8, 34, 30, 54, 30]


@pytest.mark.parametrize("kind", ["compressed", "counts", "array"])
def test_masks_of_every_kind_are_transformed(kind):
    mask = mask_of((10, 8, 30, 30))
    segmentation = mask if kind == "array" else rle(mask, kind == "compressed")
    flipped = utils.transform_instance_annotations(
        annotation(segmentation=segmentation), FLIP, (48, 64)
    )
    assert (flipped["segmentation"] == mask[:, ::-1]).all()


def test_convention_a_list_of_transforms_is_accepted():
    flipped = utils.transform_instance_annotations(annotation(), [T.HFlipTransform(64)], (48, 64))
    assert flipped["bbox"].tolist() == [34, 8, 54, 30]


def test_the_annotation_s_lists_and_arrays_are_left_alone():
    given = annotation(segmentation=[np.array([10.0, 8, 30, 8, 30, 30])], keypoints=np.ones(3))
    utils.transform_instance_annotations(dict(given), FLIP, (48, 64), keypoint_hflip_indices=[0])
    assert given["bbox"] == [10.0, 8.0, 20.0, 22.0]
    assert given["segmentation"][0].tolist() == [10.0, 8, 30, 8, 30, 30]
    assert given["keypoints"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", ["bbox", "bbox_mode"])
def test_an_annotation_without_a_box_says_what_it_needs(key):
    bare = annotation()
    del bare[key]
    with pytest.raises(KeyError, match=f"no '{key}'.*BoxMode.XYXY_ABS.*category_id"):
        utils.annotations_to_instances([bare], (48, 64))


@pytest.mark.parametrize("box", [[-10.0, -5, 30, 30], [50.0, 40, 100, 100], [0.0, 0, 900, 900]])
def test_convention_a_box_that_leaves_the_image_is_clipped(box):
    clipped = utils.transform_instance_annotations(
        annotation(bbox=box), T.TransformList([]), (48, 64)
    )["bbox"]
    assert (clipped >= 0).all() and (clipped <= [64, 48, 64, 48]).all()


def test_a_box_outside_of_the_image_is_dropped_as_empty():
    outside = annotation(bbox=[70.0, 5, 10, 10])
    inside = annotation()
    annotations = [
        utils.transform_instance_annotations(a, T.TransformList([]), (48, 64))
        for a in (outside, inside)
    ]
    instances = utils.annotations_to_instances(annotations, (48, 64))
    kept, mask = utils.filter_empty_instances(instances, return_mask=True)
    assert len(kept) == 1 and mask.tolist() == [False, True]


def test_a_box_of_no_area_is_dropped():
    flat = utils.transform_instance_annotations(
        annotation(bbox=[5.0, 5, 0, 10]), T.TransformList([]), (48, 64)
    )
    assert len(utils.filter_empty_instances(utils.annotations_to_instances([flat], (48, 64)))) == 0


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_convention_polygons_of_two_points_are_ignored(mask_format):
    line = annotation(segmentation=[[1.0, 1, 9, 9]])
    half = annotation(segmentation=[[1.0, 1, 9, 9], [10.0, 8, 30, 8, 30, 30]])
    annotations = [
        utils.transform_instance_annotations(a, T.TransformList([]), (48, 64)) for a in (line, half)
    ]
    instances = utils.annotations_to_instances(annotations, (48, 64), mask_format)
    assert instances.gt_masks.nonempty().tolist() == [False, True]
    assert len(utils.filter_empty_instances(instances)) == 1


def test_a_polygon_with_an_odd_number_of_coordinates_is_an_error():
    with pytest.raises(SampleError, match="7 numbers"):
        utils.transform_instance_annotations(
            annotation(segmentation=[[1.0, 1, 9, 9, 5, 5, 3]]), FLIP, (48, 64)
        )


def test_a_segmentation_of_no_known_kind_is_an_error():
    for call in (
        lambda s: utils.transform_instance_annotations(annotation(segmentation=s), FLIP, (48, 64)),
        lambda s: utils.annotations_to_instances([annotation(segmentation=s)], (48, 64), "bitmask"),
    ):
        with pytest.raises(SampleError, match="type str"):
            call("polygon")


def test_a_mask_of_another_size_is_an_error():
    small = annotation(segmentation=mask_of((1, 1, 5, 5), (20, 20)))
    with pytest.raises(SampleError, match=r"20 x 20 pixels.*48 x 64"):
        utils.transform_instance_annotations(dict(small), T.TransformList([]), (48, 64))
    with pytest.raises(SampleError, match=r"20 x 20 pixels.*48 x 64"):
        utils.annotations_to_instances([small], (48, 64), "bitmask")


def test_instances_with_every_field():
    annotations = [annotation(keypoints=[1.0, 2, 2, 3, 4, 1]), annotation(category_id=5)]
    instances = utils.annotations_to_instances(annotations, (48, 64))
    assert instances.gt_boxes.tensor.tolist() == [[10, 8, 30, 30]] * 2
    assert instances.gt_classes.dtype == torch.int64 and instances.gt_classes.tolist() == [2, 5]
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert instances.gt_keypoints.tensor[1].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_polygons_and_masks_may_be_mixed_as_bitmasks():
    annotations = [annotation(), annotation(segmentation=rle(mask_of((10, 8, 30, 30))))]
    instances = utils.annotations_to_instances(annotations, (48, 64), "bitmask")
    assert isinstance(instances.gt_masks, BitMasks)
    assert (instances.gt_masks.tensor[0] == instances.gt_masks.tensor[1]).all()


def test_a_mask_cannot_become_a_polygon():
    with pytest.raises(SampleError, match="INPUT.MASK_FORMAT"):
        utils.annotations_to_instances(
            [annotation(segmentation=rle(mask_of((1, 1, 5, 5))))], (48, 64)
        )
    with pytest.raises(ValueError, match="mask_format is 'x'"):
        utils.annotations_to_instances([annotation()], (48, 64), "x")


def test_no_annotations_give_empty_instances():
    instances = utils.annotations_to_instances([], (48, 64))
    assert instances.gt_boxes.tensor.shape == (0, 4) and len(instances) == 0
    assert len(utils.filter_empty_instances(instances)) == 0


def test_an_object_without_segmentation_among_others_is_dropped():
    bare = annotation()
    del bare["segmentation"]
    instances = utils.annotations_to_instances([bare, annotation()], (48, 64))
    assert instances.gt_masks.nonempty().tolist() == [False, True]


def test_objects_with_different_numbers_of_keypoints_are_an_error():
    with pytest.raises(SampleError, match=r"\[1, 2\] keypoints"):
        utils.annotations_to_instances(
            [annotation(keypoints=[1, 1, 1]), annotation(keypoints=[1, 1, 1] * 2)], (48, 64)
        )


def test_filtering_by_nothing_is_an_error():
    with pytest.raises(AssertionError, match="by_box or by_mask"):
        utils.filter_empty_instances(
            utils.annotations_to_instances([], (4, 4)), by_box=False, by_mask=False
        )


# -- keypoints


def test_mirrored_keypoints_trade_places():
    keypoints = [12.0, 10, 2, 25, 20, 1, 0, 0, 0]
    flipped = utils.transform_keypoint_annotations(keypoints, FLIP, (48, 64), [1, 0, 2])
    assert flipped.tolist() == [[39, 20, 1], [52, 10, 2], [0, 0, 0]]


def test_keypoints_that_leave_the_image_become_unlabelled():
    crop = T.TransformList([T.CropTransform(20, 0, 10, 48)])
    cropped = utils.transform_keypoint_annotations([12.0, 10, 2, 25, 20, 1], crop, (48, 10))
    assert cropped.tolist() == [[0, 0, 0], [5, 20, 1]]


def test_mirroring_keypoints_needs_their_partners():
    with pytest.raises(ValueError, match="create_keypoint_hflip_indices"):
        utils.transform_keypoint_annotations([1.0, 1, 2], FLIP, (48, 64))
    with pytest.raises(ValueError, match="2 entries.*1 keypoints"):
        utils.transform_keypoint_annotations([1.0, 1, 2], FLIP, (48, 64), [1, 0])


def test_partners_of_coco_keypoints():
    indices = utils.create_keypoint_hflip_indices("keypoints_coco_2017_train")
    assert indices == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


# -- rotated boxes, proposals


def test_rotated_boxes():
    boxes = [[30.0, 20, 20, 10, 33], [60.0, 40, 40, 30, -12]]
    annotations = [
        {"bbox": b, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": i} for i, b in enumerate(boxes)
    ]
    instances = utils.annotations_to_instances_rotated(annotations, (480, 640))
    np.testing.assert_allclose(instances.gt_boxes.tensor.numpy(), boxes)
    assert len(utils.annotations_to_instances_rotated([], (4, 4))) == 0


def test_proposals_are_transformed_clipped_and_cut():
    record = {
        "proposal_boxes": np.array([[0.0, 0, 10, 10], [5.0, 5, 6, 40], [-9.0, 0, 70, 60]]),
        "proposal_objectness_logits": np.array([3, 2, 1]),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }
    utils.transform_proposals(record, (48, 64), FLIP, proposal_topk=2, min_box_size=2)
    assert list(record) == ["proposals"]
    proposals = record["proposals"]
    assert proposals.proposal_boxes.tensor.tolist() == [[54, 0, 64, 10], [0, 0, 64, 48]]
    assert proposals.objectness_logits.tolist() == [3, 1]


def test_a_record_without_proposals_stays():
    record = {"x": 1}
    utils.transform_proposals(record, (4, 4), FLIP, proposal_topk=2)
    assert record == {"x": 1}


# -- crops around objects, consistency, augmentations


@pytest.mark.parametrize("seed", range(30))
def test_a_crop_around_an_object_contains_its_centre(seed):
    np.random.seed(seed)
    crop = utils.gen_crop_transform_with_instance((20, 30), (48, 64), annotation())
    assert crop.x0 <= 20 <= crop.x0 + 30 and crop.y0 <= 19 <= crop.y0 + 20
    assert 0 <= crop.x0 <= 34 and 0 <= crop.y0 <= 28


def test_crops_that_cannot_be_are_errors():
    with pytest.raises(AssertionError, match="larger than the image"):
        utils.gen_crop_transform_with_instance((60, 30), (48, 64), annotation())
    with pytest.raises(AssertionError, match="outside of the image"):
        utils.gen_crop_transform_with_instance((20, 30), (48, 64), annotation(bbox=[90.0, 8, 4, 4]))


@pytest.fixture
def two_datasets():
    for name, classes in (("consistent_a", ["x"]), ("consistent_b", ["y"])):
        MetadataCatalog.get(name).set(thing_classes=classes)
    yield ["consistent_a", "consistent_b"]
    for name in ("consistent_a", "consistent_b"):
        MetadataCatalog.remove(name)


def test_datasets_that_disagree_are_named(two_datasets):
    utils.check_metadata_consistency("thing_classes", two_datasets[:1] * 2)
    utils.check_metadata_consistency("thing_classes", [])
    with pytest.raises(ValueError, match="'consistent_a' and 'consistent_b'.*'thing_classes'"):
        utils.check_metadata_consistency("thing_classes", two_datasets)
    assert "consistent_a" not in DatasetCatalog


def test_weights_of_the_federated_loss():
    counts = [{"id": 2, "image_count": 9}, {"id": 1, "image_count": 4}]
    MetadataCatalog.get("federated").set(class_image_count=counts)
    weights = utils.get_fed_loss_cls_weights("federated", 0.5)
    MetadataCatalog.remove("federated")
    assert weights.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
def test_default_augmentations(flip):
    cfg = get_cfg()
    cfg.INPUT.RANDOM_FLIP = flip
    augmentations = utils.build_augmentation(cfg, True)
    assert isinstance(augmentations[0], T.ResizeShortestEdge)
    assert [a.vertical for a in augmentations[1:]] == {
        "horizontal": [False], "vertical": [True], "none": []
    }[flip]  # fmt: skip
    assert len(utils.build_transform_gen(cfg, False)) == 1


def test_an_unknown_flip_is_an_error():
    cfg = get_cfg()
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match="'diagonal'"):
        utils.build_augmentation(cfg, True)
