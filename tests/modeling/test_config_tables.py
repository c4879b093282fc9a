"""The yacs defaults and the defaults of the constructors say the same, or a reason is listed."""

import inspect

import pytest

from detectron2.config import get_cfg
from detectron2.config.mapping import (
    backbone,
    dense,
    lookup,
    meta_arch,
    proposal_generator,
    read_arguments,
    roi_heads,
)
from detectron2.modeling import anchor_generator, box_regression, matcher, poolers
from detectron2.modeling import test_time_augmentation as tta
from detectron2.modeling.backbone import _resnet_plan, fpn, resnet
from detectron2.modeling.meta_arch import panoptic_fpn, rcnn, retinanet, semantic_seg
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads import box_head, fast_rcnn, keypoint_head, mask_head
from detectron2.modeling.roi_heads import roi_heads as heads

# table -> the callables that take its arguments between them
TAKERS = {
    "backbone.RESNET": [resnet._resnet, _resnet_plan.plan_stages],
    "backbone.FPN": [fpn.FPN],
    "proposal_generator.ANCHOR_GENERATOR": [anchor_generator.DefaultAnchorGenerator],
    "proposal_generator.ROTATED_ANCHOR_GENERATOR": [anchor_generator.RotatedAnchorGenerator],
    "proposal_generator.ANCHOR_MATCHER": [matcher.Matcher],
    "proposal_generator.BOX_TRANSFORM": [box_regression.Box2BoxTransform],
    "proposal_generator.RPN": [rpn.RPN],
    "proposal_generator.RPN_TRAIN_TEST": [rpn.RPN],
    "proposal_generator.RPN_HEAD": [rpn.StandardRPNHead],
    "dense.RETINANET": [retinanet.RetinaNet],
    "dense.RETINANET_HEAD": [retinanet.RetinaNetHead],
    "dense.RETINANET_MATCHER": [matcher.Matcher],
    "dense.RETINANET_BOX_TRANSFORM": [box_regression.Box2BoxTransform],
    "roi_heads.ROI_HEADS": [heads.ROIHeads],
    "roi_heads.PROPOSAL_MATCHER": [matcher.Matcher],
    "roi_heads.STANDARD_ROI_HEADS": [heads.StandardROIHeads],
    "roi_heads.BOX_POOLER": [poolers.ROIPooler],
    "roi_heads.MASK_POOLER": [poolers.ROIPooler],
    "roi_heads.KEYPOINT_POOLER": [poolers.ROIPooler],
    "roi_heads.BOX_TRANSFORM": [box_regression.Box2BoxTransform],
    "roi_heads.BOX_HEAD": [box_head.FastRCNNConvFCHead],
    "roi_heads.FAST_RCNN_OUTPUT_LAYERS": [fast_rcnn.FastRCNNOutputLayers],
    "roi_heads.BASE_MASK_HEAD": [mask_head.BaseMaskRCNNHead],
    "roi_heads.MASK_HEAD": [mask_head.MaskRCNNConvUpsampleHead],
    "roi_heads.BASE_KEYPOINT_HEAD": [keypoint_head.BaseKeypointRCNNHead],
    "roi_heads.KEYPOINT_HEAD": [keypoint_head.KRCNNConvDeconvUpsampleHead],
    "roi_heads.RES5_STAGE": [resnet.BottleneckBlock],
    "meta_arch.GENERALIZED_RCNN": [rcnn.GeneralizedRCNN],
    "meta_arch.PROPOSAL_NETWORK": [rcnn.ProposalNetwork],
    "meta_arch.PANOPTIC_FPN": [panoptic_fpn.PanopticFPN],
    "meta_arch.SEMANTIC_SEGMENTOR": [semantic_seg.SemanticSegmentor],
    "meta_arch.SEM_SEG_FPN_HEAD": [semantic_seg.SemSegFPNHead],
    "meta_arch.DATASET_MAPPER_TTA": [tta.DatasetMapperTTA],
}

# Tables whose entries are put together by hand: two numbers become one dictionary of weights.
COMBINED = {"proposal_generator.RPN_LOSS_WEIGHTS"}

# (table, argument) -> why the two defaults differ. Both are promises to users: the yacs value to
# those with YAML files, the other to those who call the constructor.
INTENDED = {
    ("proposal_generator.ANCHOR_GENERATOR", "offset"): "YAML configs keep Detectron1's corners",
    ("proposal_generator.ROTATED_ANCHOR_GENERATOR", "offset"): "as for upright anchors",
    ("dense.RETINANET", "smooth_l1_beta"): "YAML models were published with 0.1",
    ("roi_heads.FAST_RCNN_OUTPUT_LAYERS", "test_score_thresh"): "code starts without a threshold",
    ("roi_heads.RES5_STAGE", "norm"): "backbones of YAML configs are pretrained and frozen",
    ("roi_heads.RES5_STAGE", "stride_in_1x1"): "YAML configs start from MSRA's weights",
    ("meta_arch.GENERALIZED_RCNN", "input_format"): "in code only drawing needs it",
    ("meta_arch.SEM_SEG_FPN_HEAD", "norm"): "Panoptic FPN was published with GN",
    ("meta_arch.SEM_SEG_FPN_HEAD", "ignore_value"): "255 is the void label of the datasets",
}

MODULES = {
    module.__name__.rsplit(".", 1)[1]: module
    for module in (backbone, dense, meta_arch, proposal_generator, roi_heads)
}


def tables():
    return {
        f"{family}.{name}": value
        for family, module in MODULES.items()
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, dict)
    }


def parameters(table_name):
    merged = {}
    for taker in TAKERS[table_name]:
        merged.update(inspect.signature(taker).parameters)
    return merged


def plain(value):
    """Lists and tuples compare alike."""
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def rows_with_default():
    return [
        (name, argument, key, parameters(name)[argument].default)
        for name, table in tables().items()
        if name not in COMBINED
        for argument, key in table.items()
        if parameters(name)[argument].default is not inspect.Parameter.empty
    ]


def test_every_table_is_compared():
    assert set(tables()) == set(TAKERS) | COMBINED


@pytest.mark.parametrize("name", sorted(tables()))
def test_every_key_of_a_table_exists(name):
    cfg = get_cfg()
    for keys in tables()[name].values():
        for key in keys if isinstance(keys, tuple) else (keys,):
            lookup(cfg, key)


@pytest.mark.parametrize("name", sorted(TAKERS))
def test_every_argument_of_a_table_is_taken(name):
    assert set(tables()[name]) <= set(parameters(name))


@pytest.mark.parametrize(
    "name, argument, key, default",
    [row for row in rows_with_default() if row[:2] not in INTENDED],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_convention_both_defaults_agree(name, argument, key, default):
    assert plain(lookup(get_cfg(), key)) == plain(default)


def test_listed_differences_are_differences():
    rows = {row[:2]: row[2:] for row in rows_with_default()}
    for row, reason in INTENDED.items():
        key, default = rows[row]
        assert plain(lookup(get_cfg(), key)) != plain(default), (row, reason)


def test_the_number_of_convolutions_of_retinanet_is_a_key():
    assert lookup(get_cfg(), dense.RETINANET_NUM_CONVS) == 4


def test_a_missing_key_is_named():
    with pytest.raises(KeyError, match="MODEL.NOTHING.*missing at 'NOTHING'"):
        read_arguments(get_cfg(), {"x": "MODEL.NOTHING.HERE"})
