"""DeepLab beside its golden cases."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from small_deeplab import (
    CLASSES,
    PANOPTIC,
    PANOPTIC_SEPARABLE,
    SIDE,
    V3,
    V3_PLUS,
    pixels,
    small_config,
    small_model,
)
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.config.mapping import lookup
from detectron2.data import DatasetCatalog
from detectron2.engine.inference import speed_up
from detectron2.engine.train_command import TrainOptions, run_train
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.projects.deeplab import (
    DeepLabV3Head,
    DeepLabV3PlusHead,
    WarmupPolyLR,
    add_deeplab_config,
    build_lr_scheduler,
    config,
    resnet,
)
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.deeplab.trainer import build_sem_seg_augmentations
from detectron2.projects.panoptic_deeplab import (
    PanopticDeepLab,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    add_panoptic_deeplab_config,
)
from detectron2.projects.panoptic_deeplab import config as panoptic_config
from detectron2.projects.shipped import trainer_of

BOTH = pytest.mark.parametrize("name", [V3, V3_PLUS], ids=["v3", "v3+"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (V3, 58_163_667),
        (V3_PLUS, 59_467_315),
        (PANOPTIC, 59_770_166),
        (PANOPTIC_SEPARABLE, 30_271_350),
    ],
    ids=["v3", "v3+", "panoptic", "panoptic, separable"],
)
def test_shipped_models_have_the_published_number_of_parameters(name, count, monkeypatch):
    for fill in ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, fill, lambda tensor, *args, **kwargs: tensor)
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == count


def coloured_squares():
    """An image of four squares, whose class their colour tells."""
    half = SIDE // 2
    labels = torch.tensor([[0, 1], [2, 3]])
    labels = labels.repeat_interleave(half, 0).repeat_interleave(half, 1)
    return {
        "image": torch.stack([labels * 60.0, 255 - labels * 70.0, labels * 0.0]),
        "sem_seg": labels,
    }


@BOTH
def test_training_on_one_batch_lowers_the_loss(name):
    # Of all pixels: the hardest fifth of a map this small is what is yet to be learnt.
    model = small_model(name, MODEL__SEM_SEG_HEAD__LOSS_TYPE="cross_entropy")
    inputs = [coloured_squares()]
    inputs[0]["sem_seg"][:4] = 255
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(10):
        loss = model(inputs)["loss_sem_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0], losses


@BOTH
@pytest.mark.parametrize("crop", [True, False], ids=["of crops", "of images"])
def test_scores_have_the_size_that_is_asked_for(name, crop):
    model = small_model(name, INPUT__CROP__ENABLED=crop).eval()
    sizes = [(50, 70), (SIDE, SIDE)]
    inputs = [{"image": torch.rand(3, *size) * 255} for size in sizes]
    inputs[0] |= {"height": 90, "width": 33}
    with torch.no_grad():
        first, second = model(inputs)
    assert first["sem_seg"].shape == (CLASSES, 90, 33)
    assert second["sem_seg"].shape == (CLASSES, SIDE, SIDE)


@BOTH
def test_the_fast_form_has_the_same_outputs(name):
    model = small_model(name).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    inputs = [{"image": x} for x in pixels(1)]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"]
        assert_close(speed_up(model)(inputs)[0]["sem_seg"], expected, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_the_backbone_alone_is_found_by_name(tmp_path):
    model = small_model(V3_PLUS)
    weights = {k: v.clone() + 1 for k, v in model.backbone.state_dict().items()}
    torch.save({"model": weights, "matching_heuristics": True}, tmp_path / "backbone.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "backbone.pth"))
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


# --- backbone ---------------------------------------------------------------------------------


def backbone(**changes):
    cfg = small_config(V3_PLUS, MODEL__RESNETS__OUT_FEATURES=["res2", "res4", "res5"], **changes)
    return build_backbone(cfg)


@pytest.mark.parametrize(
    ("res4", "res5", "strides", "dilations"),
    [(1, 1, (16, 32), (1, 2, 4)), (1, 2, (16, 16), (2, 4, 8)), (2, 4, (8, 8), (4, 8, 16))],
)
def test_dilated_stages_keep_the_resolution(res4, res5, strides, dilations):
    net = backbone(MODEL__RESNETS__RES4_DILATION=res4, MODEL__RESNETS__RES5_DILATION=res5)
    maps = net(torch.zeros(1, 3, SIDE, SIDE))
    for name, stride in zip(("res4", "res5"), strides):
        assert net.output_shape()[name].stride == stride
        assert maps[name].shape[-1] == SIDE // stride
    assert {block.conv2.dilation[0] for block in net.res4} == {res4}
    assert tuple(block.conv2.dilation[0] for block in net.res5) == dilations


def test_the_stem_can_be_that_of_the_library():
    net = backbone(MODEL__RESNETS__STEM_TYPE="basic")
    assert net.stem.conv1.kernel_size == (7, 7)
    assert net(torch.zeros(1, 3, SIDE, SIDE))["res2"].shape[-1] == SIDE // 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"RES4_DILATION": 3}, "RES4_DILATION is 3"),
        ({"RES5_DILATION": 3}, "RES5_DILATION is 3"),
        ({"RES4_DILATION": 2}, "needs RES5_DILATION 4, not 2"),
        ({"RES5_MULTI_GRID": [1, 2]}, "one number for each of the 3 blocks"),
        ({"STEM_TYPE": "deep"}, r"'deep'; use one of \['basic', 'deeplab'\]"),
        ({"DEPTH": 18}, "DEPTH is 18, whose blocks have no dilation"),
    ],
)
def test_contradicting_keys_of_the_backbone_are_named(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        backbone(**{f"MODEL__RESNETS__{key}": value for key, value in changes.items()})


# --- config tables ----------------------------------------------------------------------------

# (table, argument) -> why the two defaults differ.
INTENDED = {
    "ignore_value": "255 is the void label of the datasets",
    "num_classes": "YAML configs start from COCO's 54 stuff classes",
}
TABLES = {
    "backbone": (config.DEEPLAB_BACKBONE, resnet._resnet),
    "v3": (config.DEEPLAB_V3_HEAD, DeepLabV3Head),
    "v3+": (config.DEEPLAB_V3_PLUS_HEAD, DeepLabV3PlusHead),
    "schedule": (config.POLY_LR, WarmupPolyLR),
    "panoptic, classes": (panoptic_config.SEM_SEG_HEAD, PanopticDeepLabSemSegHead),
    "panoptic, things": (panoptic_config.INS_EMBED_HEAD, PanopticDeepLabInsEmbedHead),
    "panoptic": (panoptic_config.PANOPTIC_DEEPLAB, PanopticDeepLab),
}


@pytest.mark.parametrize("name", TABLES)
def test_defaults_of_keys_are_those_of_constructors(name):
    table, taker = TABLES[name]
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    parameters = inspect.signature(taker).parameters
    own = {argument: key for argument, key in table.items() if argument in parameters}
    takes_others = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert takes_others or len(own) == len(table)
    for argument, key in own.items():
        default = parameters[argument].default
        if default is inspect.Parameter.empty or argument in INTENDED:
            continue
        value = lookup(cfg, key)
        value = tuple(value) if isinstance(value, list) else value
        assert value == default, f"{key} is {value}, {argument} of {taker.__name__} {default}"


# --- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (V3, {"MODEL__SEM_SEG_HEAD__LOSS_TYPE": "dice"}, "LOSS_TYPE is 'dice'"),
        (V3, {"INPUT__CROP__SIZE": [64, 72]}, r"CROP.SIZE is \[64, 72\]; it must be a multiple"),
        (V3_PLUS, {"INPUT__CROP__SIZE": [72, 64]}, r"must be a multiple .* stride, 16"),
        (V3, {"INPUT__CROP__TYPE": "relative"}, "CROP.TYPE is 'relative'"),
        (V3, {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res5", "res5"]}, None),
        (V3_PLUS, {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res5"]}, "needs two features"),
        (V3_PLUS, {"MODEL__SEM_SEG_HEAD__PROJECT_CHANNELS": [4, 4]}, "1 PROJECT_CHANNELS"),
    ],
)
def test_contradicting_keys_of_a_head_are_named(name, changes, sentence):
    if sentence is None:  # the same feature twice is one feature
        assert small_model(name, **changes)
        return
    with pytest.raises(ValueError, match=sentence):
        small_model(name, **changes)


def test_a_decoder_without_classes_returns_features():
    shapes = {"res5": ShapeSpec(channels=6, stride=16), "res2": ShapeSpec(channels=5, stride=4)}
    head = DeepLabV3PlusHead(
        shapes,
        project_channels=[3],
        aspp_dilations=[1],
        aspp_dropout=0.0,
        decoder_channels=[7, 4],
        common_stride=4,
        norm="BN",
        train_size=None,
    )
    assert head.in_features == ["res2", "res5"]  # by stride
    features = {"res2": torch.rand(2, 5, 16, 16), "res5": torch.rand(2, 6, 4, 4)}
    assert head(features).shape == (2, 7, 16, 16)
    assert not hasattr(head, "predictor")


def test_the_separable_decoder_has_one_convolution_of_the_names_of_published_weights():
    model = small_model(V3_PLUS, MODEL__SEM_SEG_HEAD__USE_DEPTHWISE_SEPARABLE_CONV=True)
    shapes = {k: tuple(v.shape) for k, v in model.sem_seg_head.state_dict().items()}
    assert shapes["decoder.res2.fuse_conv.depthwise.weight"] == (56, 1, 5, 5)
    assert shapes["decoder.res2.fuse_conv.pointwise.weight"] == (8, 56, 1, 1)
    assert shapes["decoder.res5.project_conv.convs.1.depthwise.weight"] == (128, 1, 3, 3)


# --- loss -------------------------------------------------------------------------------------


def test_hard_pixel_mining_averages_the_largest_losses():
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 1, 0] = torch.arange(10.0)  # class 1 gets ever likelier
    labels = torch.zeros(1, 1, 10, dtype=torch.long)
    loss = DeepLabCE(top_k_percent_pixels=0.2)(logits, labels)
    expected = F.softplus(torch.tensor([8.0, 9.0])).mean()
    assert_close(loss, expected)


def test_pixel_weights_decide_which_pixels_are_hard():
    logits = torch.zeros(1, 2, 1, 4)
    labels = torch.zeros(1, 1, 4, dtype=torch.long)
    weights = torch.tensor([[[1.0, 5.0, 1.0, 1.0]]])
    loss = DeepLabCE(top_k_percent_pixels=0.25)(logits, labels, weights)
    assert_close(loss, 5 * torch.tensor(2.0).log())


def test_quirk_ignored_pixels_count_in_the_mean():
    logits = torch.zeros(1, 2, 1, 4)
    labels = torch.tensor([[[0, 9, 9, 9]]])
    assert_close(DeepLabCE(ignore_label=9)(logits, labels), torch.tensor(2.0).log() / 4)


def test_a_share_that_is_a_percentage_is_refused():
    with pytest.raises(ValueError, match="is 20; it is a share between 0 and 1"):
        DeepLabCE(top_k_percent_pixels=20)


# --- schedule ---------------------------------------------------------------------------------


def rates(scheduler, optimizer, steps):
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def optimizer_of_rate_1():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_the_rate_does_not_fall_below_the_constant_ending():
    optimizer = optimizer_of_rate_1()
    scheduler = WarmupPolyLR(
        optimizer, 10, warmup_factor=0.1, warmup_iters=2, power=1.0, constant_ending=0.5
    )
    found = rates(scheduler, optimizer, 12)  # also past the end
    assert found == pytest.approx([0.1, 0.9 * 0.55, 0.8, 0.7, 0.6, 0.5, *[0.5] * 6])


def test_schedules_of_the_library_are_built_by_their_names():
    cfg = small_config(V3, SOLVER__LR_SCHEDULER_NAME="WarmupCosineLR")
    assert type(build_lr_scheduler(cfg, optimizer_of_rate_1())).__name__ == "LRMultiplier"


# --- data, training by command ----------------------------------------------------------------


def test_crops_are_taken_after_resizing():
    cfg = small_config(V3, INPUT__CROP__SINGLE_CATEGORY_MAX_AREA=0.75)
    names = [type(each).__name__ for each in build_sem_seg_augmentations(cfg)]
    assert names == ["ResizeShortestEdge", "RandomCrop_CategoryAreaConstraint", "RandomFlip"]
    cfg.INPUT.CROP.ENABLED = False
    assert len(build_sem_seg_augmentations(cfg)) == 2


@pytest.fixture
def tiny_sem_seg(tmp_path):
    labels = np.zeros((70, 96), np.uint8)
    labels[:, 48:] = 1
    Image.fromarray(labels * 200).convert("RGB").save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "height": 70,
        "width": 96,
    }
    DatasetCatalog.register("tiny_sem_seg", lambda: [record, record])
    yield
    DatasetCatalog.remove("tiny_sem_seg")


@pytest.mark.usefixtures("tiny_sem_seg", "process_as_before")
def test_the_command_line_trains_a_config_of_the_project(tmp_path):
    cfg = small_config(
        V3_PLUS,
        DATASETS__TRAIN=("tiny_sem_seg",),
        DATASETS__TEST=(),
        SOLVER__MAX_ITER=3,
        SOLVER__WARMUP_ITERS=0,
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    output = tmp_path / "out"
    run_train(TrainOptions(config=str(tmp_path / "config.yaml"), output=output, device="cpu"))
    state = torch.load(output / "model_final.pth", weights_only=True)
    # The last step is that of the polynomial.
    rate = state["scheduler"]["_last_lr"][0] if "scheduler" in state else None
    assert (output / "model_final.pth").exists() and rate in (None, 0.0)


def test_configs_without_keys_of_a_project_keep_the_default_trainer():
    assert trainer_of(get_cfg()) is None
    cfg = get_cfg()
    add_deeplab_config(cfg)
    assert trainer_of(cfg).__name__ == "DeepLabTrainer"
