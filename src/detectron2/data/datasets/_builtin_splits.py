"""Names of the builtin datasets, and where their files lie below the root."""

from __future__ import annotations

__all__ = [
    "_OFFERED_SPLITS_LVIS",
    "_PREDEFINED_SPLITS_ADE20K",
    "_PREDEFINED_SPLITS_COCO",
    "_PREDEFINED_SPLITS_COCO_PANOPTIC",
    "_PREDEFINED_SPLITS_LVIS",
    "_PREDEFINED_SPLITS_VOC",
    "_RAW_CITYSCAPES_SPLITS",
]

# Metadata family -> name -> (image folder, annotations).
_PREDEFINED_SPLITS_COCO: dict[str, dict[str, tuple[str, str]]] = {
    "coco": {
        "coco_2014_train": ("coco/train2014", "coco/annotations/instances_train2014.json"),
        "coco_2014_val": ("coco/val2014", "coco/annotations/instances_val2014.json"),
        "coco_2014_minival": ("coco/val2014", "coco/annotations/instances_minival2014.json"),
        "coco_2014_valminusminival": (
            "coco/val2014",
            "coco/annotations/instances_valminusminival2014.json",
        ),
        "coco_2017_train": ("coco/train2017", "coco/annotations/instances_train2017.json"),
        "coco_2017_val": ("coco/val2017", "coco/annotations/instances_val2017.json"),
        "coco_2017_test": ("coco/test2017", "coco/annotations/image_info_test2017.json"),
        "coco_2017_test-dev": ("coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
        "coco_2017_val_100": ("coco/val2017", "coco/annotations/instances_val2017_100.json"),
    },
    "coco_person": {
        "keypoints_coco_2014_train": (
            "coco/train2014",
            "coco/annotations/person_keypoints_train2014.json",
        ),
        "keypoints_coco_2014_val": (
            "coco/val2014",
            "coco/annotations/person_keypoints_val2014.json",
        ),
        "keypoints_coco_2014_minival": (
            "coco/val2014",
            "coco/annotations/person_keypoints_minival2014.json",
        ),
        "keypoints_coco_2014_valminusminival": (
            "coco/val2014",
            "coco/annotations/person_keypoints_valminusminival2014.json",
        ),
        "keypoints_coco_2017_train": (
            "coco/train2017",
            "coco/annotations/person_keypoints_train2017.json",
        ),
        "keypoints_coco_2017_val": (
            "coco/val2017",
            "coco/annotations/person_keypoints_val2017.json",
        ),
        "keypoints_coco_2017_val_100": (
            "coco/val2017",
            "coco/annotations/person_keypoints_val2017_100.json",
        ),
    },
}

# name -> (panoptic label images, panoptic JSON, semantic label images).
_PREDEFINED_SPLITS_COCO_PANOPTIC: dict[str, tuple[str, str, str]] = {
    f"coco_2017_{split}_panoptic": (
        f"coco/panoptic_{folder}",
        f"coco/annotations/panoptic_{folder}.json",
        f"coco/panoptic_stuff_{folder}",
    )
    for split, folder in (("train", "train2017"), ("val", "val2017"), ("val_100", "val2017_100"))
}

# Metadata family -> name -> (image folder, annotations).
_PREDEFINED_SPLITS_LVIS: dict[str, dict[str, tuple[str, str]]] = {
    "lvis_v1": {
        "lvis_v1_train": ("coco/", "lvis/lvis_v1_train.json"),
        "lvis_v1_val": ("coco/", "lvis/lvis_v1_val.json"),
        "lvis_v1_test_dev": ("coco/", "lvis/lvis_v1_image_info_test_dev.json"),
        "lvis_v1_test_challenge": ("coco/", "lvis/lvis_v1_image_info_test_challenge.json"),
    },
    "lvis_v0.5": {
        "lvis_v0.5_train": ("coco/", "lvis/lvis_v0.5_train.json"),
        "lvis_v0.5_val": ("coco/", "lvis/lvis_v0.5_val.json"),
        "lvis_v0.5_val_rand_100": ("coco/", "lvis/lvis_v0.5_val_rand_100.json"),
        "lvis_v0.5_test": ("coco/", "lvis/lvis_v0.5_image_info_test.json"),
    },
    "lvis_v0.5_cocofied": {
        "lvis_v0.5_train_cocofied": ("coco/", "lvis/lvis_v0.5_train_cocofied.json"),
        "lvis_v0.5_val_cocofied": ("coco/", "lvis/lvis_v0.5_val_cocofied.json"),
    },
}

# Offered: the original knows the metadata of this family but lists no dataset of it, and programs
# that go over all names should find the same ones here. Make the files as for v0.5.
_OFFERED_SPLITS_LVIS = {
    "lvis_v1_cocofied": {
        "lvis_v1_train_cocofied": ("coco/", "lvis/lvis_v1_train_cocofied.json"),
        "lvis_v1_val_cocofied": ("coco/", "lvis/lvis_v1_val_cocofied.json"),
    },
}

# {task} stands for instance_seg and sem_seg. name -> (images, annotations).
_RAW_CITYSCAPES_SPLITS = {
    f"cityscapes_fine_{{task}}_{split}": (
        f"cityscapes/leftImg8bit/{split}/",
        f"cityscapes/gtFine/{split}/",
    )
    for split in ("train", "val", "test")
}

# name -> (folder, split).
_PREDEFINED_SPLITS_VOC = {
    "voc_2007_trainval": ("VOC2007", "trainval"),
    "voc_2007_train": ("VOC2007", "train"),
    "voc_2007_val": ("VOC2007", "val"),
    "voc_2007_test": ("VOC2007", "test"),
    "voc_2012_trainval": ("VOC2012", "trainval"),
    "voc_2012_train": ("VOC2012", "train"),
    "voc_2012_val": ("VOC2012", "val"),
}

# name -> folder below "images" and "annotations_detectron2".
_PREDEFINED_SPLITS_ADE20K = {
    "ade20k_sem_seg_train": "training",
    "ade20k_sem_seg_val": "validation",
}
