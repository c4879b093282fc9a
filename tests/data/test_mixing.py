"""Augmentations that see several samples."""

import json

import numpy as np
import pytest
import torch

from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.datasets.drawn_shapes import register_drawn_shapes, write_drawn_shapes
from detectron2.data.mixing import CopyPaste, MixUp, Mosaic, Sample, SampleAugmentation
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)


def square(x, y, side, **more):
    polygon = (SQUARE * side + [x, y]).reshape(-1)
    return {
        "bbox": np.array([x, y, x + side, y + side], dtype=np.float64),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": [polygon],
        **more,
    }


def sample(value, *annotations, size=(40, 60), labels=True):
    """An image of one value, brighter by 50 inside of its objects."""
    image = np.full((*size, 3), value, dtype=np.uint8)
    for annotation in annotations:
        x0, y0, x1, y1 = annotation["bbox"].astype(int)
        image[y0:y1, x0:x1] += 50
    return Sample(image, list(annotations), np.full(size, value, np.uint8) if labels else None)


def mask_of(annotation, size):
    from detectron2.structures import polygons_to_bitmask

    segmentation = annotation["segmentation"]
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    return polygons_to_bitmask(segmentation, *size)


def test_mosaic_fills_the_canvas_with_four_samples():
    np.random.seed(0)
    values = (10, 60, 110, 160)
    parts = [sample(value, square(10, 10, 16)) for value in values]
    result = Mosaic((80, 90)).combine(parts[0], parts[1:])
    assert result.image.shape == (80, 90, 3) and result.sem_seg.shape == (80, 90)
    assert set(np.unique(result.sem_seg)) == set(values)
    # Every pixel belongs to the sample that its label names.
    assert set(np.unique(result.image[:, :, 0] - result.sem_seg.astype(int))) <= set(range(51))


def test_objects_of_a_mosaic_lie_where_the_image_shows_them():
    found = 0
    for seed in range(10):
        np.random.seed(seed)
        parts = [sample(v, square(10, 10, 20)) for v in (10, 60, 110, 160)]
        result = Mosaic((80, 90)).combine(parts[0], parts[1:])
        bright = result.image[:, :, 0].astype(int) - result.sem_seg > 25
        covered = np.zeros((80, 90), dtype=bool)
        for annotation in result.annotations:
            mask = mask_of(annotation, (80, 90))
            covered |= mask
            x0, y0, x1, y1 = annotation["bbox"]
            rows, columns = np.nonzero(mask)
            assert abs(columns.min() - x0) <= 1 and abs(rows.max() + 1 - y1) <= 1
            found += 1
        assert (covered != bright).mean() < 0.03
    assert found > 25


def test_mixup_is_a_weighted_mean_with_the_objects_of_both(monkeypatch):
    monkeypatch.setattr(np.random, "beta", lambda a, b: 0.25)
    a, b = sample(100, square(5, 5, 8)), sample(200, square(9, 9, 8), size=(40, 30))
    result = MixUp().combine(a, [b])
    assert result.image.dtype == np.uint8
    assert result.image[0, 0, 0] == 175 and result.image[15, 15, 0] == 212
    assert result.image[0, 59, 0] == 100  # beyond the narrower image
    assert [annotation["bbox"][0] for annotation in result.annotations] == [5, 9]
    assert np.array_equal(result.sem_seg, a.sem_seg)


def test_copy_paste_takes_pixels_and_masks():
    np.random.seed(0)
    below = square(10, 10, 20, keypoints=np.array([[12.0, 12, 2], [28.0, 28, 2], [25.0, 12, 0]]))
    hidden = square(22, 22, 6)
    a = sample(0, below, hidden)
    b = sample(100, square(20, 20, 15))
    result = CopyPaste(share=1.0).combine(a, [b])
    left, pasted = result.annotations  # what is wholly covered is gone
    assert pasted["bbox"].tolist() == [20, 20, 35, 35]
    assert result.image[25, 25, 0] == 150 and result.image[12, 12, 0] == 50
    mask = left["segmentation"]
    assert mask[12, 12] and not mask[25, 25] and mask.sum() == 20 * 20 - 10 * 10
    assert left["bbox"].tolist() == [10, 10, 30, 30]
    assert left["keypoints"][:, 2].tolist() == [2, 1, 0]
    assert result.sem_seg[25, 25] == 100 and result.sem_seg[12, 12] == 0


def test_without_masks_nothing_is_pasted():
    boxes = [{k: v for k, v in square(20, 20, 15).items() if k != "segmentation"}]
    a = sample(0, square(10, 10, 20))
    assert CopyPaste(share=1.0).combine(a, [sample(100, *boxes)]) is a


def test_images_of_other_channels_are_refused():
    a = sample(0)
    b = Sample(np.zeros((40, 60, 5), np.uint8))
    with pytest.raises(ValueError, match="cannot be mixed"):
        MixUp().combine(a, [b])


def test_probability_decides_and_only_then_are_samples_drawn():
    class Paint(SampleAugmentation):
        num_others = 2

        def combine(self, sample, others):
            assert len(others) == 2
            return others[0]

    drawn = []

    def draw():
        drawn.append(sample(1))
        return drawn[-1]

    np.random.seed(0)
    used = [Paint(prob=0.3)(sample(0), draw).image[0, 0, 0] for _ in range(200)]
    assert 40 < sum(used) < 80 and len(drawn) == 2 * sum(used)
    with pytest.raises(ValueError, match="no probability"):
        Paint(prob=1.5)
    with pytest.raises(NotImplementedError, match="must define combine"):
        SampleAugmentation()(sample(0), draw)


# -- in the mapper and the loader


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_drawn_shapes(folder, train_images=8, val_images=1, size=(48, 64))
    train, val = register_drawn_shapes(folder, prefix="mixed_shapes")
    yield train
    for name in (train, val):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(name, **options):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    for key, value in options.items():
        group, _, field = key.partition("__")
        setattr(cfg.INPUT[group], field, value)
    return cfg


def batches(cfg, count=6, seed=5):
    seed_all_rng(seed)
    loader = build_detection_train_loader(cfg, sampler=torch.utils.data.SequentialSampler(range(8)))
    return [sample for _, batch in zip(range(count), iter(loader)) for sample in batch]


MIXES = {
    "mosaic": {"MOSAIC__PROB": 1.0, "MOSAIC__SIZE": [64, 96]},
    "mixup": {"MIXUP__PROB": 1.0},
    "copy-paste": {"COPY_PASTE__PROB": 1.0},
    "all": {"MOSAIC__PROB": 0.5, "MIXUP__PROB": 0.5, "COPY_PASTE__PROB": 0.5},
    "jitter": {"JITTER__ENABLED": True, "JITTER__SIZE": 80},
}


@pytest.mark.parametrize("mix", MIXES)
def test_yaml_keys_mix_and_the_seed_decides(shapes, mix):
    cfg = config(shapes, **MIXES[mix])
    first, second, third = batches(cfg), batches(cfg), batches(cfg, seed=6)
    assert len(first) >= 4
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    assert any(
        a["image"].shape != c["image"].shape or not torch.equal(a["image"], c["image"])
        for a, c in zip(first, third)
    )
    for a in first:
        height, width = a["image"].shape[1:]
        boxes = a["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert a["instances"].gt_masks.tensor.shape[1:] == (height, width)


def test_mixed_samples_have_more_objects(shapes):
    plain = sum(len(s["instances"]) for s in batches(config(shapes)))
    mixed = sum(len(s["instances"]) for s in batches(config(shapes, MIXUP__PROB=1.0)))
    assert mixed > 1.5 * plain


def test_lazy_configs_mix(shapes):
    from detectron2.data import get_detection_dataset_dicts

    loader = LazyCall(build_detection_train_loader)(
        dataset=LazyCall(get_detection_dataset_dicts)(names=shapes),
        mapper=LazyCall(DatasetMapper)(
            is_train=True,
            augmentations=[LazyCall(T.LargeScaleJitter)(size=64)],
            image_format="BGR",
            mixers=[LazyCall(Mosaic)(size=[64, 64], prob=1.0)],
        ),
        total_batch_size=2,
    )
    batch = next(iter(instantiate(loader)))
    assert all(sample["image"].shape == (3, 64, 64) for sample in batch)


def test_worker_processes_mix(shapes):
    cfg = config(shapes, MOSAIC__PROB=1.0, MOSAIC__SIZE=[64, 96])
    cfg.DATALOADER.NUM_WORKERS = 1
    assert len(next(iter(build_detection_train_loader(cfg)))) == 2


def test_testing_mixes_nothing(shapes):
    mapper = DatasetMapper(config(shapes, MIXUP__PROB=1.0), is_train=False)
    assert mapper.mixers == []


def test_copy_paste_asks_for_bitmasks(shapes):
    cfg = config(shapes, COPY_PASTE__PROB=1.0)
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(ValueError, match="INPUT.MASK_FORMAT"):
        DatasetMapper(cfg, True)


def test_a_mapper_without_a_dataset_says_so(shapes):
    mapper = DatasetMapper(config(shapes, MIXUP__PROB=1.0), True)
    with pytest.raises(ValueError, match="use_dataset"):
        mapper(DatasetCatalog.get(shapes)[0])


def test_samples_that_cannot_be_read_are_not_mixed_in(shapes, caplog, tmp_path):
    records = DatasetCatalog.get(shapes)
    for record in records[1:4]:
        record["file_name"] = str(tmp_path / "gone.png")
    mapper = DatasetMapper(config(shapes, MIXUP__PROB=1.0), True)
    mapper.use_dataset(records)
    np.random.seed(0)
    for _ in range(6):
        mapper(records[0])
    assert "gone.png" in caplog.text and "another is drawn" in caplog.text
    mapper.use_dataset(records[1:4])
    with pytest.raises(ValueError, match="No sample could be read to be mixed in"):
        mapper(records[0])


def test_padding_is_no_part_of_a_mask():
    from detectron2.data.detection_utils import transform_instance_annotations

    annotation = square(2, 2, 6)
    annotation["segmentation"] = np.zeros((20, 20), dtype=bool)
    annotation["segmentation"][2:8, 2:8] = True
    crop = T.FixedSizeCrop((30, 30)).get_transform(np.zeros((20, 20, 3), np.uint8))
    mask = transform_instance_annotations(annotation, crop, (30, 30))["segmentation"]
    assert mask.dtype == bool and mask.sum() == 36


def test_config_with_mixing_can_be_written_and_read(tmp_path, shapes):
    cfg = config(shapes, **MIXES["all"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert json.dumps(again.INPUT) == json.dumps(cfg.INPUT)
