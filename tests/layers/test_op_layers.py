"""The layers over `detectron2.ops`; tests/ops proves the operators themselves."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.layers import (
    DeformConv,
    ModulatedDeformConv,
    ROIAlign,
    ROIAlignRotated,
    batched_nms,
    batched_nms_rotated,
    nms,
    nms_rotated,
    paste_masks_in_image,
    roi_align,
    roi_align_rotated,
)
from detectron2.layers.deform_conv import deform_conv, modulated_deform_conv
from detectron2.layers.mask_ops import (
    _do_paste_mask,
    _paste_masks_tensor_shape,
    pad_masks,
    paste_mask_in_image_old,
    scale_boxes,
)
from detectron2.layers.rotated_boxes import pairwise_iou_rotated
from detectron2.structures import Boxes

UPRIGHT = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 9]])
ROTATED = torch.tensor(
    [[5.0, 5, 10, 10, 0], [6, 5, 10, 10, 0], [55, 55, 10, 10, 30], [5, 5, 10, 9, 90]]
)
SCORES = torch.tensor([0.5, 0.9, 0.1, 0.8])
CLASSES = torch.tensor([0, 1, 0, 1])


class TestNMS:
    @pytest.mark.parametrize(("function", "boxes"), [(nms, UPRIGHT), (nms_rotated, ROTATED)])
    def test_the_best_of_each_group_is_kept(self, function, boxes):
        assert function(boxes, SCORES, 0.5).tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("function", "boxes"), [(batched_nms, UPRIGHT), (batched_nms_rotated, ROTATED)]
    )
    def test_classes_do_not_suppress_each_other(self, function, boxes, device):
        arguments = (t.to(device) for t in (boxes, SCORES, CLASSES))
        assert function(*arguments, 0.5).tolist() == [1, 0, 2]

    @pytest.mark.parametrize(
        ("function", "boxes"), [(batched_nms, UPRIGHT), (batched_nms_rotated, ROTATED)]
    )
    def test_half_precision_boxes_and_empty_input(self, function, boxes):
        assert function(boxes.half(), SCORES, CLASSES, 0.5).tolist() == [1, 0, 2]
        kept = function(boxes[:0], SCORES[:0], CLASSES[:0], 0.5)
        assert kept.shape == (0,) and kept.dtype == torch.int64

    def test_pairwise_iou_rotated_takes_tensors(self):
        assert_close(pairwise_iou_rotated(ROTATED, ROTATED).diagonal(), torch.ones(4))


class TestROIAlign:
    def test_a_plane_is_sampled_exactly(self, device):
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        plane = torch.stack((x, y))[None].to(device)
        rois = torch.tensor([[0.0, 4, 8, 16, 20]], device=device)
        pooled = ROIAlign((2, 3), 0.5, 2)(plane, rois)
        # The box is (2, 4)-(8, 10) on the map; cell i has its centre at i + 0.5.
        assert_close(pooled[0, 0, 0].cpu(), torch.tensor([2.5, 4.5, 6.5]))
        assert pooled[0, 1, 0, 0].item() == pytest.approx(5.0)

    def test_boxes_may_come_as_one_tensor_per_image(self):
        features = torch.randn(2, 3, 8, 8)
        per_image = [torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 7]]), torch.tensor([[2.0, 2, 6, 6]])]
        rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 1, 1, 5, 7], [1, 2, 2, 6, 6]])
        assert_close(roi_align(features, per_image, 4), roi_align(features, rois, (4, 4)))

    def test_settings_are_shown(self):
        assert repr(ROIAlign((7, 7), 0.25, 2)) == (
            "ROIAlign(output_size=(7, 7), spatial_scale=0.25, sampling_ratio=2, aligned=True)"
        )
        assert repr(ROIAlignRotated(7, 0.25, 2)) == (
            "ROIAlignRotated(output_size=7, spatial_scale=0.25, sampling_ratio=2)"
        )

    def test_rotated_at_angle_zero_is_upright(self):
        features = torch.randn(1, 3, 12, 12)
        upright = ROIAlign((3, 4), 1.0, 2)(features, torch.tensor([[0.0, 2, 3, 8, 9]]))
        rotated = ROIAlignRotated((3, 4), 1.0, 2)(features, torch.tensor([[0.0, 5, 6, 6, 6, 0]]))
        assert_close(rotated, upright, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_keeps_its_dtype(self, dtype):
        features, roi = torch.randn(1, 3, 12, 12), torch.tensor([[0.0, 5, 6, 6, 6, 20]])
        pooled = roi_align_rotated(features.to(dtype), roi, 4)
        assert pooled.dtype == dtype
        expected = roi_align_rotated(features.to(dtype).float(), roi, 4)
        assert_close(pooled.float(), expected, rtol=1e-2, atol=1e-2)
        assert ROIAlign(4, 1.0, 2)(features.to(dtype), roi[:, :5]).dtype == dtype

    @pytest.mark.parametrize(
        ("layer", "columns"), [(ROIAlign(4, 1.0, 0), 5), (ROIAlignRotated(4, 1.0, 0), 6)]
    )
    def test_rois_of_another_shape_are_refused(self, layer, columns):
        features = torch.zeros(1, 2, 4, 4)
        assert layer(features, torch.zeros(0, columns)).shape == (0, 2, 4, 4)
        with pytest.raises(ValueError, match=rf"\(K, {columns}\).* not \(3, 4\)"):
            layer(features, torch.zeros(3, 4))


class TestDeformConv:
    SETTINGS = {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2}

    def inputs(self, groups=1):
        return torch.randn(2, 4, 9, 8), torch.zeros(2, 18 * groups, 5, 4), torch.ones(2, 9, 5, 4)

    def test_without_offsets_it_is_a_convolution(self):
        x, offset, mask = self.inputs()
        plain, modulated = (
            DeformConv(4, 6, **self.SETTINGS),
            ModulatedDeformConv(4, 6, **self.SETTINGS),
        )
        settings = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}
        expected = F.conv2d(x, plain.weight, **settings)
        assert_close(plain(x, offset), expected, rtol=1e-4, atol=1e-5)
        nn.init.normal_(modulated.bias)
        expected = F.conv2d(x, modulated.weight, modulated.bias, **settings)
        assert_close(modulated(x, offset, mask), expected, rtol=1e-4, atol=1e-5)
        half = F.conv2d(x, modulated.weight, **settings) / 2 + modulated.bias.view(1, -1, 1, 1)
        assert_close(modulated(x, offset, mask / 2), half, rtol=1e-4, atol=1e-5)

    def test_offsets_are_vertical_then_horizontal(self):
        conv = DeformConv(1, 1, kernel_size=1)
        nn.init.ones_(conv.weight)
        x = torch.arange(20.0).view(1, 1, 4, 5)
        offset = torch.zeros(1, 2, 4, 5)
        offset[:, 0] = 1  # one row down
        assert_close(conv(x, offset)[0, 0, :3], x[0, 0, 1:])

    def test_norm_and_activation_run_last(self):
        x, offset, mask = self.inputs()
        norm = nn.BatchNorm2d(6).eval()
        nn.init.constant_(norm.bias, -0.5)
        for conv, extra in (
            (DeformConv(4, 6, norm=norm, activation=F.relu, **self.SETTINGS), ()),
            (ModulatedDeformConv(4, 6, norm=norm, activation=F.relu, **self.SETTINGS), (mask,)),
        ):
            y = conv(x, offset, *extra)
            conv.norm = conv.activation = None
            assert_close(y, F.relu(norm(conv(x, offset, *extra))))

    def test_an_empty_batch_gives_one(self):
        x, offset, mask = self.inputs()
        conv = ModulatedDeformConv(4, 6, **self.SETTINGS)
        assert conv(x[:0], offset[:0], mask[:0]).shape == (0, 6, 5, 4)

    def test_half_precision_input_needs_no_half_precision_layer(self):
        x, offset, mask = self.inputs()
        conv = ModulatedDeformConv(4, 6, **self.SETTINGS)
        y = conv(x.bfloat16(), offset.bfloat16(), mask.bfloat16())
        assert y.dtype == torch.bfloat16
        assert_close(y.float(), conv(x, offset, mask), rtol=5e-2, atol=5e-2)

    def test_channels_that_cannot_be_grouped_and_a_bias_are_refused(self):
        with pytest.raises(ValueError, match="4 input and 6 output channels .* 4 groups"):
            DeformConv(4, 6, 3, groups=4)
        with pytest.raises(ValueError, match="no bias"):
            DeformConv(4, 6, 3, bias=True)

    def test_convention_the_functions_take_positions(self):
        x, offset, mask = self.inputs()
        weight = torch.randn(6, 2, 3, 3)
        plain = deform_conv(x, offset, weight, 2, 2, 2, 2, 1, 64)
        modulated = modulated_deform_conv(x, offset, mask, weight, None, 2, 2, 2, 2, 1)
        assert_close(plain, modulated)

    def test_settings_are_shown(self):
        assert "stride=(2, 2), padding=(0, 0)" in repr(DeformConv(4, 6, 3, stride=2))
        assert repr(ModulatedDeformConv(4, 6, 3, stride=2)).endswith(
            "kernel_size=(3, 3), stride=2, padding=0, dilation=1, groups=1, "
            "deformable_groups=1, bias=True)"
        )


class TestPasteMasks:
    BOXES = torch.tensor([[2.0, 3, 12, 9], [-4, -4, 5, 5], [9.5, 0.2, 30, 40]])

    def masks(self):
        return torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))

    def test_ones_fill_their_box(self):
        pasted = paste_masks_in_image(torch.ones(1, 7, 7), self.BOXES[:1], (20, 16))
        expected = torch.zeros(1, 20, 16, dtype=torch.bool)
        expected[0, 3:9, 2:12] = True
        assert torch.equal(pasted, expected)

    def test_boxes_may_be_an_object(self):
        from_tensor = paste_masks_in_image(self.masks(), self.BOXES, (20, 16))
        assert torch.equal(
            paste_masks_in_image(self.masks(), Boxes(self.BOXES), (20, 16)), from_tensor
        )

    def test_a_negative_threshold_gives_soft_masks(self):
        soft = paste_masks_in_image(self.masks(), self.BOXES, (20, 16), threshold=-1)
        hard = paste_masks_in_image(self.masks(), self.BOXES, (20, 16), threshold=0.3)
        assert soft.dtype == torch.uint8
        clear = (soft.float() / 255 - 0.3).abs() > 0.01
        assert torch.equal((soft > 0.3 * 255)[clear], hard[clear])

    def test_quirk_no_masks_are_uint8(self):
        pasted = paste_masks_in_image(torch.zeros(0, 7, 7), torch.zeros(0, 4), (8, 10))
        assert pasted.shape == (0, 8, 10) and pasted.dtype == torch.uint8

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="square"):
            paste_masks_in_image(torch.zeros(1, 7, 8), self.BOXES[:1], (8, 10))
        with pytest.raises(ValueError, match="3 masks need as many boxes, not 2"):
            paste_masks_in_image(self.masks(), self.BOXES[:2], (8, 10))

    @pytest.mark.parametrize("skip_empty", [False, True])
    def test_the_soft_step_agrees_and_is_differentiable(self, skip_empty):
        masks = self.masks().requires_grad_()
        soft, place = _do_paste_mask(masks[:, None], self.BOXES, 20, 16, skip_empty)
        canvas = torch.zeros(3, 20, 16)
        canvas[(slice(None), *place)] = soft.detach()
        assert torch.equal(canvas >= 0.5, paste_masks_in_image(masks, self.BOXES, (20, 16)))
        soft.sum().backward()
        assert masks.grad.abs().sum() > 0
        assert place == ((slice(0, 20), slice(0, 16)) if skip_empty else ())

    def test_the_soft_step_skips_what_no_box_reaches(self):
        soft, place = _do_paste_mask(self.masks()[:1, None], self.BOXES[:1], 20, 16)
        assert place == (slice(2, 10), slice(1, 13))
        assert soft.shape == (1, 8, 12)

    def test_a_box_without_area_stays_empty(self):
        soft, _ = _do_paste_mask(torch.ones(1, 1, 4, 4), torch.full((1, 4), 3.5), 8, 8, False)
        assert soft.sum() == 0

    def test_shapes_may_be_tensors(self):
        shape = (torch.tensor(20), torch.tensor(16))
        assert torch.equal(
            _paste_masks_tensor_shape(self.masks(), self.BOXES, shape),
            paste_masks_in_image(self.masks(), self.BOXES, (20, 16)),
        )

    def test_padding_keeps_the_mask_in_the_middle(self):
        padded, scale = pad_masks(self.masks(), 2)
        assert padded.shape == (3, 11, 11) and scale == 11 / 7
        assert torch.equal(padded[:, 2:-2, 2:-2], self.masks())
        assert padded.sum().item() == pytest.approx(self.masks().sum().item())

    def test_scaled_boxes_keep_their_centres(self):
        scaled = Boxes(scale_boxes(self.BOXES, 1.5))
        assert_close(scaled.get_centers(), Boxes(self.BOXES).get_centers())
        assert_close(scaled.area(), Boxes(self.BOXES).area() * 2.25)

    def test_the_old_way_counts_both_corners_as_pixels(self):
        mask = paste_mask_in_image_old(torch.ones(7, 7), self.BOXES[0], 20, 16, 0.5)
        rows, columns = np.nonzero(mask.numpy())
        assert mask.dtype == torch.uint8
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 9, 2, 12)
        soft = paste_mask_in_image_old(torch.ones(7, 7) / 2, self.BOXES[1], 20, 16, -1)
        assert soft[:6, :6].eq(127).all() and soft.sum() == 127 * 36
        outside = paste_mask_in_image_old(torch.ones(7, 7), self.BOXES[0] + 100, 20, 16, 0.5)
        assert outside.sum() == 0
