"""What a folder of data says about the config."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from folder_datasets import CLASSES, make_content

from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.convert import write_content
from detectron2.engine.config_edits import edits_of
from detectron2.engine.data_folder import long_schedule, read_data_folder
from detectron2.engine.train_command import TrainOptions, configure, run_evaluate, run_train

MASKS = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
BOXES = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
KEYPOINTS = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture
def make(tmp_path):
    def write(kind, to="yolo", splits=("train", "val")):
        content = make_content(tmp_path / "source", kind, splits)
        write_content(content, tmp_path / "data", to, overwrite=True)
        return tmp_path / "data"

    forget("data_train", "data_val")  # other tests of this process call their folders so too
    known = set(DatasetCatalog.list())
    yield write
    forget(*set(DatasetCatalog.list()) - known)


def forget(*names):
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)


def configured(folder, config, **options):
    said = []
    cfg = configure(TrainOptions(config=config, data=folder, **options), say=said.append)
    return cfg, " ".join(said)


def test_the_data_set_classes_and_datasets_and_it_is_said(make):
    cfg, said = configured(make("boxes"), BOXES)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.DATASETS.TRAIN == ("data_train",) and cfg.DATASETS.TEST == ("data_val",)
    for part in ("YOLO boxes, 3 images in train, 3 images in val", "2 classes: zebra, apple",
                 "Trains on data_train, evaluates on data_val"):  # fmt: skip
        assert part in said


def test_keypoints_are_counted(make):
    cfg, _ = configured(make("keypoints", "coco"), KEYPOINTS)
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 3
    assert len(cfg.TEST.KEYPOINT_OKS_SIGMAS) == 3
    assert MetadataCatalog.get("data_train").keypoint_flip_map == [("left_ear", "right_ear")]


def test_lazy_configs_take_folders_too(make):
    config = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
    cfg, _ = configured(make("polygons"), config)
    assert cfg.model.roi_heads.num_classes == 2
    assert cfg.dataloader.train.dataset.names == "data_train"
    with pytest.raises(ValueError, match="learns masks"):
        configured(make("boxes", "coco"), config)


def test_overrides_win(make):
    cfg, _ = configured(make("polygons"), MASKS, overrides=["MODEL.ROI_HEADS.NUM_CLASSES=9"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 9


@pytest.mark.parametrize(
    "kind, config, sentence",
    [
        ("boxes", MASKS, "learns masks, but the annotations"),
        ("polygons", KEYPOINTS, "learns keypoints, but"),
    ],
)
def test_a_model_that_learns_more_than_there_is_is_refused(make, kind, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        configured(make(kind), config)


@pytest.mark.parametrize(
    "kind, config",
    [("boxes", "faster_rcnn"), ("polygons", "mask_rcnn"), ("keypoints", "keypoint_rcnn")],
)
def test_a_suitable_config_is_suggested(make, kind, config):
    suggested = read_data_folder(make(kind)).suggested_config()
    assert config in suggested and model_zoo.get_config_file(suggested)


def test_a_schedule_for_large_datasets_is_said_to_be_one(make):
    folder = make("boxes")
    cfg, _ = configured(folder, BOXES)
    assert long_schedule(cfg, read_data_folder(folder)) is None  # it was fitted to the data
    long = ["SOLVER.MAX_ITER=90000", "SOLVER.IMS_PER_BATCH=16"]
    cfg, _ = configured(folder, BOXES, overrides=long)
    note = long_schedule(cfg, read_data_folder(folder))
    assert "90000 iterations of 16 images show each of the 3 images 480000 times" in note
    assert "SOLVER.MAX_ITER=100 shows each about 533 times" in note
    cfg.SOLVER.MAX_ITER = 90
    assert long_schedule(cfg, read_data_folder(folder)) is None


def test_without_splits_all_is_trained_on_and_evaluated(make):
    folder = make("boxes", "voc", splits=("all",))
    cfg, said = configured(folder, BOXES)
    assert cfg.DATASETS.TRAIN == ("data_all",) and cfg.DATASETS.TEST == ()
    assert "nothing to evaluate on" in said
    cfg = configure(TrainOptions(config=BOXES, data=folder), for_training=False)
    assert cfg.DATASETS.TEST == ("data_all",)


def test_rotated_boxes_become_upright_for_a_model_of_upright_ones(make):
    cfg, said = configured(make("rotated"), BOXES)
    assert "upright" in said
    assert MetadataCatalog.get("data_train").evaluator_type == "coco"
    (first, *_) = DatasetCatalog.get("data_train")[0]["annotations"]
    assert len(first["bbox"]) == 4 and first["bbox_mode"].name == "XYXY_ABS"


def test_rotated_boxes_stay_for_a_model_of_rotated_ones(make, tmp_path):
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    read_data_folder(make("rotated")).apply(edits_of(cfg), for_training=True)
    assert MetadataCatalog.get("data_train").evaluator_type == "coco_rotated"


def test_run_lengths_are_loaded_as_bitmaps(make, tmp_path):
    folder = make("polygons", "coco")
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [10, 20, 3042]}
    path.write_text(json.dumps(content))
    cfg, said = configured(folder, MASKS)
    assert cfg.INPUT.MASK_FORMAT == "bitmask" and "bitmaps" in said


def test_a_checkpoint_has_its_own_order_of_classes(make, tmp_path):
    folder = make("boxes")
    weights = tmp_path / "model" / "model.pth"
    weights.parent.mkdir()
    metadata = weights.with_name("metadata.json")
    metadata.write_text(json.dumps({"thing_classes": CLASSES[::-1]}))
    read = read_data_folder(folder, str(weights))
    assert list(read.found.classes) == CLASSES[::-1]
    metadata.write_text(json.dumps({"thing_classes": ["cow"]}))
    with pytest.raises(ValueError, match="not among those asked for: zebra, apple"):
        read_data_folder(folder, str(weights))


def test_two_ways_to_name_the_data_are_one_too_many(make, tmp_path):
    pair = (tmp_path / "a.json", tmp_path)
    with pytest.raises(ValueError, match="--data is a whole dataset"):
        configured(make("boxes"), BOXES, train_data=pair)


@pytest.mark.slow
def test_a_folder_is_trained_on_and_evaluated_without_code(make, tmp_path, capsys):
    folder = make("polygons", "voc")
    options = {
        "config": "mask_rcnn_R_50_narrow_FPN",
        "data": folder,
        "output": tmp_path / "out",
        "device": "cpu",
        "overrides": ["SOLVER.MAX_ITER=2", "SOLVER.IMS_PER_BATCH=2"],
    }
    run_train(TrainOptions(random_weights=True, **options))
    assert "Trains on data_train, evaluates on data_val." in capsys.readouterr().out
    weights = tmp_path / "out" / "model_final.pth"
    names = json.loads((tmp_path / "out" / "metadata.json").read_text())["thing_classes"]
    assert names == CLASSES
    metrics = run_evaluate(TrainOptions(weights=str(weights), **options))
    assert {"bbox", "segm"} <= set(metrics)
