"""Configs of the zoo, the catalogue, and building models from it."""

import json
import os

import pytest
import torch
from omegaconf import DictConfig

from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.model_zoo import catalogue, summary
from detectron2.model_zoo.model_zoo import config_names
from detectron2.modeling import SimpleFeaturePyramid, ViT

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
NAMES = config_names()
YAML = [name for name in NAMES if name.endswith(".yaml")]
PYTHON = [name for name in NAMES if name.endswith(".py")]
NEEDS_TORCHVISION = "Misc/torchvision_imagenet_R_50.py"


@pytest.mark.parametrize("name", YAML)
def test_yaml_config_loads_and_names_its_depth_and_schedule(name):
    cfg = model_zoo.get_config(name)
    assert isinstance(cfg, CfgNode)
    file = name.split("/")[-1]
    for part, depth in (("_R_50_", 50), ("_R_101_", 101), ("X_101_", 101), ("X_152_", 152)):
        if part in file:
            assert depth == cfg.MODEL.RESNETS.DEPTH
    if "_3x" in file and "dconv_cascade" not in file:
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (270000, (210000, 250000))
    if "LVIS" not in name and file.endswith(("FPN_1x.yaml", "FPN_1x_coco.yaml")):
        assert cfg.SOLVER.MAX_ITER == 90000


def test_pieces_of_a_yaml_config_come_from_several_files():
    cfg = model_zoo.get_config("Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv.yaml")
    assert cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE == [False, True, True, True]


@pytest.mark.parametrize("name", sorted(set(PYTHON) - {NEEDS_TORCHVISION}))
def test_python_config_loads_and_can_be_saved(name, tmp_path):
    cfg = model_zoo.get_config(name)
    assert isinstance(cfg, DictConfig) and len(cfg) > 0
    path = str(tmp_path / "saved.yaml")
    LazyConfig.save(cfg, path)
    assert set(LazyConfig.load(path)) == set(cfg)


def test_python_config_that_needs_torchvision_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision"):
        model_zoo.get_config(NEEDS_TORCHVISION)


def test_number_of_classes_reaches_all_heads_of_a_python_config():
    cfg = model_zoo.get_config("common/models/mask_rcnn_fpn.py")
    cfg.model.roi_heads.num_classes = 3
    assert cfg.model.roi_heads.box_predictor.num_classes == 3
    assert cfg.model.roi_heads.mask_head.num_classes == 3


def test_every_schedule_can_be_built():
    schedules = model_zoo.get_config("common/coco_schedule.py")
    assert len(schedules) == 5
    for name, schedule in schedules.items():
        multiplier = instantiate(schedule)
        assert multiplier(0.0) == pytest.approx(0.001), name
        assert multiplier(0.5) == 1.0 and multiplier(0.9999) == 0.01


def test_long_schedules_keep_their_tail():
    six = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_6x
    assert six.scheduler.milestones == [480000, 520000, 540000]
    assert six.warmup_length == 1000 / 540000


def test_longer_baselines_scale_the_schedule():
    short = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ.py")
    long = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ.py")
    assert (short.train.max_iter, long.train.max_iter) == (92187, 737500)
    assert long.lr_multiplier.scheduler.milestones == [655556, 710184]
    assert long.lr_multiplier.scheduler.num_updates == 737500


def test_configs_share_no_state():
    model_zoo.get_config("common/train.py").train.max_iter = 1
    assert model_zoo.get_config("common/train.py").train.max_iter == 90000


# --- names ----------------------------------------------------------------------------------


def test_config_file_is_in_the_package():
    path = model_zoo.get_config_file(FASTER)
    assert os.path.isfile(path) and path.endswith(FASTER.replace("/", os.sep))


def test_ending_may_be_left_out():
    assert model_zoo.get_config_file(FASTER[: -len(".yaml")]) == model_zoo.get_config_file(FASTER)


@pytest.mark.parametrize("call", [model_zoo.get_config_file, model_zoo.get_checkpoint_url])
def test_unknown_name_gets_the_nearest_ones(call):
    with pytest.raises(RuntimeError, match="Did you mean .*faster_rcnn_R_50_FPN_1x.yaml"):
        call("COCO-Detection/faster_rcnn_R50_FPN_1x.yaml")


def test_the_last_part_of_a_name_is_enough_for_a_suggestion():
    with pytest.raises(RuntimeError, match="Did you mean 'Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"):
        model_zoo.get_config_file("cascade_mask_rcnn_R_50_FPN_3x.yml")


def test_checkpoint_address_is_the_same_for_yaml_and_python():
    urls = {
        model_zoo.get_checkpoint_url(f"COCO-Detection/retinanet_R_50_FPN_1x.{ending}")
        for ending in ("yaml", "py")
    }
    assert urls == {
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/retinanet_R_50_FPN_1x/"
        "190397773/model_final_bfca0b.pkl"
    }


def test_trained_config_starts_from_the_trained_weights():
    assert model_zoo.get_config(FASTER, trained=True).MODEL.WEIGHTS.endswith("b275ba.pkl")
    lazy = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.py", trained=True)
    assert lazy.train.init_checkpoint.endswith("bfca0b.pkl")
    with pytest.raises(ValueError, match="no train.init_checkpoint"):
        model_zoo.get_config("common/models/retinanet.py", trained=True)


# --- the catalogue --------------------------------------------------------------------------


def test_every_trained_model_has_its_config_and_a_hash_in_its_name():
    entries = catalogue.entries()
    assert len(entries) == 64 + 6 + 5  # and those of PointRend, DeepLab, Panoptic-DeepLab
    for entry in entries:
        assert os.path.isfile(model_zoo.get_config_file(entry.config))
        assert entry.url.startswith("https://") and entry.url.endswith(".pkl")
        assert len(entry.url.rsplit("_", 1)[-1]) == len("a54504.pkl")


def test_weights_that_configs_start_from_are_in_the_catalogue():
    urls = {entry.url.split("/detectron2/")[-1] for entry in catalogue.entries()}
    for name in YAML:
        tree = CfgNode.load_yaml_with_base(model_zoo.get_config_file(name))
        address = tree.get("MODEL", {}).get("WEIGHTS", "").removeprefix("detectron2://")
        if "/model_final_" in address and len(address.rsplit("_", 1)[-1]) == len("a54504.pkl"):
            assert address in urls, name


def test_entries_can_be_chosen_and_sorted():
    masks = catalogue.entries(task="instance segmentation", dataset="COCO", sort_by="mask_ap")
    scores = [entry.metrics.get("mask_ap") for entry in masks]
    known = [score for score in scores if score is not None]
    assert known == sorted(known, reverse=True) and known[0] == 44.0
    assert scores[len(known) :] == [None] * (len(scores) - len(known))
    assert catalogue.entries(task="instance segmentation", dataset="COCO", sort_by="ap") == masks
    panoptic = catalogue.entries(task="panoptic segmentation", dataset="COCO", sort_by="ap")
    assert [entry.main_score for entry in panoptic] == [46.1, 43.0, 41.5, 39.4, 35.5]
    fastest = catalogue.entries(sort_by="inference_seconds_per_image")
    assert fastest[0].config == "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"
    assert fastest[-1].inference_seconds_per_image is None


@pytest.mark.parametrize("wrong", [{"task": "x"}, {"dataset": "x"}, {"sort_by": "x"}])
def test_unknown_choice_lists_the_known_ones(wrong):
    with pytest.raises(ValueError, match="model zoo has no .* 'x'; it has"):
        catalogue.entries(**wrong)


def test_entry_is_found_by_any_of_its_names():
    entry = catalogue.find(FASTER)
    assert entry is catalogue.find(FASTER.replace(".yaml", ".py")) is catalogue.find(entry.name)
    assert (entry.task, entry.dataset, entry.schedule) == ("detection", "COCO", "1x")
    assert entry.metrics == {"box_ap": 37.9} and entry.train_memory_gb == 3.0
    assert catalogue.find("common/train.py") is None
    assert catalogue.weights_licence() == "CC BY-SA 3.0"


def test_catalogue_file_is_plain_json():
    path = os.path.join(os.path.dirname(catalogue.__file__), "catalogue.json")
    with open(path, encoding="utf-8") as file:
        assert sorted(json.load(file)) == ["entries", "weights_licence"]


# --- models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["COCO-Detection/retinanet_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.py"]
)
def test_model_is_built_and_its_weights_are_loaded(name, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "detectron2.checkpoint.DetectionCheckpointer.load",
        lambda self, path, *a, **k: loaded.append((type(self.model).__name__, path)),
    )
    model = model_zoo.get(name, trained=True, device="cpu")
    assert model.training and next(model.parameters()).device.type == "cpu"
    assert loaded == [("RetinaNet", model_zoo.get_checkpoint_url(name))]


def test_reading_a_config_does_not_load_the_models():
    import subprocess
    import sys

    code = (
        "import sys; from detectron2 import model_zoo; "
        f"model_zoo.get_config({FASTER!r}); "
        "assert 'detectron2.modeling' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- numbers of a model ---------------------------------------------------------------------


def test_summary_counts_parts_parameters_and_multiply_adds():
    model = summary.build("Quickstart/mask_rcnn_R_50_narrow_FPN.yaml")
    numbers = summary.summarize(model, (64, 96))
    assert numbers.architecture == "GeneralizedRCNN"
    assert [(part.name, part.layers) for part in numbers.parts] == [
        ("backbone", "FPN > ResNet"),
        ("proposal_generator", "RPN"),
        ("roi_heads", "StandardROIHeads"),
    ]
    assert numbers.parameters == sum(part.parameters for part in numbers.parts)
    assert numbers.parameters == sum(p.numel() for p in model.parameters()) == numbers.trainable
    assert numbers.megabytes > 4 * numbers.parameters / 2**20
    # The stem alone: 32 x 48 places, 32 channels of 7 x 7 x 3.
    assert numbers.parts[0].gflops > 32 * 48 * 32 * 147 / 1e9
    assert numbers.gflops == pytest.approx(sum(part.gflops for part in numbers.parts))
    assert summary.summarize(model, None).gflops is None


def test_numbers_are_for_the_size_that_a_model_is_made_for():
    model, net = torch.nn.Module(), ViT(embed_dim=4, depth=1, num_heads=1)
    assert summary.usual_size(model) == (800, 1088)
    model.backbone = SimpleFeaturePyramid(net, "last_feat", 4, (1.0,))
    assert summary.usual_size(model) == (800, 1088)
    model.backbone = SimpleFeaturePyramid(net, "last_feat", 4, (1.0,), square_pad=64)
    assert summary.usual_size(model) == (64, 64)


def test_a_model_that_takes_proposals_is_given_some():
    model = summary.build("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml")
    (sample,) = summary.example_inputs(model, (40, 60))
    boxes = sample["proposals"].proposal_boxes
    assert len(boxes) == 1000 and boxes.nonempty().all() and boxes.inside_box((40, 60)).all()


def test_a_piece_of_a_config_has_no_model():
    with pytest.raises(ValueError, match="describes no model"):
        summary.build("common/train.py")


def test_convention_notebooks_list_the_models_of_the_zoo():
    from detectron2.model_zoo.model_zoo import _ModelZooUrls

    urls = _ModelZooUrls()
    name = "COCO-Detection/faster_rcnn_R_50_C4_1x"
    assert urls.CONFIG_PATH_TO_URL_SUFFIX[name] == "137257644/model_final_721ade.pkl"
    expected = f"{urls.S3_PREFIX}{name}/{urls.CONFIG_PATH_TO_URL_SUFFIX[name]}"
    assert urls.query(f"{name}.yaml") == expected and urls.query("nothing") is None
