from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detectron2.structures import Boxes, Instances
from detectron2.utils.video_visualizer import VideoVisualizer, _DetectedInstance
from detectron2.utils.visualizer import ColorMode

HEIGHT, WIDTH = 80, 120
GRAY = 90


class Metadata(SimpleNamespace):
    def get(self, key, default=None):
        return getattr(self, key, default)


METADATA = Metadata(thing_classes=["cat", "dog"], stuff_classes=["sky", "grass"])


@pytest.fixture
def frame():
    return np.full((HEIGHT, WIDTH, 3), GRAY, dtype=np.uint8)


@pytest.fixture
def video():
    np.random.seed(0)
    return VideoVisualizer(METADATA)


def make_instances(boxes, classes=None, masks=False, **fields):
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes or [0] * len(boxes), dtype=torch.long)
    instances.scores = torch.full((len(boxes),), 0.9)
    if masks:
        instances.pred_masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes):
            mask[y0:y1, x0:x1] = True
    for name, value in fields.items():
        instances.set(name, value)
    return instances


BOXES = [[10, 10, 40, 40], [60, 20, 100, 70]]


class TestColors:
    def colors(self, video, boxes, classes=None):
        return video._colors_of(make_instances(boxes, classes))

    def test_an_instance_that_moves_a_little_keeps_its_color(self, video):
        first = self.colors(video, BOXES)
        moved = [[12, 11, 42, 41], [61, 22, 101, 72]]
        second = self.colors(video, moved[::-1])
        np.testing.assert_array_equal(second, first[::-1])

    def test_another_class_at_the_same_place_is_another_instance(self, video):
        self.colors(video, BOXES, [0, 1])
        self.colors(video, BOXES, [1, 0])
        assert [old.label for old in video._old_instances] == [1, 0, 0, 1]

    def test_a_jump_gets_a_new_color(self, video):
        self.colors(video, BOXES[:1])
        self.colors(video, [[80, 40, 110, 70]])
        assert len(video._old_instances) == 2

    @pytest.mark.parametrize(("gap", "kept"), [(6, True), (8, False)])
    def test_a_missed_instance_is_remembered_for_a_while(self, video, gap, kept):
        color = self.colors(video, BOXES[:1])[0]
        for _ in range(gap):
            self.colors(video, [])
        assert len(video._old_instances) == (1 if kept else 0)
        if kept:
            np.testing.assert_array_equal(self.colors(video, BOXES[:1])[0], color)

    def test_masks_are_compared_where_there_are_no_boxes(self, video):
        from hotcoco import mask as rle_codec

        def detected(shift):
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            mask[10:40, 10 + shift : 50 + shift] = True
            return [_DetectedInstance(0, None, rle_codec.encode(mask), None, 8)]

        first = video._assign_colors(detected(0))
        assert len(video._old_instances) == 1
        np.testing.assert_array_equal(video._assign_colors(detected(5)), first)
        assert len(video._old_instances) == 1
        video._assign_colors(detected(60))
        assert len(video._old_instances) == 2

    def test_identities_of_a_tracker_keep_their_color_while_they_are_seen(self, video):
        def colors(ids):
            return video._colors_of(make_instances(BOXES[: len(ids)], ID=ids))

        first = colors([7, 3])
        np.testing.assert_array_equal(colors([3, 7]), first[::-1])
        assert set(video._assigned_colors) == {7, 3}
        colors([3])
        assert set(video._assigned_colors) == {3}
        assert len(video._color_idx_set) == 73

    def test_more_identities_than_colors_share_them(self):
        video = VideoVisualizer(Metadata(max_num_instances=3))
        instances = make_instances([[0, 0, 5, 5]] * 8, ID=list(range(8)))
        assert len(video._colors_of(instances)) == 8
        assert video._color_idx_set == set()
        video._colors_of(make_instances([[0, 0, 5, 5]], ID=[0]))
        assert len(video._color_idx_set) == 2

    def test_colors_may_be_given(self, video, frame):
        instances = make_instances(BOXES[:1], masks=True, COLOR=[(1.0, 0.0, 0.0)])
        instances.remove("scores")
        instances.remove("pred_classes")
        picture = video.draw_instance_predictions(frame, instances).get_image()
        assert picture[25, 25, 0] > 150 > picture[25, 25, 1]


class TestDrawing:
    def test_boxes_are_drawn_only_without_masks(self, video, frame):
        for masks in (False, True):
            instances = make_instances(BOXES, masks=masks)
            if masks:
                instances.pred_masks[:] = False
                instances.pred_masks[:, :5, :5] = True
            picture = video.draw_instance_predictions(frame, instances).get_image()
            edge = (picture[55, 100] != GRAY).any()
            assert edge == (not masks)

    def test_an_empty_frame_stays_as_it_is(self, video, frame):
        picture = video.draw_instance_predictions(frame, make_instances([])).get_image()
        np.testing.assert_array_equal(picture, frame)

    def test_young_identities_are_not_drawn(self, frame):
        video = VideoVisualizer(Metadata(thing_classes=["cat"], period_threshold=2))
        instances = make_instances(BOXES, ID=[1, 2], ID_period=[2, 3])
        output = video.draw_instance_predictions(frame, instances)
        assert len(output.labels) == 1
        assert (output.get_image()[10, 10] == GRAY).all()

    def test_instances_without_boxes_and_masks_are_fine(self, video, frame):
        instances = Instances((HEIGHT, WIDTH), pred_classes=torch.tensor([0]))
        video.draw_instance_predictions(frame, instances)

    def test_black_and_white_keeps_colour_inside_of_masks(self):
        frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        video = VideoVisualizer(METADATA, ColorMode.IMAGE_BW)
        picture = video.draw_instance_predictions(
            frame, make_instances(BOXES, masks=True)
        ).get_image()
        outside = picture[75:]
        assert (outside == outside[..., :1]).all()

    def test_other_modes_are_refused(self):
        with pytest.raises(AssertionError, match="SEGMENTATION"):
            VideoVisualizer(METADATA, ColorMode.SEGMENTATION)

    def test_semantic_segmentation_is_drawn(self, video, frame):
        labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
        labels[40:] = 1
        output = video.draw_sem_seg(frame, labels)
        assert sorted(label.text for label in output.labels) == ["grass", "sky"]

    @pytest.mark.parametrize("mode", [ColorMode.IMAGE, ColorMode.IMAGE_BW])
    def test_things_of_panoptic_segmentations_keep_their_color(self, frame, mode):
        np.random.seed(0)
        video = VideoVisualizer(METADATA, mode)
        ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
        ids[:30], ids[40:70, 20:60] = 1, 2
        infos = [
            {"id": 1, "isthing": False, "category_id": 0},
            {"id": 2, "isthing": True, "category_id": 1},
        ]
        output = video.draw_panoptic_seg_predictions(frame, ids, infos)
        assert [label.text for label in output.labels] == ["sky", "dog"]
        color = video._old_instances[0].color
        video.draw_panoptic_seg_predictions(frame, ids.roll(2, dims=1), infos)
        np.testing.assert_array_equal(video._old_instances[0].color, color)

    def test_a_panoptic_segmentation_without_things_is_fine(self, video, frame):
        ids = torch.ones(HEIGHT, WIDTH, dtype=torch.int32)
        video.draw_panoptic_seg_predictions(
            frame, ids, [{"id": 1, "isthing": False, "category_id": 0}]
        )
