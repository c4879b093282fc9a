"""Mask R-CNN R50-FPN from random weights with large-scale jitter, 100 epochs.

Stronger than the older baselines by longer training, jitter from 0.1 to 2, synchronized batch
norm everywhere and a deeper box head. 64 images per step.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.solver import WarmupParamScheduler

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.train import train

# --- model ---
model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.stem.norm = "SyncBN"
model.backbone.bottom_up.stages.norm = "SyncBN"
model.backbone.norm = "SyncBN"

model.proposal_generator.head.conv_dims = [-1, -1]

model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.fc_dims = [1024]
# GPUs hold different numbers of boxes; "N" weighs their statistics by it.
model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = lambda channels: (
    NaiveSyncBatchNorm(channels, stats_mode="N")
)

# --- data ---
image_size = 1024
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size
    ),
    L(T.FixedSizeCrop)(crop_size=(image_size, image_size)),
    L(T.RandomFlip)(horizontal=True),
]
# A crop cuts objects, so their boxes are taken from the masks again.
dataloader.train.mapper.recompute_boxes = True
dataloader.train.total_batch_size = 64

# --- schedule: 118000 images in steps of 64 are 1844 steps an epoch ---
train.max_iter = 184375
train.amp.enabled = True
train.ddp.fp16_compression = True

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[163889, 177546],
        num_updates=train.max_iter,
    ),
    warmup_length=500 / train.max_iter,
    warmup_factor=0.067,
)

optimizer.lr = 0.1
optimizer.weight_decay = 4e-5
