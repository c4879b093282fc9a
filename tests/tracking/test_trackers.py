import copy

import numpy as np
import pytest
import torch

import detectron2.tracking as tracking
from detectron2.config import CfgNode, instantiate
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.tracking import build_tracker_head, create_prediction_pairs
from detectron2.tracking.utils import LARGE_COST_VALUE

HEIGHT, WIDTH = 600, 800
CONCRETE = (
    "BBoxIOUTracker",
    "VanillaHungarianBBoxIOUTracker",
    "IOUWeightedHungarianBBoxIOUTracker",
)
HUNGARIAN = CONCRETE[1:]
LEFT, RIGHT = [101.0, 101, 200, 200], [301.0, 301, 450, 450]


def make(name, **options):
    return getattr(tracking, name)(**{"video_height": HEIGHT, "video_width": WIDTH, **options})


def frame(*boxes, size=(HEIGHT, WIDTH), **fields):
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.ones(len(boxes))
    for name, value in fields.items():
        instances.set(name, value)
    return instances


@pytest.fixture(params=CONCRETE)
def name(request):
    return request.param


class TestUpdate:
    def test_instances_keep_their_identity_in_any_order(self, name):
        tracker = make(name)
        first = tracker.update(frame(LEFT, RIGHT))
        assert (first.ID, first.ID_period, first.lost_frame_count) == ([0, 1], [1, 1], [0, 0])
        second = tracker.update(frame([301, 305, 448, 452], [99, 101, 200, 202]))
        assert (second.ID, second.ID_period) == ([1, 0], [2, 2])

    def test_a_new_instance_gets_the_next_identity(self, name):
        tracker = make(name)
        tracker.update(frame(LEFT))
        second = tracker.update(frame(RIGHT, LEFT))
        assert second.ID == [1, 0]
        assert second.ID_period == [1, 2]

    def test_a_missed_instance_follows_at_the_end_until_it_is_forgotten(self, name):
        tracker = make(name, max_lost_frame_count=2, min_instance_period=1)
        for _ in range(2):
            tracker.update(frame(LEFT, RIGHT))
        counts = []
        for _ in range(4):
            result = tracker.update(frame(LEFT))
            counts.append(list(zip(result.ID, result.lost_frame_count)))
        assert counts == [[(0, 0), (1, 1)], [(0, 0), (1, 2)], [(0, 0)], [(0, 0)]]

    def test_a_missed_instance_gets_its_identity_back(self, name):
        tracker = make(name, max_lost_frame_count=2)
        for _ in range(2):
            tracker.update(frame(LEFT, RIGHT))
        tracker.update(frame(LEFT))
        back = tracker.update(frame(RIGHT, LEFT))
        assert (back.ID, back.lost_frame_count) == ([1, 0], [0, 0])
        assert back.ID_period[0] == 3  # the missed frame does not count

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({}, True),
            ({"max_lost_frame_count": 0}, False),
            ({"min_instance_period": 2}, False),
            ({"min_box_rel_dim": 0.2}, False),  # 149 of 800 pixels wide
        ],
    )
    def test_what_is_missed_is_remembered_only_if_it_is_worth_it(self, name, options, kept):
        tracker = make(name, **{"max_lost_frame_count": 3, **options})
        for _ in range(2):
            tracker.update(frame(LEFT, RIGHT))
        assert len(tracker.update(frame(LEFT))) == (2 if kept else 1)

    def test_other_fields_of_missed_instances_come_along(self, name):
        masks = torch.zeros(2, 6, 8, dtype=torch.bool)
        masks[1, 2, 3] = True
        fields = {
            "pred_classes": torch.tensor([4, 5]),
            "pred_masks": masks,
            "pred_keypoints": torch.tensor([[[1.5, 2, 3]], [[4.25, 5, 6]]]),
        }
        tracker = make(name, max_lost_frame_count=3)
        for _ in range(2):
            tracker.update(frame(LEFT, RIGHT, **fields))
        one = {key: value[:1] for key, value in fields.items()}
        result = tracker.update(frame(LEFT, **one))
        assert result.ID == [0, 1]
        assert result.pred_classes.tolist() == [4, 5]
        assert result.pred_masks.dtype == torch.bool
        assert result.pred_masks[1, 2, 3]
        assert result.pred_keypoints[1].tolist() == [[4.25, 5, 6]]  # not cut to integers

    def test_frames_without_instances_are_fine(self, name):
        tracker = make(name, max_lost_frame_count=3)
        assert len(tracker.update(frame())) == 0
        assert tracker.update(frame(LEFT)).ID == [0]
        tracker.update(frame(LEFT))
        lost = tracker.update(frame())
        assert (lost.ID, lost.lost_frame_count) == ([0], [1])

    def test_the_size_may_be_a_tensor_and_masks_may_be_integers(self, name):
        tracker = make(name, max_lost_frame_count=3)
        size = torch.IntTensor([HEIGHT, WIDTH])
        masks = torch.ones(2, 6, 8, dtype=torch.int32)
        for _ in range(2):
            tracker.update(frame(LEFT, RIGHT, size=size, pred_masks=masks))
        result = tracker.update(frame(LEFT, size=size, pred_masks=masks[:1]))
        assert result.ID == [0, 1]
        assert result.pred_masks.dtype == torch.int32

    def test_what_the_caller_does_with_a_result_does_not_change_the_state(self, name):
        tracker = make(name)
        result = tracker.update(frame(LEFT, RIGHT))
        result.pred_boxes.tensor += 1000
        result.ID[0] = 99
        assert tracker.update(frame(LEFT, RIGHT)).ID == [0, 1]


class TestMatching:
    def test_the_first_overlapping_pair_wins_without_assignment(self):
        tracker = make("BBoxIOUTracker", track_iou_threshold=0.3)
        tracker.update(frame(LEFT))
        better, worse = [102.0, 102, 201, 201], [120.0, 120, 220, 220]
        assert tracker.update(frame(worse, better)).ID == [0, 1]

    def test_below_the_threshold_an_instance_is_new(self):
        for threshold, expected in ((0.6, [0]), (0.7, [1])):
            tracker = make("BBoxIOUTracker", track_iou_threshold=threshold)
            tracker.update(frame([0.0, 0, 100, 100]))
            assert expected == tracker.update(frame([0.0, 0, 100, 150])).ID  # IoU 2/3

    @pytest.mark.parametrize("name", HUNGARIAN)
    def test_quirk_leftovers_are_paired_however_far_apart(self, name):
        # The assignment pairs as many as it can, and costs are not looked at afterwards.
        tracker = make(name)
        tracker.update(frame(LEFT))
        assert tracker.update(frame(RIGHT)).ID == [0]

    def test_quirk_weights_below_one_are_rounded_to_nothing(self):
        tracker = make("IOUWeightedHungarianBBoxIOUTracker", track_iou_threshold=0.3)
        tracker.update(frame(LEFT))
        better, worse = [102.0, 102, 201, 201], [120.0, 120, 220, 220]
        assert tracker.update(frame(worse, better)).ID == [0, 1]

    def test_a_subclass_can_have_real_weights(self):
        class Weighted(tracking.IOUWeightedHungarianBBoxIOUTracker):
            cost_dtype = np.float64

        tracker = Weighted(video_height=HEIGHT, video_width=WIDTH, track_iou_threshold=0.3)
        tracker.update(frame(LEFT))
        better, worse = [102.0, 102, 201, 201], [120.0, 120, 220, 220]
        assert tracker.update(frame(worse, better)).ID == [1, 0]

    @pytest.mark.parametrize(
        ("name", "expected"), [(HUNGARIAN[0], (-1, -1)), (HUNGARIAN[1], (-0.6, -0.8))]
    )
    def test_costs_are_written_where_the_pairs_are(self, name, expected):
        pairs = [{"idx": 0, "prev_idx": 1, "IoU": 0.6}, {"idx": 1, "prev_idx": 0, "IoU": 0.8}]
        matrix = np.full((2, 2), np.inf)
        got = make(name).assign_cost_matrix_values(matrix, pairs)
        assert got is matrix
        assert (matrix[0, 1], matrix[1, 0]) == expected
        assert np.isinf(matrix.diagonal()).all()

    @pytest.mark.parametrize("name", HUNGARIAN)
    def test_pairs_below_the_threshold_have_a_large_cost(self, name):
        tracker = make(name)
        now = frame(LEFT, RIGHT)
        before = tracker.update(frame(RIGHT))
        costs = tracker.build_cost_matrix(now, before)
        assert costs.shape == (2, 1)
        assert costs[0, 0] == LARGE_COST_VALUE
        assert costs[1, 0] <= 0


class TestSteps:
    """Methods that subclasses and the trackers' own tests call."""

    def test_extra_fields_are_numbered_on_the_first_frame_only(self, name):
        tracker = make(name)
        first = tracker._initialize_extra_fields(frame(LEFT, RIGHT))
        assert (first.ID, first.ID_period, first.lost_frame_count) == ([0, 1], [1, 1], [0, 0])
        tracker._prev_instances = first
        assert tracker._initialize_extra_fields(frame(LEFT)).ID == [None]

    def test_unmatched_instances_get_new_identities(self):
        tracker = make("BBoxIOUTracker")
        instances = tracker._initialize_extra_fields(frame(LEFT, RIGHT))
        tracker._prev_instances = copy.deepcopy(instances)
        tracker._reset_fields()
        assert tracker._assign_new_id(instances).ID == [2, 3]

    @pytest.mark.parametrize("name", HUNGARIAN)
    def test_the_three_kinds_of_instances_are_processed_one_by_one(self, name):
        tracker = make(name, max_lost_frame_count=3, min_box_rel_dim=0.0)
        before = tracker._initialize_extra_fields(frame(LEFT, RIGHT))
        before.ID_period = [3, 3]
        tracker._prev_instances = before
        now = tracker._initialize_extra_fields(frame(RIGHT, [500, 500, 590, 590]))
        now = tracker._process_matched_idx(now, [0], [1])
        assert now.ID[0] == 1
        now = tracker._process_unmatched_idx(now, [0])
        assert now.ID == [1, 2]
        now = tracker._process_unmatched_prev_idx(now, [1])
        assert now.ID == [1, 2, 0]
        assert now.lost_frame_count == [0, 0, 1]

    def test_pairs_are_listed_by_index(self):
        now, before = frame(LEFT, RIGHT), frame(RIGHT, LEFT, LEFT)
        before.ID, before.ID_period = [5, 6, 7], [1, 2, 3]
        iou = pairwise_iou(now.pred_boxes, before.pred_boxes)
        pairs = create_prediction_pairs(now, before, iou, threshold=0.5)
        assert [(p["idx"], p["prev_idx"], p["prev_id"], p["prev_period"]) for p in pairs] == [
            (0, 1, 6, 2),
            (0, 2, 7, 3),
            (1, 0, 5, 1),
        ]
        assert all(pair["IoU"] == pytest.approx(1.0) for pair in pairs)


class TestConstruction:
    def config(self, name, **more):
        node = {"TRACKER_NAME": name, "VIDEO_HEIGHT": HEIGHT, "VIDEO_WIDTH": WIDTH, **more}
        return CfgNode({"TRACKER_HEADS": node})

    def test_a_config_names_the_tracker_and_its_settings(self, name):
        cfg = self.config(
            name,
            MAX_NUM_INSTANCES=10,
            MAX_LOST_FRAME_COUNT=2,
            MIN_BOX_REL_DIM=0.1,
            MIN_INSTANCE_PERIOD=4,
            TRACK_IOU_THRESHOLD=0.25,
        )
        tracker = build_tracker_head(cfg)
        assert type(tracker).__name__ == name
        assert (tracker._video_height, tracker._video_width) == (HEIGHT, WIDTH)
        assert (tracker._max_num_instances, tracker._max_lost_frame_count) == (10, 2)
        assert (tracker._min_box_rel_dim, tracker._min_instance_period) == (0.1, 4)
        assert tracker._track_iou_threshold == 0.25

    def test_keys_that_are_left_out_keep_the_defaults(self, name):
        plain, configured = make(name), build_tracker_head(self.config(name))
        assert vars(plain) == vars(configured)

    def test_the_size_of_the_video_is_required(self, name):
        cfg = self.config(name)
        del cfg.TRACKER_HEADS["VIDEO_WIDTH"]
        with pytest.raises(AssertionError, match=r"TRACKER_HEADS\.VIDEO_WIDTH"):
            build_tracker_head(cfg)

    def test_a_target_builds_a_tracker(self, name):
        settings = {"video_height": HEIGHT, "video_width": WIDTH, "track_iou_threshold": 0.5}
        for kind in (getattr(tracking, name), tracking.BaseHungarianTracker):
            target = f"{kind.__module__}.{kind.__qualname__}"
            assert type(instantiate({"_target_": target, **settings})) is kind

    def test_bases_say_what_they_lack(self):
        with pytest.raises(NotImplementedError, match="BaseTracker has no update"):
            tracking.BaseTracker().update(frame())
        base = make("BaseHungarianTracker")
        base.update(frame(LEFT))
        with pytest.raises(NotImplementedError, match="build_cost_matrix"):
            base.update(frame(LEFT))
        with pytest.raises(NotImplementedError, match="config"):
            tracking.BaseHungarianTracker.from_config(None)

    def test_own_trackers_can_be_registered(self):
        @tracking.TRACKER_HEADS_REGISTRY.register()
        class TrackerOfThisTest(tracking.BaseTracker):
            @classmethod
            def from_config(cls, cfg):
                return {}

        cfg = CfgNode({"TRACKER_HEADS": {"TRACKER_NAME": "TrackerOfThisTest"}})
        assert isinstance(build_tracker_head(cfg), TrackerOfThisTest)


def test_importing_loads_no_heavy_library():
    import subprocess
    import sys

    heavy = {"scipy", "hotcoco", "matplotlib", "cv2", "pycocotools", "torchvision"}
    modules = "evaluation", "tracking", "utils.visualizer", "utils.video_visualizer"
    lines = [f"import detectron2.{module}" for module in modules]
    lines += ["import sys", f"loaded = {heavy!r} & set(sys.modules)", "assert not loaded, loaded"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
