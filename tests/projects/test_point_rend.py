"""PointRend beside its golden cases and what `test_architectures.py` asks of every model."""

import colorsys
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.engine.config_source import resolve_config
from detectron2.layers import ShapeSpec
from detectron2.projects import point_rend
from detectron2.projects.point_rend import (
    ColorAugSSDTransform,
    PointRendROIHeads,
    add_pointrend_config,
)
from detectron2.projects.point_rend.mask_head import (
    ConvFCHead,
    _mean_square,
    calculate_uncertainty,
)
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
    point_sample_fine_grained_features,
    sample_point_labels,
)
from detectron2.projects.point_rend.point_head import (
    ImplicitPointHead,
    StandardPointHead,
    roi_mask_point_loss,
)
from detectron2.projects.point_rend.trainer import (
    PointRendTrainer,
    build_point_rend_augmentations,
)
from detectron2.projects.shipped import trainer_of
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

CONFIGS = sorted((Path(point_rend.__file__).parent / "configs").rglob("*.yaml"))


def config(path=None):
    cfg = get_cfg()
    add_pointrend_config(cfg)
    if path is not None:
        cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_agree_on_the_number_of_classes(path):
    cfg = config(path)
    if "semantic" in path.stem.lower():
        assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    else:
        assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES
        assert cfg.INPUT.MASK_FORMAT == "bitmask"


def test_configs_that_set_its_keys_get_them(tmp_path):
    name = "PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco.yaml"
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve_config(name).dump())
    for cfg in (model_zoo.get_config(name, trained=True), resolve_config(str(saved))):
        assert cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS == 784
    assert "POINT_HEAD" not in resolve_config("COCO-Detection/retinanet_R_50_FPN_1x").MODEL
    assert model_zoo.get_checkpoint_url(name).endswith(
        "/PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/"
        "164955410/model_final_edd263.pkl"
    )


# --- points ---------------------------------------------------------------------------------


def test_a_map_is_read_between_the_centres_of_its_cells():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    points = torch.tensor([[[0.5 / 8, 0.5], [0.5, 0.5], [7.5 / 8, 0.5]]])
    assert point_sample(ramp, points).tolist() == [[[0.0, 3.5, 7.0]]]
    assert point_sample(ramp, points[:, None]).shape == (1, 1, 1, 3)


def test_half_precision_maps_are_read_at_exact_points():
    ramp = torch.arange(256.0).view(1, 1, 1, 256)
    points = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0))
    points[..., 1] = 0.5
    exact = point_sample(ramp, points)
    assert_close(point_sample(ramp.bfloat16(), points).float(), exact, rtol=4e-3, atol=0.5)


def test_the_grid_goes_row_by_row():
    grid = generate_regular_grid_point_coords(2, 2, "cpu")
    assert grid.tolist() == [[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]] * 2


def test_uncertain_points_lie_where_logits_are_near_zero():
    logits = torch.full((2, 1, 4, 8), 9.0)
    logits[:, :, :, 5] = 0.0
    torch.manual_seed(0)
    uncertainty = lambda x: -x.abs()  # noqa: E731
    points = get_uncertain_point_coords_with_randomness(logits, uncertainty, 20, 30, 0.75)
    assert points.shape == (2, 20, 2)
    centre = 5.5 / 8
    assert (points[:, :15, 0] - centre).abs().max() < 1 / 8
    assert (points[:, 15:, 0] - centre).abs().max() > 1 / 8
    all_uncertain = get_uncertain_point_coords_with_randomness(logits, uncertainty, 20, 30, 1.0)
    assert (all_uncertain[..., 0] - centre).abs().max() < 1 / 8


def test_a_share_of_more_than_all_points_is_refused():
    with pytest.raises(AssertionError, match="importance_sample_ratio 1.5"):
        get_uncertain_point_coords_with_randomness(torch.zeros(1, 1, 2, 2), abs, 4, 3, 1.5)


def test_the_most_uncertain_cells_are_named_with_their_centres():
    uncertainty = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]]])
    indices, points = get_uncertain_point_coords_on_grid(uncertainty, 2)
    assert indices.tolist() == [[5, 1]]
    assert_close(points, torch.tensor([[[5 / 6, 0.75], [0.5, 0.25]]]))
    assert get_uncertain_point_coords_on_grid(uncertainty, 100)[0].shape == (1, 6)


def test_maps_of_all_scales_are_read_at_the_same_places():
    x = (torch.arange(16) + 0.5).view(1, 1, 1, 16).expand(2, 1, 16, 16)
    fine, coarse = x.clone(), F.avg_pool2d(x, 4)
    fine[1] += 100
    boxes = [Boxes(torch.tensor([[2.0, 2, 10, 10], [4, 4, 12, 6]])), Boxes(torch.zeros(0, 4))]
    boxes[1] = Boxes(torch.tensor([[4.0, 4, 8, 8]]))
    points = torch.tensor([[[0.25, 0.5], [0.5, 0.5]]]).expand(3, -1, -1)
    values, in_image = point_sample_fine_grained_features([fine, coarse], [1, 0.25], boxes, points)
    assert in_image[:, :, 0].tolist() == [[4, 6], [6, 8], [5, 6]]
    assert_close(values[:2, 0], in_image[:2, :, 0])
    assert_close(values[2, 0], in_image[2, :, 0] + 100)
    assert_close(values[:, 1], in_image[:, :, 0])


# --- labels and loss ------------------------------------------------------------------------


def annotated(count, size=(11, 13), rows=None):
    masks = torch.rand(count, *size, generator=torch.Generator().manual_seed(3)) > 0.5
    x = Instances(size, gt_classes=torch.arange(count) % 3, gt_masks=BitMasks(masks))
    return x if rows is None else x[rows]


def test_labels_are_bilinear_samples_of_the_masks():
    rows = torch.tensor([0, 1, 0, 2, 2, 1])  # more proposals than objects: their bitmaps are shared
    x = annotated(3, rows=rows)
    points = torch.rand(6, 40, 2, generator=torch.Generator().manual_seed(1)) * 16 - 1.5
    labels = sample_point_labels([annotated(0), x], points)
    masks = annotated(3).gt_masks.tensor[rows].float()
    assert_close(labels, point_sample(masks[:, None], points / torch.tensor([13.0, 11.0]))[:, 0])
    assert "tensor" not in vars(x.gt_masks) and x.gt_masks._copied is None
    assert sample_point_labels([annotated(0)], points[:0]).shape == (0, 40)


def test_polygons_are_refused_by_the_name_of_the_key():
    x = Instances((8, 8), gt_masks=PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 4])]]))
    with pytest.raises(AssertionError, match="INPUT.MASK_FORMAT to 'bitmask'"):
        sample_point_labels([x], torch.zeros(1, 2, 2))


def test_loss_looks_at_the_true_class_and_not_at_unknown_points():
    logits = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1, 0, -1]] * 3)
    with EventStorage() as storage:
        loss = roi_mask_point_loss(logits, [annotated(3)], labels)
        storage.step()
        accuracy = storage.latest()["point/accuracy"][0]
    own = logits[torch.arange(3), torch.arange(3)]
    terms = F.binary_cross_entropy_with_logits(own, labels.clamp(min=0), reduction="none")
    assert_close(loss, terms[:, :4].sum() / 15)
    assert accuracy == pytest.approx(((own > 0) == (labels > 0.5))[:, :4].float().mean().item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :, 4].any()


def test_loss_without_objects_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 3, 5, requires_grad=True)
    loss = roi_mask_point_loss(logits, [annotated(0)], torch.zeros(0, 5))
    loss.backward()
    assert loss == 0


def test_uncertainty_is_that_of_each_objects_class():
    logits = torch.tensor([[[[1.0]], [[-2.0]]], [[[3.0]], [[4.0]]]])
    classes = torch.tensor([1, 0])
    assert calculate_uncertainty(logits, classes).flatten().tolist() == [-2, -3]
    assert calculate_uncertainty(logits[:, :1], classes).flatten().tolist() == [-1, -3]


# --- heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("each_layer", [True, False])
def test_coarse_prediction_enters_the_layers(each_layer):
    head = StandardPointHead(
        ShapeSpec(channels=7), num_classes=4, fc_dims=[6, 5], coarse_pred_each_layer=each_layer
    )
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if "weight" in name}
    more = 4 if each_layer else 0
    assert shapes == {
        "fc1.weight": (6, 11, 1),
        "fc2.weight": (5, 6 + more, 1),
        "predictor.weight": (4, 5 + more, 1),
    }
    assert head(torch.rand(2, 7, 9), torch.rand(2, 4, 9)).shape == (2, 4, 9)


def test_each_object_has_a_perceptron_of_its_own():
    torch.manual_seed(0)
    head = ImplicitPointHead(ShapeSpec(channels=3), num_classes=2, hidden_dims=[4, 5])
    numbers = torch.randn(2, head.num_params)
    features, points = torch.randn(2, 3, 6), torch.rand(2, 6, 2)
    logits = head(features, points, numbers)
    widths = [256 + 3, 4, 5, 2]
    for k in range(2):
        angles = 2 * np.pi * (2 * points[k] - 1) @ head.positional_encoding_gaussian_matrix
        x = torch.cat([angles.sin(), angles.cos(), features[k].T], dim=1)
        weights = numbers[k].split([*(a * b for a, b in zip(widths, widths[1:])), *widths[1:]])
        for layer, (a, b) in enumerate(zip(widths, widths[1:])):
            x = F.linear(x, weights[layer].view(b, a), weights[3 + layer])
            x = x if layer == 2 else x.relu()
        assert_close(logits[k], x.T, rtol=1e-4, atol=1e-4)


def test_a_perceptron_without_input_is_refused():
    with pytest.raises(ValueError, match="neither IMAGE_FEATURE_ENABLED nor POS_ENC_ENABLED"):
        ImplicitPointHead(
            ShapeSpec(channels=3),
            num_classes=2,
            hidden_dims=[4],
            image_feature_enabled=False,
            positional_encoding_enabled=False,
        )


def test_the_first_grid_has_as_many_points_as_may_be_predicted():
    cfg = config(CONFIGS[0].parents[1] / "InstanceSegmentation/Base-PointRend-RCNN-FPN.yaml")
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4, 5)}
    head = point_rend.PointRendMaskHead(cfg, shapes)
    assert head.first_grid() == (28, 3)  # of 7 and 5: masks of 224 x 224


def test_other_numbers_of_classes_are_refused():
    cfg = config()
    cfg.MODEL.POINT_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="POINT_HEAD.NUM_CLASSES is 7 and MODEL.ROI_HEADS"):
        point_rend.PointRendMaskHead(cfg, {"p2": ShapeSpec(channels=8, stride=4)})


def test_weights_under_old_names_are_found():
    head = ConvFCHead(
        ShapeSpec(channels=2, height=4, width=4), conv_dim=4, fc_dims=[3], output_shape=(2, 2)
    )
    state = {k.replace("fc1", "coarse_mask_fc1"): v for k, v in head.state_dict().items()}
    head.load_state_dict(state)
    cfg = config(CONFIGS[0].parents[1] / "InstanceSegmentation/Base-PointRend-RCNN-FPN.yaml")
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.NAME", "CoarseMaskHead"])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.FC_DIM", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.CONV_DIM", 8])
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4, 5)}
    heads = PointRendROIHeads(cfg, shapes)
    renamed = {
        k.replace("mask_head.point_head", "mask_point_head").replace(
            "mask_head.coarse_head", "mask_coarse_head"
        ): v
        for k, v in heads.state_dict().items()
    }
    assert "mask_point_head.fc1.weight" in renamed
    heads.load_state_dict(renamed)


# --- colours --------------------------------------------------------------------------------


def applied(change, img, **options):
    """What one change makes of an image, drawn until it is not left out."""
    transform = ColorAugSSDTransform("RGB", **options)
    for seed in range(100):
        random.seed(seed)
        changed = getattr(transform, change)(img)
        if changed is not img:
            return changed
    raise AssertionError(f"{change} was never applied.")


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def hsv(img):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in img.reshape(-1, 3) / 255.0])


def test_hue_moves_alone(colours):
    before = hsv(colours)
    after = hsv(applied("hue", colours, hue_delta=18))
    vivid = before[:, 1] * before[:, 2] > 0.4
    moved = (after[vivid, 0] - before[vivid, 0] + 0.5) % 1 - 0.5
    assert np.ptp(moved) < 0.01 and 0.01 < abs(moved.mean()) <= 0.1
    assert_close(after[:, 2], before[:, 2], atol=1 / 255, rtol=0)


def test_saturation_moves_alone(colours):
    before = hsv(colours)
    after = hsv(applied("saturation", colours, saturation_low=0.5, saturation_high=0.5))
    bright = before[:, 2] > 0.3
    assert np.abs(after[bright, 1] - before[bright, 1] / 2).max() < 0.02
    assert_close(after[:, 2], before[:, 2], atol=1 / 255, rtol=0)
    most = applied("saturation", colours, saturation_low=1000.0, saturation_high=1000.0)
    assert (most.min(axis=2) == 0).all()


def test_brightness_and_contrast_stay_within_a_byte(colours):
    brighter = applied("brightness", colours, brightness_delta=200).astype(int)
    difference = brighter - colours
    inside = (brighter > 0) & (brighter < 255)
    assert np.ptp(difference[inside]) <= 1
    stronger = applied("contrast", colours, contrast_low=1.5, contrast_high=1.5)
    assert_close(stronger, (colours * 1.5).round().clip(0, 255).astype(np.uint8))


def test_channels_keep_their_order_and_labels_their_values(colours):
    random.seed(5)
    rgb = ColorAugSSDTransform("RGB").apply_image(colours)
    random.seed(5)
    bgr = ColorAugSSDTransform("BGR").apply_image(colours[:, :, ::-1])
    assert (bgr[:, :, ::-1] == rgb).all() and (rgb != colours).any() and rgb.dtype == np.uint8
    transform = ColorAugSSDTransform("BGR")
    labels = colours[:, :, 0]
    assert transform.apply_segmentation(labels) is labels
    with pytest.raises(AssertionError, match="'YUV'"):
        ColorAugSSDTransform("YUV")


def test_semantic_maps_are_trained_on_crops_in_other_colours():
    cfg = model_zoo.get_config(
        "PointRend/SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml"
    )
    assert trainer_of(cfg) is PointRendTrainer
    names = [type(each).__name__ for each in build_point_rend_augmentations(cfg)]
    crop, colours = "RandomCrop_CategoryAreaConstraint", "ColorAugSSDTransform"
    assert names == ["ResizeShortestEdge", crop, colours, "RandomFlip"]
    cfg.INPUT.CROP.ENABLED = False
    names = [type(each).__name__ for each in build_point_rend_augmentations(cfg)]
    assert names == ["ResizeShortestEdge", colours, "RandomFlip"]
    cfg.INPUT.COLOR_AUG_SSD = False
    assert colours not in [type(each).__name__ for each in build_point_rend_augmentations(cfg)]


def test_the_mean_square_of_many_half_numbers_is_finite():
    # Their sum is 200,000; float16 ends at 65,504.
    assert _mean_square(torch.full((2000,), 10.0, dtype=torch.float16)).item() == 100.0
    assert _mean_square(torch.zeros(0)).item() == 0.0
