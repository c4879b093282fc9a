"""Narrow models and tiny datasets of DeepLab and Panoptic-DeepLab."""

import json

import numpy as np
import torch
from PIL import Image

from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

V3 = "DeepLab/Cityscapes-SemanticSegmentation/deeplab_v3_R_103_os16_mg124_poly_90k_bs16.yaml"
V3_PLUS = (
    "DeepLab/Cityscapes-SemanticSegmentation/deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16.yaml"
)
PANOPTIC = (
    "PanopticDeepLab/Cityscapes-PanopticSegmentation/"
    "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024.yaml"
)
PANOPTIC_SEPARABLE = PANOPTIC.replace(".yaml", "_dsconv.yaml")
SIDE = 64
CLASSES = 4
THINGS = {7: 2, 8: 3}  # id in the annotations: class
DIVISOR = 1000

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 8,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [1, 2],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.0,
    "INPUT.CROP.SIZE": [SIDE, SIDE],
    "INPUT.MIN_SIZE_TRAIN": (SIDE, 80),
    "INPUT.MIN_SIZE_TEST": SIDE,
    "INPUT.MAX_SIZE_TEST": SIDE,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
}
SMALL_PANOPTIC = {
    "DATASETS.TRAIN": ("tiny_panoptic",),
    "DATASETS.TEST": ("tiny_panoptic",),
    "INPUT.GAUSSIAN_SIGMA": 2,
    "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": 8,
    "MODEL.INS_EMBED_HEAD.NORM": "BN",
    "MODEL.INS_EMBED_HEAD.CONVS_DIM": 8,
    "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS": 8,
    "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": 8,
    "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS": [1, 2],
    "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT": 0.0,
    "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA": 4,
}


def small_config(name, **changes):
    """Config of the zoo with the numbers above; `changes` with __ for dots."""
    cfg = model_zoo.get_config(name)
    options = {**SMALL, **(SMALL_PANOPTIC if "Panoptic" in name else {})}
    options.update({key.replace("__", "."): value for key, value in changes.items()})
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    return cfg


def small_model(name, **changes):
    torch.manual_seed(0)
    return build_model(small_config(name, **changes))


def pixels(count=2, side=SIDE, seed=0):
    """`count` images (3, side, side) of values 0 to 255."""
    values = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return list(values * 255)


def panoptic_scene(height=SIDE, width=SIDE):
    """(H, W) segment ids and their records: two stuff regions, two things and a crowd.

    Rows and columns 0 to 3 belong to no segment.
    """
    ids = np.full((height, width), 10, np.int32)
    ids[height // 2 :] = 11
    ids[8:20, 10:30] = 2000
    ids[30:50, 36:60] = 70000  # needs three bytes
    ids[52:60, 6:20] = 3000
    ids[:4] = 0
    ids[:, :4] = 0
    segments = [
        {"id": 2000, "category_id": 2, "iscrowd": 0},
        {"id": 10, "category_id": 0, "iscrowd": 0},
        {"id": 70000, "category_id": 3, "iscrowd": 0},
        {"id": 11, "category_id": 1, "iscrowd": 0},
        {"id": 3000, "category_id": 3, "iscrowd": 1},
    ]
    return ids, segments


def write_panoptic_dataset(folder, count=2):
    """Register "tiny_panoptic": `count` pictures of one scene, as COCO's format has it."""
    ids, segments = panoptic_scene()
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    (folder / "labels").mkdir()
    numbers = {0: 1, 1: 2, 2: 7, 3: 8}
    records, annotations = [], []
    for i in range(count):
        picture = (colors * 37 + i * 11).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
        Image.fromarray(colors).save(folder / "labels" / f"{i}.png")
        records.append(
            {
                "file_name": str(folder / f"{i}.png"),
                "pan_seg_file_name": str(folder / "labels" / f"{i}.png"),
                "image_id": i,
                "height": SIDE,
                "width": SIDE,
                "segments_info": segments,
            }
        )
        annotations.append(
            {
                "image_id": i,
                "file_name": f"{i}.png",
                "segments_info": [
                    {
                        **segment,
                        "category_id": numbers[segment["category_id"]],
                        "area": int((ids == segment["id"]).sum()),
                    }
                    for segment in segments
                ],
            }
        )
    categories = [
        {"id": number, "name": f"kind {label}", "isthing": int(label >= 2)}
        for label, number in numbers.items()
    ]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(count)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    DatasetCatalog.register("tiny_panoptic", lambda: records)
    set_panoptic_metadata(
        panoptic_root=str(folder / "labels"), panoptic_json=str(folder / "panoptic.json")
    )
    return records


def set_panoptic_metadata(**entries):
    names = [f"kind {label}" for label in range(CLASSES)]
    MetadataCatalog.get("tiny_panoptic").set(
        thing_dataset_id_to_contiguous_id=THINGS,
        stuff_dataset_id_to_contiguous_id={1: 0, 2: 1},
        thing_classes=names,
        stuff_classes=names,
        ignore_label=255,
        label_divisor=DIVISOR,
        evaluator_type="coco_panoptic_seg",
        **entries,
    )


def forget_panoptic_dataset():
    if "tiny_panoptic" in DatasetCatalog.list():
        DatasetCatalog.remove("tiny_panoptic")
    if "tiny_panoptic" in MetadataCatalog.list():
        MetadataCatalog.remove("tiny_panoptic")
