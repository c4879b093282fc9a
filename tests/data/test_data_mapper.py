import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, _annotations, _segmentations
from detectron2.data import transforms as T
from detectron2.data.errors import SampleError, SizeMismatchError
from detectron2.data.mixing import Mosaic
from detectron2.structures import BitMasks, BoxMode


@pytest.fixture
def record(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    labels = (np.mgrid[0:40, 0:60][0] // 7).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    objects = [
        {
            "bbox": [10.0, 8, 20, 22],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": i,
            "iscrowd": int(i == 2),
            "segmentation": [[10.0, 8, 30, 8, 30, 30]],
            "keypoints": [12.0, 10, 2, 25, 20, 1],
        }
        for i in range(3)
    ]
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "height": 40,
        "width": 60,
        "image_id": 7,
        "annotations": objects,
    }


def make(**options):
    options = {"is_train": True, "augmentations": [], "image_format": "BGR", **options}
    return DatasetMapper(options.pop("is_train"), **options)


def test_a_training_sample(record):
    sample = make(use_instance_mask=True)(record)
    assert sample["image"].shape == (3, 40, 60) and sample["image"].dtype == torch.uint8
    assert sample["sem_seg"].dtype == torch.int64 and sample["sem_seg"].shape == (40, 60)
    instances = sample["instances"]
    assert instances.image_size == (40, 60)
    assert instances.gt_classes.tolist() == [0, 1]  # the crowd is left out
    assert sorted(instances.get_fields()) == ["gt_boxes", "gt_classes", "gt_masks"]
    assert "annotations" not in sample and "sem_seg_file_name" not in sample


def test_the_record_is_left_alone(record):
    before = copy.deepcopy(record)
    make(augmentations=[T.RandomFlip(1.0), T.Resize((50, 50))], use_instance_mask=True)(record)
    assert record == before


def test_inference_needs_no_annotations(record):
    sample = make(is_train=False)(record)
    assert "instances" not in sample and "annotations" not in sample
    assert "sem_seg_file_name" not in sample


SEGMENTATIONS = {
    "polygons": [[10.0, 8, 30, 8, 30, 30]],
    "run lengths": {"size": [40, 60], "counts": [400, 30, 1970]},
    "bitmap": np.ones((40, 60), np.uint8),
}


@pytest.mark.parametrize("mixers", [[], [Mosaic((40, 60), prob=1.0)]], ids=["alone", "mosaic"])
@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_convention_box_models_decode_and_warp_no_masks(record, monkeypatch, kind, mixers):
    seen = []
    decode, warp = _segmentations.decode_rle, _annotations.transform_segmentation
    monkeypatch.setattr(_segmentations, "decode_rle", lambda r: seen.append("d") or decode(r))
    monkeypatch.setattr(
        _annotations, "transform_segmentation", lambda *a: seen.append("w") or warp(*a)
    )
    del record["sem_seg_file_name"]
    for annotation in record["annotations"]:
        annotation["segmentation"] = SEGMENTATIONS[kind]
    flips = [T.RandomFlip(1.0), T.Resize((50, 50))]
    mapper = make(augmentations=flips, mixers=mixers)
    mapper.use_dataset([record] * 4)
    assert "gt_masks" not in mapper(record)["instances"].get_fields()
    assert seen == []
    masks = make(
        augmentations=flips, mixers=mixers, use_instance_mask=True, instance_mask_format="bitmask"
    )
    masks.use_dataset([record] * 4)
    assert masks(record)["instances"].has("gt_masks") and "w" in seen


def test_convention_bitmaps_of_polygons_are_sent_without_their_empty_part(record):
    sample = make(use_instance_mask=True, instance_mask_format="bitmask")(record)
    masks = sample["instances"].gt_masks
    assert isinstance(masks, BitMasks)
    assert len(pickle.dumps(masks)) < 2 * 20 * 22 + 2000 < 2 * 40 * 60
    want = BitMasks.from_polygon_masks([[[10.0, 8, 30, 8, 30, 30]]] * 2, 40, 60)
    assert torch.equal(masks.tensor, want.tensor)


def test_convention_the_image_is_in_memory_of_its_own(record):
    for augmentations in ([], [T.RandomFlip(1.0)], [T.Resize((400, 400))], [T.Resize((60, 40))]):
        image = make(augmentations=augmentations)(record)["image"]
        assert image.is_contiguous() and image.untyped_storage().nbytes() == image.numel()


@pytest.mark.parametrize("flip", [{}, {"horizontal": False, "vertical": True}])
@pytest.mark.parametrize("resize", [[], [T.Resize((400, 500))]])
def test_mirrored_images_are_mirrored(record, flip, resize):
    plain = make(augmentations=resize)(record)["image"]
    mirrored = make(augmentations=[*resize, T.RandomFlip(1.0, **flip)])(record)["image"]
    assert torch.equal(mirrored, plain.flip(1 if flip else 2))


def test_recomputed_boxes_fit_the_cut_masks(record):
    crop = T.CropTransform(0, 0, 20, 40)
    plain = make(augmentations=[crop], use_instance_mask=True)(record)["instances"]
    tight = make(augmentations=[crop], use_instance_mask=True, recompute_boxes=True)(record)
    assert plain.gt_boxes.tensor[0].tolist() == [10, 8, 20, 30]
    assert tight["instances"].gt_boxes.tensor[0].tolist() == [10, 8, 20, 19]
    with pytest.raises(AssertionError, match="use_instance_mask"):
        make(recompute_boxes=True)


def test_objects_that_are_cropped_away_are_dropped(record):
    sample = make(augmentations=[T.CropTransform(40, 0, 20, 40)], use_instance_mask=True)(record)
    assert len(sample["instances"]) == 0


def test_errors_in_annotations_name_the_file(record):
    record["annotations"][0]["segmentation"] = "?"
    with pytest.raises(SampleError, match=r"image\.png'.*type str"):
        make(use_instance_mask=True)(record)


def test_a_wrong_size_names_the_file(record):
    record["width"] = 61
    with pytest.raises(SizeMismatchError, match=r"image\.png"):
        make()(record)


def test_keypoints_are_mirrored(record):
    mapper = make(
        augmentations=[T.RandomFlip(1.0)], use_keypoint=True, keypoint_hflip_indices=[1, 0]
    )
    assert mapper(record)["instances"].gt_keypoints.tensor[0].tolist() == [[35, 20, 1], [48, 10, 2]]


@pytest.mark.parametrize("augmentations", [[], [T.Resize((30, 60))]])
def test_grey_images(record, augmentations):
    image = make(image_format="L", augmentations=augmentations)(record)["image"]
    assert image.shape == ((1, 30, 60) if augmentations else (1, 40, 60))


@pytest.mark.parametrize("crop", [True, False])
def test_a_mapper_from_a_config(record, crop):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (60,)
    mapper = DatasetMapper(cfg, is_train=True)
    assert mapper.recompute_boxes is crop
    assert isinstance(mapper.augmentations.augs[0], T.RandomCrop) is crop
    assert mapper(record)["instances"].gt_masks.tensor.dtype == torch.bool
    assert DatasetMapper(cfg, is_train=False).recompute_boxes is False


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("crop", [True, False])
def test_extreme_images_pass_the_default_pipeline(tmp_path, size, crop):
    Image.new("RGB", size[::-1]).save(tmp_path / "a.png")
    cfg = get_cfg()
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.CROP.TYPE = "relative"
    cfg.INPUT.CROP.SIZE = [0.3, 0.3]
    record = {"file_name": str(tmp_path / "a.png"), "annotations": []}
    assert min(DatasetMapper(cfg, True)(record)["image"].shape) >= 1
    scale = T.ResizeScale(0.1, 0.1, 100, 100)
    assert min(make(augmentations=[scale])(record)["image"].shape) >= 1


def test_a_subclass_adds_a_field_by_overriding_one_step(record):
    class WithArea(DatasetMapper):
        def _instances(self, annotations, image_shape):
            instances = super()._instances(annotations, image_shape)
            instances.gt_area = torch.tensor([a["area"] for a in annotations])
            return instances

    for i, annotation in enumerate(record["annotations"]):
        annotation["area"] = i
    mapper = WithArea(True, augmentations=[], image_format="RGB")
    assert mapper(record)["instances"].gt_area.tolist() == [0, 1]


def test_precomputed_proposals(record):
    record.update(
        proposal_boxes=np.array([[0.0, 0, 10, 10]] * 3),
        proposal_objectness_logits=np.zeros(3),
        proposal_bbox_mode=BoxMode.XYXY_ABS,
    )
    assert len(make(precomputed_proposal_topk=2)(record)["proposals"]) == 2
    assert "proposals" not in make()(record)
