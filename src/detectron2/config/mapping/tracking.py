"""Trackers. The default config has no TRACKER_HEADS node: whoever tracks adds it, and keys that
are left out keep the defaults of the constructors."""

TRACKER = {
    "video_height": "TRACKER_HEADS.VIDEO_HEIGHT",
    "video_width": "TRACKER_HEADS.VIDEO_WIDTH",
    "max_num_instances": "TRACKER_HEADS.MAX_NUM_INSTANCES",
    "max_lost_frame_count": "TRACKER_HEADS.MAX_LOST_FRAME_COUNT",
    "min_box_rel_dim": "TRACKER_HEADS.MIN_BOX_REL_DIM",
    "min_instance_period": "TRACKER_HEADS.MIN_INSTANCE_PERIOD",
    "track_iou_threshold": "TRACKER_HEADS.TRACK_IOU_THRESHOLD",
}
REQUIRED = ("video_height", "video_width")
