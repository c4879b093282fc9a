"""Keys of the data mapper, its augmentations and the loaders."""

DATASET_MAPPER = {
    "image_format": "INPUT.FORMAT",
    "use_instance_mask": "MODEL.MASK_ON",
    "instance_mask_format": "INPUT.MASK_FORMAT",
    "use_keypoint": "MODEL.KEYPOINT_ON",
}

RESIZE_TRAIN = {
    "short_edge_length": "INPUT.MIN_SIZE_TRAIN",
    "max_size": "INPUT.MAX_SIZE_TRAIN",
    "sample_style": "INPUT.MIN_SIZE_TRAIN_SAMPLING",
}

RESIZE_TEST = {
    "short_edge_length": "INPUT.MIN_SIZE_TEST",
    "max_size": "INPUT.MAX_SIZE_TEST",
}

LARGE_SCALE_JITTER = {
    "size": "INPUT.JITTER.SIZE",
    "min_scale": "INPUT.JITTER.MIN_SCALE",
    "max_scale": "INPUT.JITTER.MAX_SCALE",
}

RANDOM_CROP = {
    "crop_type": "INPUT.CROP.TYPE",
    "crop_size": "INPUT.CROP.SIZE",
}

TRAIN_DATASET = {
    "names": "DATASETS.TRAIN",
    "filter_empty": "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "check": "DATALOADER.CHECK",
}

TRAIN_LOADER = {
    "total_batch_size": "SOLVER.IMS_PER_BATCH",
    "aspect_ratio_grouping": "DATALOADER.ASPECT_RATIO_GROUPING",
    "num_workers": "DATALOADER.NUM_WORKERS",
    "unreadable_budget": "DATALOADER.UNREADABLE_BUDGET",
}

TEST_LOADER = {
    "num_workers": "DATALOADER.NUM_WORKERS",
}

REPEAT_FACTORS = {
    "repeat_thresh": "DATALOADER.REPEAT_THRESHOLD",
    "sqrt": "DATALOADER.REPEAT_SQRT",
}
